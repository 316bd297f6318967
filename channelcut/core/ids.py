"""Channel-id tensors: int32 tensors shaped like a value that hold, per element, the removable channel it belongs to.

0 means that the element belongs to no removable channel. An axis along which the ids are constant has stride 0, so a
feature map of any resolution costs as much as its channel axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def zeros(shape: Sequence[int]) -> Tensor:
    """Ids of a value without removable channels."""
    return torch.zeros((), dtype=torch.int32).expand(tuple(shape))


def is_constant(ids: Tensor, axis: int) -> bool:
    """Whether the ids do not depend on the position along `axis`."""
    return ids.shape[axis] <= 1 or ids.stride(axis) == 0 or _repeats(ids.numpy(), axis)


def _repeats(table: NDArray[np.int32], axis: int) -> bool:
    # NumPy compares small tables in a fraction of torch's time; most channels differ at the ends already.
    ends = [0] * table.ndim, [-1 if a == axis else 0 for a in range(table.ndim)]
    if table.size and table.item(*ends[0]) != table.item(*ends[1]):
        return False
    return bool((table == table[(slice(None),) * axis + (slice(1),)]).all())


def varying_axes(ids: Tensor) -> list[int]:
    """The axes along which the ids change."""
    small = compact(ids)
    return [axis for axis in range(ids.dim()) if not is_constant(small, axis)]


def compact(ids: Tensor) -> Tensor:
    """The same ids with every stride-0 axis cut down to one element."""
    shape, strides = ids.shape, ids.stride()
    if all(strides):
        return ids
    cut = [extent if stride or not extent else 1 for extent, stride in zip(shape, strides, strict=True)]
    return ids.as_strided(cut, strides)


def compress(ids: Tensor) -> Tensor:
    """The same ids with stride 0 along every constant axis."""
    shape, strides = ids.shape, list(ids.stride())
    table = compact(ids).numpy()
    for axis in range(table.ndim):
        if table.shape[axis] > 1 and _repeats(table, axis):
            table, strides[axis] = table[(slice(None),) * axis + (slice(1),)], 0
    return ids.as_strided(shape, strides)


def line(ids: Tensor, axis: int) -> Tensor | None:
    """The ids along one axis, shape (extent,), or None where they depend on another axis as well."""
    return plane(ids, [axis])


def plane(ids: Tensor, axes: Sequence[int]) -> Tensor | None:
    """The ids over some axes, in their order in the tensor, or None where they depend on another axis as well."""
    axes = [axis % ids.dim() for axis in axes]
    shape = [ids.shape[axis] for axis in sorted(axes)]
    small = drop(ids, [axis for axis in range(ids.dim()) if axis not in axes])
    return None if small is None else small.reshape(shape)


def drop(ids: Tensor, axes: Iterable[int]) -> Tensor | None:
    """The ids with `axes` cut down to one element, or None where they vary along one of them."""
    axes, small = set(axes), compact(ids)
    if not all(is_constant(small, axis) for axis in axes):
        return None
    cut = [1 if axis in axes and extent else extent for axis, extent in enumerate(ids.shape)]
    return ids.as_strided(cut, ids.stride())


def along(ids: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Ids of shape `shape` that follow the line `ids` along `axis` and are constant elsewhere."""
    view = [1] * len(shape)
    view[axis] = -1
    return ids.reshape(view).expand(tuple(shape))


def shrink(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape, cut down to one element along the axes that are constant in both."""
    for axis in range(a.dim()):
        if a.stride(axis) == 0 and b.stride(axis) == 0 and a.shape[axis] > 1:
            a, b = a.narrow(axis, 0, 1), b.narrow(axis, 0, 1)
    return a, b
