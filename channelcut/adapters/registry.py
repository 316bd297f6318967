"""Which adapter a network belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

from channelcut.adapters.plain import Plain
from channelcut.adapters.protocol import Adapter
from channelcut.adapters.timm import Timm
from channelcut.adapters.torchvision import Torchvision
from channelcut.adapters.ultralytics.adapter import Ultralytics
from channelcut.core.deployed import Deploy, Deployed
from channelcut.recovery.images import Preprocessing

_ADAPTERS: tuple[Adapter, ...] = (Ultralytics(), Torchvision(), Timm(), Plain())  # the first that owns a network has it


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter of the library that a network comes from; the plain one where none knows it."""
    return next(adapter for adapter in _ADAPTERS if adapter.owns(model))


def deployed_form(model: nn.Module, inputs: tuple[Any, ...], deploy: Deploy, *, dynamic: bool = False) -> Deployed:
    """What of a network runs in production, see `Adapter.deployed`."""
    return adapter_of(model).deployed(model, inputs, deploy, dynamic=dynamic)


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """How images become inputs of a network, see `Adapter.preprocessing`."""
    return adapter_of(model).preprocessing(model)
