"""rfdetr: RF-DETR with a DINOv2 backbone of random weights, at half the resolution."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.zoo.catalogue import Example

DISTRIBUTION = "rfdetr"
SIDE = 192
NAMES = ("RFDETRNano", "RFDETRSmall", "RFDETRSegNano")


def names() -> list[str]:
    """The small detectors and the small segmenter."""
    return list(NAMES)


def example(name: str) -> Example:
    """The network alone. A path of weights, which nobody opens, keeps the library from fetching the backbone's."""
    import rfdetr.config
    from rfdetr.models.lwdetr import build_model_from_config

    kind: Any = getattr(rfdetr.config, f"{name}Config")
    patch = kind.model_fields["patch_size"].default
    side = SIDE // (patch * 2) * patch * 2
    config = kind(pretrain_weights="none.pth", device="cpu", resolution=side, positional_encoding_size=side // patch)
    built: Any = build_model_from_config(config)
    model = built[0] if isinstance(built, tuple) else built
    return Example(model.eval(), (torch.rand(1, 3, side, side),))
