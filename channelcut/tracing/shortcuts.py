"""Shapes and layouts of a few ops without torch's meta kernels, which are Python for these and a hundred times slower.

A shortcut gives exactly what the op would give but for the values, or None where it does not know; the meta kernel is
asked then, which also says what is wrong with shapes that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core.trees import mapped_only

_CONTIGUOUS = frozenset({"masked_fill"})  # tagged as pointwise, but its result has a layout of its own


def shortcut(func: Any, args: Sequence[Any], kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    """The result of an op on these arguments without its values; None where there is no short way to it."""
    first = args[0] if args else None
    if isinstance(first, (list, tuple)) and first and func.overloadpacket.__name__ == "cat":
        first = first[0]
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
        return None
    name = func.overloadpacket.__name__
    if name.endswith("batch_norm"):
        channels = first.as_strided([1, first.shape[1], *[1] * (first.dim() - 2)], first.stride())
        return (torch.empty_like(first), *func(channels, *args[1:], **kwargs)[1:])
    if name in _SHAPES:
        same = all(t.dtype == first.dtype and t.device == first.device for t in tensors)
        return _SHAPES[name](*args) if same and not kwargs else None
    if torch.Tag.pointwise in func.tags and name not in _CONTIGUOUS and not kwargs.get("memory_format"):
        return _pointwise(func, args, kwargs, first, tensors)
    return None


def _pointwise(func: Any, args: Sequence[Any], kwargs: Any, first: Tensor, tensors: Sequence[Tensor]) -> Tensor | None:
    """Run on one element of each value, for the type of the result."""
    small = mapped_only(Tensor, lambda t: t.as_strided([1] * t.dim(), t.stride()), (tuple(args), kwargs))
    result = func(*small[0], **small[1])
    if not isinstance(result, Tensor) or not result.is_floating_point():
        return None
    try:
        shape = np.broadcast_shapes(*(tuple(t.shape) for t in tensors))
    except ValueError:
        return None
    if tuple(first.shape) == shape and _dense(first):
        return torch.empty_like(first, dtype=result.dtype)
    plain = all(t.is_contiguous() for t in tensors) and any(tuple(t.shape) == shape for t in tensors)
    return torch.empty(shape, dtype=result.dtype, device=first.device) if plain else None


def _dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side, in whatever order of the axes: torch lays out a result like that.

    The first operand decides (TensorIterator's `reorder_dimensions`); the stride of an axis of extent 1 means nothing.
    """
    expected = 1
    for stride, extent in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= extent
    return True


def _layout(tensor: Tensor) -> torch.memory_format:
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


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0]
    return a.new_empty(a.shape[0], b.shape[1]) if fits and _spreads(bias.shape, (a.shape[0], b.shape[1])) else None


def _layer_norm(
    source: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor, ...] | None:
    outer = source.shape[: source.dim() - len(shape)]
    fits = all(list(t.shape) == list(shape) for t in (weight, bias) if t is not None)
    if not fits or [*outer, *shape] != list(source.shape) or source.dtype not in (torch.float32, torch.float64):
        return None
    statistics = [*outer, *[1] * len(shape)]
    return source.new_empty(source.shape), source.new_empty(statistics), source.new_empty(statistics)


def _grid_sampler(source: Tensor, grid: Tensor, *_: Any) -> Tensor | None:
    space = source.dim() - 2
    fits = source.dim() == grid.dim() and source.shape[0] == grid.shape[0] and grid.shape[-1] == space
    return source.new_empty(*source.shape[:2], *grid.shape[1:-1]) if fits else None


def _upsample(source: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    if source.dim() != 4 or len(size) != 2 or min(size) <= 0 or source.dtype not in (torch.float32, torch.float64):
        return None
    shape = [*source.shape[:2], *size]
    return torch.empty(shape, dtype=source.dtype, device=source.device, memory_format=_layout(source))


def _convolution(
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
    layouts = {_layout(source), _layout(weight)}
    if min(shape) <= 0 or (space == 3 and len(layouts) > 1):
        return None
    layout = last if last in layouts else torch.contiguous_format
    return torch.empty(shape, dtype=source.dtype, memory_format=layout)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """Laid out like its parts where these agree; a part without elements or with another order is left to torch."""
    first, axis = tensors[0], dim % max(tensors[0].dim(), 1)
    layouts = {_layout(t) for t in tensors}
    around = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in tensors if t.dim() == first.dim()}
    if len(layouts) > 1 or len(around) > 1 or any(t.dim() != first.dim() or not t.numel() for t in tensors):
        return None
    shape = [*first.shape[:axis], sum(t.shape[axis] for t in tensors), *first.shape[axis + 1 :]]
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layouts.pop())


def _mean(source: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False) -> Tensor | None:
    if not axes or not source.is_contiguous():
        return None
    gone = {axis % source.dim() for axis in axes}
    left = [1 if axis in gone else extent for axis, extent in enumerate(source.shape) if keepdim or axis not in gone]
    return source.new_empty(left)


_SHAPES: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "cat": _cat,
    "addmm": _addmm,
    "mean": _mean,
    "native_layer_norm": _layer_norm,
    "grid_sampler_2d": _grid_sampler,
    "grid_sampler_3d": _grid_sampler,
    "upsample_bicubic2d": _upsample,
}
