"""Shapes and layouts of a few ops without torch's meta kernels, which are Python for these and a hundred times slower.

Each function takes the arguments of its op, every tensor of one type, and gives exactly what the op would give but for
the values; None where it does not know. tests/test_hollow.py compares each with the op itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def layout(tensor: Tensor) -> torch.memory_format:
    """The memory format that torch takes a value for (`is_strides_like_channels_last` in c10/core/MemoryFormat.h)."""
    least = 0
    if tensor.dim() not in (4, 5) or tensor.stride(1) == 0:
        return torch.contiguous_format
    for axis in (1, *range(tensor.dim() - 1, 1, -1), 0):
        stride, extent = tensor.stride(axis), tensor.shape[axis]
        if extent == 0 or stride < least or (axis == 0 and least == tensor.stride(1)):
            return torch.contiguous_format
        least = stride * max(extent, 1)
    return torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d


def _spreads(shape: Sequence[int], over: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another without changing it."""
    return len(shape) <= len(over) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(over), strict=False))


def addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    """(i, k) × (k, j) to (i, j)."""
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0]
    return a.new_empty(a.shape[0], b.shape[1]) if fits and _spreads(bias.shape, (a.shape[0], b.shape[1])) else None


def layer_norm(
    source: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor, ...] | None:
    """The result, and the means and deviations over the last axes."""
    outer = source.shape[: source.dim() - len(shape)]
    fits = all(list(t.shape) == list(shape) for t in (weight, bias) if t is not None)
    if not fits or [*outer, *shape] != list(source.shape) or source.dtype not in (torch.float32, torch.float64):
        return None
    statistics = [*outer, *[1] * len(shape)]
    return source.new_empty(source.shape), source.new_empty(statistics), source.new_empty(statistics)


def grid_sampler(source: Tensor, grid: Tensor, *_: Any) -> Tensor | None:
    """(N, C, ...) at the places of a grid (N, ..., space)."""
    space = source.dim() - 2
    fits = source.dim() == grid.dim() and source.shape[0] == grid.shape[0] and grid.shape[-1] == space
    return source.new_empty(*source.shape[:2], *grid.shape[1:-1]) if fits else None


def upsample(source: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    """(N, C, H, W) to (N, C, *size)."""
    if source.dim() != 4 or len(size) != 2 or min(size) <= 0 or source.dtype not in (torch.float32, torch.float64):
        return None
    shape = [*source.shape[:2], *size]
    return torch.empty(shape, dtype=source.dtype, device=source.device, memory_format=layout(source))


def convolution(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    *rest: Any,
) -> Tensor | None:
    """Channels-last where the input or the weight is: torch's meta kernel forgets that for some of them."""
    dilation, transposed, output_padding, groups = rest
    space = source.dim() - 2
    crossed, kept = weight.shape[1] * groups, weight.shape[0]
    channels, outer = (kept, crossed) if transposed else (crossed, kept)
    fits = weight.dim() == source.dim() and source.shape[1] == channels and weight.shape[0] % groups == 0
    if not fits or space not in (2, 3) or source.device.type != "cpu" or source.dtype != torch.float32:
        return None
    if bias is not None and tuple(bias.shape) != (outer,):
        return None
    shape = [source.shape[0], outer]
    for axis, extent in enumerate(source.shape[2:]):
        each = (list(v) * space if len(v) == 1 else v for v in (stride, padding, dilation, output_padding))
        step, pad, gap, more = (v[axis] for v in each)
        reach = gap * (weight.shape[2 + axis] - 1) + 1
        shape.append(
            (extent - 1) * step - 2 * pad + reach + more if transposed else (extent + 2 * pad - reach) // step + 1
        )
    last = torch.channels_last if space == 2 else torch.channels_last_3d
    layouts = {layout(source), layout(weight)}
    if min(shape) <= 0 or (space == 3 and len(layouts) > 1):
        return None
    chosen = last if last in layouts else torch.contiguous_format
    return torch.empty(shape, dtype=source.dtype, memory_format=chosen)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """Laid out like its parts where these agree; a part without elements or with another order is left to torch."""
    first, axis = tensors[0], dim % max(tensors[0].dim(), 1)
    layouts = {layout(t) for t in tensors}
    around = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in tensors if t.dim() == first.dim()}
    if len(layouts) > 1 or len(around) > 1 or any(t.dim() != first.dim() or not t.numel() for t in tensors):
        return None
    shape = [*first.shape[:axis], sum(t.shape[axis] for t in tensors), *first.shape[axis + 1 :]]
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layouts.pop())


def mean(source: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False) -> Tensor | None:
    """The axes that are left."""
    if not axes or not source.is_contiguous():
        return None
    gone = {axis % source.dim() for axis in axes}
    left = [1 if axis in gone else extent for axis, extent in enumerate(source.shape) if keepdim or axis not in gone]
    return source.new_empty(left)
