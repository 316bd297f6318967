"""Shapes and layouts of ops without torch's meta kernels, which are Python for these and a hundred times slower.

A shortcut gives exactly what the op would give but for the values, or None where it does not know; the meta kernel is
asked then, which also says what is wrong with shapes that do not fit. Pointwise ops are found by torch's own tag, the
others by their entry in the table of ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core.trees import mapped_only
from channelcut.ops.registry import op


def shortcut(func: Any, args: Sequence[Any], kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    """The result of an op on these arguments without its values; None where there is no short way to it."""
    first = args[0] if args else None
    if isinstance(first, (list, tuple)) and first and func.overloadpacket.__name__ == "cat":
        first = first[0]
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
        return None
    known = op(str(func.overloadpacket))
    if known.statistics:
        channels = first.as_strided([1, first.shape[1], *[1] * (first.dim() - 2)], first.stride())
        return (torch.empty_like(first), *func(channels, *args[1:], **kwargs)[1:])
    if known.shape is not None:
        same = all(t.dtype == first.dtype and t.device == first.device for t in tensors)
        return known.shape(*args) if same and not kwargs else None
    if torch.Tag.pointwise in func.tags and not known.own_layout and not kwargs.get("memory_format"):
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
