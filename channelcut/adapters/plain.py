"""Networks of no library that is known here: what runs is their forward, or some of its outputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from channelcut.core.copies import private_copy
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.errors import UserError
from channelcut.core.graph import is_named, tensor_paths
from channelcut.recovery.images import Preprocessing


class Plain:
    """The adapter of every network that no other one owns."""

    def owns(self, model: nn.Module) -> bool:  # noqa: ARG002  whatever it is
        """Always."""
        return True

    def deployed(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        deploy: Deploy,
        *,
        dynamic: bool = False,  # noqa: ARG002  the same module either way
    ) -> Deployed:
        """The module, and of its outputs those that are read. Batch norms are folded when the file is written."""
        refuse_nms(model, deploy)
        return Deployed(_Chosen(model, deploy.outputs) if deploy.outputs else model, inputs)

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """None: which modules the outputs need is seen in the trace."""
        refuse_nms(model, deploy)
        return ()

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:  # noqa: ARG002  nobody says
        """Not known."""
        return None


def refuse_nms(model: nn.Module, deploy: Deploy) -> None:
    """Refuse a choice that only Ultralytics' detectors have."""
    if deploy.nms is not None:
        raise UserError(
            f"nms={deploy.nms} chooses between the heads of Ultralytics' detectors, and {type(model).__name__} is none "
            "of them. Leave it out; what the forward returns is what the file returns."
        )


class _Chosen(nn.Module):
    """Returns the outputs of a network that patterns name, in order, under their paths."""

    def __init__(self, model: nn.Module, patterns: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.patterns = private_copy(model), patterns

    def forward(self, *inputs: Any) -> dict[str, Tensor]:
        """Run the network."""
        found = tensor_paths(self.model(*inputs))
        return {path: tensor for path, tensor in found if is_named(path, self.patterns)}
