"""Ultralytics: `YOLO` and `train` with trainers that keep a cut network, and checkpoints that their package loads.

from channelcut.adapters.ultralytics import YOLO

result = channelcut.prune(model, x, macs=0.6)
YOLO(result).train(data="data.yaml", epochs=50)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from channelcut.adapters.ultralytics.version import require_ultralytics

if TYPE_CHECKING:
    from channelcut.adapters.ultralytics.checkpoint import save_checkpoint
    from channelcut.adapters.ultralytics.training import TrainedResult, train
    from channelcut.adapters.ultralytics.yolo import RTDETR, YOLO

_HOME = {
    "channelcut.adapters.ultralytics.checkpoint": ("save_checkpoint",),
    "channelcut.adapters.ultralytics.training": ("TrainedResult", "train"),
    "channelcut.adapters.ultralytics.yolo": ("RTDETR", "YOLO"),
}

__all__ = ["RTDETR", "YOLO", "TrainedResult", "save_checkpoint", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that only those who use it need Ultralytics."""
    for module, names in _HOME.items():
        if name in names:
            require_ultralytics(f"channelcut.ultralytics.{name}")
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
