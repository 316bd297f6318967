"""Shapes and layouts of a few ops without torch's meta kernels, which are Python for these and a hundred times slower.

A shortcut gives exactly what the op would give but for the values, or None where it does not know; the meta kernel is
asked then, which also says what is wrong with shapes that do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from channelcut.core.trees import mapped_only


def shortcut(func: Any, args: Sequence[Any], kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    """The result of an op on these arguments without its values; None where there is no short way to it."""
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
        return None
    name = func.overloadpacket.__name__
    if name.endswith("batch_norm"):
        channels = first.as_strided([1, first.shape[1], *[1] * (first.dim() - 2)], first.stride())
        return (torch.empty_like(first), *func(channels, *args[1:], **kwargs)[1:])
    if name in _SHAPES:
        same = all(t.dtype == first.dtype and t.device == first.device for t in tensors)
        return _SHAPES[name](*args) if same and not kwargs else None
    if torch.Tag.pointwise in func.tags and not kwargs.get("memory_format") and _lays_out(first, tensors):
        return _pointwise(func, args, kwargs, first)
    return None


def _lays_out(first: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether the result of a pointwise op on these has the shape and the strides of the first one.

    It has where all are laid out alike, and where the others are spread over a contiguous first one whose strides leave
    no doubt about the order of its axes.
    """
    if all((t.shape, t.stride()) == (first.shape, first.stride()) for t in tensors if t.dim()):
        return first.shape[:1] != (1,) or first.stride(0) == first.numel()
    plain = [math.prod(first.shape[axis + 1 :]) for axis in range(first.dim())]
    if list(first.stride()) != plain or any(a <= b for a, b in pairwise(plain)):
        return False
    return all(_spreads(t.shape, first.shape) for t in tensors)


def _spreads(shape: Sequence[int], over: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another without changing it."""
    return len(shape) <= len(over) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(over), strict=False))


def _pointwise(func: Any, args: Sequence[Any], kwargs: Any, first: Tensor) -> Tensor | None:
    """Run on one element of each, for the type of the result."""
    small = mapped_only(Tensor, lambda t: t.as_strided([1] * t.dim(), t.stride()), (tuple(args), kwargs))
    result = func(*small[0], **small[1])
    if not isinstance(result, Tensor) or not result.is_floating_point():
        return None
    return torch.empty_like(first, dtype=result.dtype)


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
    layouts = {suggest_memory_format(source), suggest_memory_format(weight)}
    if min(shape) <= 0 or (space == 3 and len(layouts) > 1):
        return None
    layout = last if last in layouts else torch.contiguous_format
    return torch.empty(shape, dtype=source.dtype, memory_format=layout)


_SHAPES: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "native_layer_norm": _layer_norm,
    "grid_sampler_2d": _grid_sampler,
    "grid_sampler_3d": _grid_sampler,
}
