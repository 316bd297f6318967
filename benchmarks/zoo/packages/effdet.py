"""effdet: EfficientDet and its relatives, without the decoding of boxes, which is no part of the network."""

from __future__ import annotations

import torch

from benchmarks.zoo.catalogue import Example

DISTRIBUTION = "effdet"
SIDE = 256
NAMES = (
    "tf_efficientdet_lite0",
    "efficientdet_d0",
    "efficientdet_q0",
    "efficientdet_es",
    "efficientdetv2_dt",
    "mobiledetv3_large",
    "cspresdet50",
    "cspdarkdet53m",
    "resdet50",
    "tf_efficientdet_d1",
)


def names() -> list[str]:
    """One of every family."""
    return list(NAMES)


def example(name: str) -> Example:
    """The network that gives class scores and boxes for every level."""
    from effdet import create_model

    model = create_model(name, pretrained=False, pretrained_backbone=False, image_size=[SIDE, SIDE]).eval()
    return Example(model, (torch.rand(1, 3, SIDE, SIDE),))
