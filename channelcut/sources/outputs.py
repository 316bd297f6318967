"""What is known of the outputs of libraries: whose channels nobody counts, and which flag makes them tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Uncounted:
    """Outputs whose channels the library of a network does not count.

    Args:
        module: a pattern on the module that the network's class is from.
        name: a pattern on the name of the class.
        outputs: patterns of the paths of such outputs, in evaluation and in training.
        why: who reads them, and for what, in words.
    """

    module: str
    name: str
    outputs: tuple[str, ...]
    why: str


# What a network is, is told by its class. Heads whose raw maps hold boxes and scores (YOLOv5, YOLOv7, YOLOv9) return no
# feature maps, so that they have no entry.
_UNCOUNTED = (
    Uncounted(
        "ultralytics.*",
        "*",
        ("feats.*", "*.feats.*"),
        "Ultralytics reads the feature maps beside the predictions for their resolution alone",
    ),
    Uncounted(
        "*yolov6.models.yolo*",
        "Model",
        ("1.*", "0.0.*"),
        "YOLOv6 reads the feature maps beside the predictions for their resolution, and to distil them, alone",
    ),
    Uncounted(
        "*backbone",
        "EfficientDetBackbone",
        ("0.*",),
        "EfficientDetBackbone's readers leave out the feature maps that it returns beside boxes, classes and anchors",
    ),
)
_TENSORS = {
    "doctr": "docTR's models return their tensors when they are built with exportable=True",
    "detectron2": "detectron2.export.TracingAdapter(model, inputs) returns the tensors of detectron2's models",
}


def uncounted_outputs(model: nn.Module) -> Uncounted | None:
    """The outputs of `model` that may lose channels, where the class that it is of, or derived from, is known."""
    kinds = type(model).__mro__
    return next(
        (
            known
            for known in _UNCOUNTED
            for kind in kinds
            if fnmatchcase(kind.__module__, known.module) and fnmatchcase(kind.__name__, known.name)
        ),
        None,
    )


def tensorless(model: nn.Module, result: Any) -> str:
    """Why a model whose forward returned `result`, without a tensor, cannot be analysed, and what helps."""
    hints = (_TENSORS.get(type(module).__module__.partition(".")[0]) for module in model.modules())
    hint = next((hint for hint in hints if hint), "")
    return (
        f"The forward of {type(model).__name__} returns no tensor but {_described(result)}, so that nothing says which "
        "channels of its last layers are counted, and nothing could be proven. Expected: a tensor, or lists, tuples or "
        "dicts that hold tensors. "
        + (
            f"{hint}."
            if hint
            else "Give the part of the model that computes them, or a module whose forward returns what comes before "
            "decoding."
        )
    )


def _described(value: Any, depth: int = 2) -> str:
    """The types of a nested value in a few words, as in `a dict (preds: a list of tuple)`."""
    kind = type(value).__name__
    if isinstance(value, Mapping) and value and depth:
        inside = ", ".join(f"{key}: {_described(item, depth - 1)}" for key, item in list(value.items())[:4])
        return f"{kind} ({inside}{', ...' if len(value) > 4 else ''})"
    if isinstance(value, (list, tuple)) and value and depth:
        return f"{kind} of {', '.join(dict.fromkeys(_described(item, depth - 1) for item in value[:4]))}"
    return kind
