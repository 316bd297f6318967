"""Regions of a map, and positions that the network itself computes: channel by channel, at places without channels."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.groups import Role
from channelcut.core.reasons import ALONG_SPACE, CONTRACTED_FIXED, INDEXED, MIXES_OTHER_AXIS, PRODUCT_AXES
from channelcut.ops.along import resized, touches
from channelcut.ops.call import FIXED, Call
from channelcut.ops.conv import convolve, mixed_line
from channelcut.ops.host import State
from channelcut.ops.layers import repeats
from channelcut.ops.registry import rule


@rule("torchvision.roi_align", "torchvision.roi_pool")
def regions(call: Call) -> Any:
    """(N, C, H, W) and regions (K, 5) to (K, C, h, w)."""
    ids, where = call.ids("input"), call.ids("rois")
    call.pin(where, INDEXED)
    if touches(call, ids, [0, 2, 3]):
        call.pin(ids, ALONG_SPACE)
        return call.fixed()
    result = call.spread(resized(ids, [0, 2, 3], (1, ids.shape[1], 1, 1)))
    return (result, result) if call.several else result


@rule("torchvision.ps_roi_align", "torchvision.ps_roi_pool")
def regions_by_place(call: Call) -> Any:
    """(N, C·h·w, H, W) to (K, C, h, w): each place of a region reads channels of its own, which go together."""
    ids, where = call.ids("input"), call.ids("rois")
    call.pin(where, INDEXED)
    line = call.line_of(ids, 1)
    if line is None:
        call.pin(ids, ALONG_SPACE)
        return call.fixed()
    places = call.reshaped(line, -1, call["pooled_height"] * call["pooled_width"])
    rows = call.bind_along(places, 1)[:, 0]
    return tuple(call.along(rows, 1) for _ in call.node.value)


@rule("torchvision.deform_conv2d")
def deformed_convolution(call: Call) -> Tensor:
    """A convolution at places that are computed; every group of offsets moves as many channels."""
    for name in ("offset", "mask"):
        call.pin(call.ids(name), INDEXED)
    groups = call["offset_groups"]
    if groups > 1 and (line := call.line("input", 1)) is not None:
        call.bind_equal(list(call.reshaped(line, groups, -1)), 0)
    return convolve(call, call["groups"], transposed=False)


@rule("aten.max_unpool2d", "aten.max_unpool3d")
def unpooled(call: Call) -> Any:
    """What a max pool kept goes back to its place."""
    ids = call.bind(call.ids("self"), call.ids("indices"))
    axes = [-1, -2] if call.name == "aten.max_unpool2d" else [-1, -2, -3]
    if touches(call, ids, axes):
        call.pin(ids, ALONG_SPACE)
        return call.fixed()
    return call.spread(resized(ids, axes, [1 if a - ids.dim() in axes else e for a, e in enumerate(ids.shape)]))


@rule("aten.fractional_max_pool2d", "aten.fractional_max_pool3d")
def fractional_pool(call: Call) -> Any:
    """A max pool of uneven windows, which (N, C, 2) or (N, C, 3) numbers shift for each channel."""
    ids, samples = call.ids("self"), call["random_samples"]
    axes = list(range(-3 if call.name.endswith("3d") else -2, 0))
    if touches(call, ids, axes):
        call.pin(ids, ALONG_SPACE)
        return call.fixed()
    small = resized(ids, axes, [1 if a - ids.dim() in axes else e for a, e in enumerate(ids.shape)])
    numbers = call.activation(samples).narrow(-1, 0, 1)
    each = numbers.reshape(numbers.shape[:2]) if ids.dim() - len(axes) == 2 else numbers.reshape(numbers.shape[1:2])
    found = call.bind(small, each.reshape([*each.shape, *[1] * len(axes)]))
    return tuple(call.spread(found) for _ in call.node.value)


@rule("aten.cdist", "aten._cdist_forward", "aten._euclidean_dist", contracts=True)
def distances(call: Call) -> Tensor:
    """(..., P, M) and (..., R, M) to (..., P, R): what is gone from both sides adds nothing to a distance."""
    left, right = call.ids("x1"), call.ids("x2")
    touched = touches(call, left, [-2], "x1") or touches(call, right, [-2], "x2")
    if touched:
        call.pin(left, PRODUCT_AXES)
        call.pin(right, PRODUCT_AXES)
        return I.zeros(call.shape)
    contracted = call.bind(left.narrow(-2, 0, 1), right.narrow(-2, 0, 1), CONTRACTED_FIXED)
    call.account(math.prod(call.shape) * left.shape[-1], FIXED, contracted if contracted.any() else FIXED)
    return I.zeros(call.shape)


@rule(
    "aten.bilinear",
    layers={
        nn.Bilinear: repeats(
            {"out_features": ("weight", 0), "in1_features": ("weight", 1), "in2_features": ("weight", 2)}
        )
    },
)
def bilinear(call: Call) -> Tensor:
    """y = x W z + b with W (O, I, J): a sum over both inputs."""
    weight, bias = call["weight"], call.get("bias")
    left, right = call.ids("input1"), call.ids("input2")
    if not isinstance(weight, State):
        for value in (left, right, weight, bias):
            call.pin_value(value, MIXES_OTHER_AXIS)
        return I.zeros(call.shape)
    columns, others = mixed_line(call, left, -1, "input1"), mixed_line(call, right, -1, "input2")
    call.slot(weight, 1, columns, Role.IN)
    call.slot(weight, 2, others, Role.IN)
    rows = call.slot(weight, 0, None, Role.OUT)
    call.account(math.prod(call.shape) * len(columns) * len(others), rows, columns)
    if isinstance(bias, State):
        call.slot(bias, 0, rows, Role.BIAS)
    return call.along(rows, -1)


@rule("aten.fake_quantize_per_channel_affine", "aten.fake_quantize_per_channel_affine_cachemask")
def quantized_by_channel(call: Call) -> Any:
    """Element by element, with a scale and a zero point for every position along an axis."""
    ids, axis = call.ids("self"), call["axis"]
    line = call.line_of(ids, axis)
    for name in ("scale", "zero_point"):
        value = call[name]
        if line is None:
            call.pin_value(value, ALONG_SPACE)
        elif isinstance(value, State):
            call.slot(value, 0, line, Role.NORM)
        else:
            call.bind(line, value)
    if line is None:
        call.pin(ids, ALONG_SPACE)
        return call.fixed()
    return (ids, ids) if call.several else ids


@rule("aten._embedding_bag", "aten._embedding_bag_forward_only", "aten.embedding_bag")
def bags(call: Call) -> Any:
    """Sums of rows of a table (entries, C): its columns are channels."""
    table = call["weight"]
    if not isinstance(table, State):
        call.pin(call.ids("weight"), MIXES_OTHER_AXIS)
        return call.fixed()
    columns = call.slot(table, 1, None, Role.OUT)
    return (I.along(columns, 1, call.shape), *call.fixed()[1:])
