"""Pools: windows over the trailing axes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.ops import windows
from channelcut.onnx_in.registry import Call, operator

MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
GLOBAL: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _window(call: Call) -> tuple[list[int], list[int], windows.Pads]:
    kernel = [int(v) for v in call.attribute("kernel_shape")]
    if len(kernel) not in MAX:
        call.refuse(f"has {len(kernel)} spatial axes; 1 to 3 can be imported")
    return kernel, windows.setting(call, "strides", len(kernel)), windows.padding(call, call[0], kernel)


def _fits(pads: windows.Pads, kernel: list[int]) -> bool:
    """Whether a torch pool does this padding itself: the same on both sides and at most half a window."""
    return windows.symmetric(pads) and all(before <= k // 2 for (before, _), k in zip(pads, kernel, strict=True))


@operator("MaxPool")
def max_pool(call: Call) -> Value:
    """Padding is minus infinity."""
    if any(call.node.output[1:]):
        call.refuse("gives the positions of the maxima as an output")
    kernel, strides, pads = _window(call)
    dilations = windows.setting(call, "dilations", len(kernel))
    source, inside = call[0], [before for before, _ in pads]
    if not _fits(pads, kernel):
        source, inside = windows.padded(call, source, pads, float("-inf")), [0] * len(kernel)
    up = bool(call.attribute("ceil_mode", 0))
    return call.emit(MAX[len(kernel)], source, kernel, strides, inside, dilations, up)


@operator("AveragePool")
def average_pool(call: Call) -> Value:
    """Padding counts only where the file says so; where torch cannot pad itself, the sums are divided by a constant."""
    kernel, strides, pads = _window(call)
    if any(d != 1 for d in windows.setting(call, "dilations", len(kernel))):
        call.refuse("has dilations; an average pool without them can be imported")
    source, pool = call[0], AVERAGE[len(kernel)]
    counted, up = bool(call.attribute("count_include_pad", 0)), bool(call.attribute("ceil_mode", 0))
    if _fits(pads, kernel):
        return call.emit(pool, source, kernel, strides, [before for before, _ in pads], up, counted)
    wide = windows.padded(call, source, pads)
    average = call.emit(pool, wide, kernel, strides, [0] * len(kernel), up)
    if counted:
        return average
    size = source.shape[-len(kernel) :]
    inner = F.pad(torch.ones(1, 1, *size), [amount for pair in reversed(pads) for amount in pair])
    share = pool(inner, kernel, strides, [0] * len(kernel), up)
    return call.emit(torch.div, average, call.constant((share * prod(kernel)).round() / prod(kernel)))


@operator("GlobalAveragePool")
def global_average(call: Call) -> Value:
    """The mean over space, whose axes stay."""
    count = len(call[0].shape) - 2
    if count in GLOBAL:
        return call.emit(GLOBAL[count], call[0], 1)
    return call.emit(torch.mean, call[0], tuple(range(2, 2 + count)), True)


@operator("GlobalMaxPool")
def global_max(call: Call) -> Value:
    """The maximum over space, whose axes stay."""
    return call.emit(torch.amax, call[0], tuple(range(2, len(call[0].shape))), True)
