"""Two values that meet element by element: which ids are joined, and which are held by an element that stays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core import ids as I


def meeting(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Both ids over the shape that they broadcast to, each cut down along axes that are constant in both.

    Raises:
        ValueError: the shapes do not broadcast.
    """
    shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))  # torch.broadcast_shapes costs a second at first
    wide_a, wide_b = I.shrink(a.expand(shape), b.expand(shape))
    return wide_a, wide_b, shape


def edges(a: Tensor, b: Tensor) -> list[NDArray[np.int64]]:
    """The pairs of ids at one place, shape (pairs, 2); nothing where every pair is one id, or holds a 0."""
    wide_a, wide_b, _ = meeting(a, b)
    both = (wide_a != 0) & (wide_b != 0)
    if not bool(both.any()):
        return []
    first, second = wide_a[both].to(torch.int64), wide_b[both].to(torch.int64)
    pairs = torch.unique(((first << 32) | second)[first != second])  # as one number: rows sort far slower
    return [torch.stack([pairs >> 32, pairs & 0xFFFFFFFF], 1).numpy()] if len(pairs) else []


def conflicts(a: Tensor, b: Tensor) -> list[NDArray[np.int64]]:
    """The ids on one side that meet an element which the other side owns and cannot lose.

    Along an axis of extent 1 a value owns no element: broadcasting gives it to whoever asks.
    """
    wide_a, wide_b, shape = meeting(a, b)
    both = _held(wide_a, wide_b, b, len(shape)), _held(wide_b, wide_a, a, len(shape))
    return [found for found in both if len(found)]


def _held(wide_a: Tensor, wide_b: Tensor, b: Tensor, axes: int) -> NDArray[np.int64]:
    conflict = (wide_a != 0) & (wide_b == 0)
    if bool(conflict.any()):
        offset = axes - b.dim()
        if any(axis >= offset and b.shape[axis - offset] > 1 for axis in I.varying_axes(wide_a)):
            return removable(wide_a[conflict])
    return np.zeros(0, np.int64)


def removable(ids: Tensor) -> NDArray[np.int64]:
    """The ids in a tensor that stand for removable channels, ascending."""
    found = torch.unique(I.compact(ids))
    chosen: NDArray[np.int64] = found[found != 0].to(torch.int64).numpy()
    return chosen
