"""The adapter of Ultralytics' networks; nothing here imports the library before a network of it is at hand."""

from __future__ import annotations

from typing import Any

from torch import nn

from channelcut.core.deployed import Deploy, Deployed
from channelcut.recovery.images import Preprocessing


class Ultralytics:
    """Detectors, segmenters, pose and oriented boxes, classifiers, RT-DETR."""

    def owns(self, model: nn.Module) -> bool:
        """Whether the class of the whole network is the library's; a layer of theirs in another network is not it."""
        return any(kind.__module__ == "ultralytics.nn.tasks" for kind in type(model).__mro__)

    def preprocessing(self, model: nn.Module) -> Preprocessing | None:  # noqa: ARG002  of every task
        """Stretched, divided by 255: what `Preprocessing` does by default."""
        return None

    def deployed(self, model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
        """What Ultralytics' exporter would write, see `deployed.deployed_form`."""
        from channelcut.adapters.ultralytics.deployed import deployed_form

        return deployed_form(model, inputs, deploy, dynamic=dynamic)

    def undeployed(self, model: nn.Module, deploy: Deploy) -> tuple[str, ...]:
        """The head that the call does not select, and what only training uses."""
        from channelcut.adapters.ultralytics.deployed import undeployed_modules

        return undeployed_modules(model, deploy)
