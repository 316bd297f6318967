"""pytorchcv: the first model of every file, which is its smallest."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.zoo.catalogue import Example

DISTRIBUTION = "pytorchcv"
SIDE, LARGEST = 256, 448
FRAMES = 128
SOUND = {"quartznet"}
# Not models of one image: what they take are several tensors of a pipeline of their own.
APART = {"voca", "nvpattexp", "visemenet", "propainter", "propainter_rfc", "propainter_ip", "raft"}
# More than 80 million parameters, or minutes for one forward on a processor.
LARGE = {"jasper", "jasperdr", "irevnet", "pyramidnet", "senet", "polynet", "wrn", "pnasnet"}
# Sizes of inputs that the models themselves do not know.
SHAPES = {"superpointnet": (1, 64, 64), "pfpcnet": (1, 320, 240)}


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
    """A model with random weights; images of the size that the model says, of 256 pixels where that is large.

    Networks of key points return their heat maps (the library's `return_heatmap`): points are read off these one by
    one, in Python, by branches on values.
    """
    build = models()[name]
    file = build.__module__.rsplit(".", 1)[1]
    if file in SOUND:
        model = build(pretrained=False, from_audio=False, return_text=False).eval()
        return Example(model, (torch.rand(1, model.in_size, FRAMES), torch.tensor([FRAMES])))
    model = build(pretrained=False).eval()
    if file in SHAPES:
        return Example(model, (torch.rand(1, *SHAPES[file]),))
    if max(model.in_size) > LARGEST:
        model = build(pretrained=False, in_size=(SIDE, SIDE)).eval()
    if hasattr(model, "return_heatmap"):
        model.return_heatmap = True
    return Example(model, (torch.rand(1, getattr(model, "in_channels", 3), *model.in_size),))
