"""The seam between channelcut and the library that a network comes from."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from channelcut.core.deployed import Deploy, Deployed
from channelcut.recovery.images import Preprocessing


class Adapter(Protocol):
    """What differs from library to library: what of a network is deployed, and how."""

    def owns(self, model: nn.Module) -> bool:
        """Whether the network is one of the library's."""

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:
        """How images become inputs of the network; None where the library does not say."""

    def deployed(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
        """The form that runs in production, made of a copy.

        Args:
            model: a trainable network, cut or not.
            inputs: the positional inputs of one forward.
            deploy: what is asked for.
            dynamic: whether the file leaves sizes open.

        Raises:
            UserError: the library deploys no such network, or not with these inputs.
        """

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """The paths of the modules that deployment leaves out."""
