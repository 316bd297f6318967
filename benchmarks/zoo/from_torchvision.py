"""Every model that torchvision lists: classification, segmentation, video, detection, optical flow, quantisable."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.catalogue import Example

DETECTION_SIDE = 320
# What has to be left alone by hand, as the pruners' own examples for these families do.
DETECTION_HEADS = ("rpn", "roi_heads", "head", "backbone.fpn")
FLOW_HEADS = ("corr_block", "update_block", "mask_predictor")


def names() -> list[str]:
    """Everything in the registry."""
    import torchvision

    return list(torchvision.models.list_models())


def example(name: str) -> Example:
    """A model with random weights, also in its backbone, and inputs of its kind."""
    import torchvision

    builder = torchvision.models.get_model_builder(name)
    accepted = inspect.signature(builder).parameters
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in accepted:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # their default, said aloud because they warn otherwise
    model: Any = builder(**options).eval()
    kind = builder.__module__.removeprefix("torchvision.models.").split(".")[0]
    if kind == "detection":
        if getattr(transform := model.transform, "fixed_size", None) is None:
            transform.min_size, transform.max_size = (DETECTION_SIDE,), DETECTION_SIDE  # else it enlarges to 800
        heads = tuple(head for head in DETECTION_HEADS if has(model, head))
        return Example(model, ([torch.rand(3, DETECTION_SIDE, DETECTION_SIDE)],), heads)
    if kind == "optical_flow":
        # the smallest images whose correlation pyramid has four levels
        return Example(model, (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)), FLOW_HEADS)
    return Example(model, (torch.rand(input_shape(name, kind)),))


def has(model: nn.Module, path: str) -> bool:
    """Whether there is a module of that path."""
    return path in dict(model.named_modules())


def input_shape(name: str, kind: str) -> tuple[int, ...]:
    """The customary input: images, or clips of 16 frames."""
    if kind == "video":
        return (1, 3, 16, 224, 224) if name.startswith(("mvit", "s3d")) else (1, 3, 16, 112, 112)
    if "inception" in name:
        return (1, 3, 299, 299)
    return (1, 3, 224, 224)
