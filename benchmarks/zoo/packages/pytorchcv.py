"""pytorchcv: the first model of every file, which is its smallest."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from benchmarks.zoo.catalogue import Example

DISTRIBUTION = "pytorchcv"
SIDE = 256
LARGEST = 320
SOUND = {"jasper", "jasperdr", "quartznet"}
# Not models of one image: what they take are several tensors of a pipeline of their own.
APART = {"voca", "nvpattexp", "visemenet", "propainter", "propainter_rfc", "propainter_ip", "raft"}
# More than 100 million parameters at their smallest.
LARGE = {"irevnet", "pyramidnet", "senet", "polynet", "wrn"}


def models() -> dict[str, Any]:
    """The first function of every file."""
    from pytorchcv.model_provider import _models

    found: dict[str, tuple[str, Any]] = {}
    for name, build in _models.items():
        found.setdefault(build.__module__.rsplit(".", 1)[1], (name, build))
    return {name: build for file, (name, build) in found.items() if file not in APART | LARGE}


def names() -> list[str]:
    """The names by which the library knows them."""
    return list(models())


def example(name: str) -> Example:
    """A model with random weights; images of the size that the model says, of 256 pixels where that is large."""
    build = models()[name]
    file = build.__module__.rsplit(".", 1)[1]
    if file in SOUND:
        model = build(pretrained=False).eval()
        return Example(model, (torch.rand(1, model.in_channels, 128), torch.tensor([128])))
    model = build(pretrained=False).eval()
    side = model.in_size
    if max(side) > LARGEST:
        model = build(pretrained=False, in_size=(SIDE, SIDE)).eval()
        side = model.in_size
    return Example(model, (torch.rand(1, getattr(model, "in_channels", 3), *side),))
