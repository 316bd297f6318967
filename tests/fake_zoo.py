"""A zoo for the tests of `python -m benchmarks.zoo`: one model that works, and one for each way of not working."""

from __future__ import annotations

import time

import torch
from torch import nn

from benchmarks.zoo.catalogue import Example


def names() -> list[str]:
    return ["plain", "broken", "slow", "ended", "large"]


def example(name: str) -> Example:
    if name == "slow":
        time.sleep(600)
    if name == "broken":
        raise ValueError("no such | layer\nand more")
    if name == "ended":
        raise SystemExit(3)
    if name == "large":
        torch.empty(2**34)  # 64 GiB, of which the limit allows a few
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    return Example(model, (torch.rand(1, 3, 16, 16),))
