"""Pooling, resizing and padding: channel by channel over the trailing axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.reasons import ALONG_SPACE, CROPPED, INDEXED
from channelcut.ops import shapes
from channelcut.ops.call import Call
from channelcut.ops.registry import know, rule

EXTENT = {
    1: """max_pool1d max_pool1d_with_indices avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d
          _upsample_nearest_exact1d upsample_linear1d reflection_pad1d replication_pad1d""",
    2: """max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d max_pool2d_with_indices _adaptive_avg_pool2d
          upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d reflection_pad2d
          replication_pad2d grid_sampler grid_sampler_2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
          _upsample_lanczos2d_aa""",
    3: """max_pool3d avg_pool3d adaptive_avg_pool3d max_pool3d_with_indices _adaptive_avg_pool3d adaptive_max_pool3d
          upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d grid_sampler_3d reflection_pad3d
          replication_pad3d""",
}
AXES = {f"aten.{name}": count for count, names in EXTENT.items() for name in names.split()}


def _count(call: Call, ids: Tensor) -> int:
    """How many trailing axes are of space: a `grid_sampler` of volumes has the name of that of images."""
    return ids.dim() - 2 if call.name == "aten.grid_sampler" else AXES[call.name]


@rule(*AXES)
def spatial(call: Call) -> Any:
    """Ids of (N, C) stay, the trailing axes change."""
    ids = call.ids(next(iter(call.arguments)))
    if "grid" in call.arguments:
        call.pin(call.ids("grid"), INDEXED)
    count = _count(call, ids)
    space = range(ids.dim() - count, ids.dim())
    if call.decide("varies beside space", bool(set(I.varying_axes(ids)) - set(space))):
        for axis in space:  # what varies along space as well goes as a whole
            ids = call.bind_along(ids, axis)
    small = I.drop(ids, space)
    if small is None:
        call.pin(ids, ALONG_SPACE)
        small = I.zeros([1] * len(call.shape))
    result = call.spread(small)
    return (result,) * len(call.node.value) if call.several else result  # the indices of a max pool have its shape


know("aten.upsample_bicubic2d", shape=shapes.upsample)
know("aten.grid_sampler_2d", "aten.grid_sampler_3d", shape=shapes.grid_sampler)


@rule("aten.pad", "aten.constant_pad_nd")
def pad(call: Call) -> Tensor:
    """Padding along space keeps the ids; padding of channels adds fixed elements: their number is hard-coded."""
    ids, amounts, shape = call.ids("self"), call["pad"], call.shape
    padded = [ids.dim() - 1 - i for i in range(len(amounts) // 2) if amounts[2 * i] or amounts[2 * i + 1]]
    varying = set(I.varying_axes(ids)) & set(padded)
    for axis in padded:
        if axis not in varying:
            ids = ids.narrow(axis, 0, 1).expand([shape[a] if a == axis else e for a, e in enumerate(ids.shape)])
    if not varying:
        return call.spread(ids)
    before_after = [a if ids.dim() - 1 - i // 2 in varying else 0 for i, a in enumerate(amounts)]
    if min(before_after) < 0 or call.get("mode", "constant") != "constant":
        call.pin(ids, CROPPED)
        return I.zeros(shape)
    return torch.nn.functional.pad(ids.contiguous(), before_after, value=0)
