"""Networks of no library that is known here: what runs is their forward, or some of its outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut.core.copies import private_copy
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.errors import UserError
from channelcut.core.graph import is_named, tensor_paths
from channelcut.recovery.distil.losses import Teaching
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

    def store(self, model: nn.Module, folder: Path) -> None:
        """Nothing beside the tensors and the plan."""

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """None: which modules the outputs need is seen in the trace."""
        refuse_nms(model, deploy)
        return ()

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:  # noqa: ARG002  nobody says
        """Not known."""
        return None

    def teaching(self, model: nn.Module) -> Teaching:  # noqa: ARG002  nothing is known of it
        """Every output by itself."""
        return Teaching()

    def is_data_set(self, model: nn.Module, data: Any) -> bool:  # noqa: ARG002  no network has one here
        """Never: images come from a folder, see `recovery.images`."""
        return False

    def images(
        self,
        model: nn.Module,
        data: str | Path,
        shape: tuple[int, int, int],  # noqa: ARG002
        preprocessing: Preprocessing | None = None,  # noqa: ARG002
        limit: int = 256,  # noqa: ARG002
    ) -> tuple[Tensor, list[str]]:
        """None: there are no data sets of these networks."""
        raise UserError(f"{data} is no data set that is known for {type(model).__name__}. Give a folder of images.")

    def check_data(self, model: nn.Module, data: str | Path) -> None:
        """Nothing is evaluated."""

    def evaluate(
        self,
        model: nn.Module | str | Path,  # noqa: ARG002
        data: str | Path,  # noqa: ARG002
        *,
        imgsz: int | tuple[int, int],  # noqa: ARG002
        nms: bool | None = None,  # noqa: ARG002
        batch: int = 16,  # noqa: ARG002
        on_progress: Callable[[int, int], None] | None = None,  # noqa: ARG002
    ) -> dict[str, float] | None:
        """None: nobody knows what their outputs mean."""
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
