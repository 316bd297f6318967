"""Which channels a value holds, and along which of its axes: what partition, demands and replay read of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core import ids as I

Channels = NDArray[np.int64]
Kept = NDArray[np.bool_]


@dataclass(frozen=True)
class Footprint:
    """The channels of a value of shape `shape`, with extent 1 along every axis but the `varying` ones."""

    channels: Channels
    shape: tuple[int, ...]
    varying: tuple[int, ...]

    @classmethod
    def of(cls, table: Channels, shape: Sequence[int]) -> Footprint:
        """The footprint of channels that broadcast to `shape`."""
        varying = []
        for axis, extent in enumerate(table.shape):
            if extent > 1:
                first = table[(slice(None),) * axis + (slice(1),)]
                if bool((table == first).all()):
                    table = first
                else:
                    varying.append(axis)
        return cls(table, tuple(shape), tuple(varying))

    @cached_property
    def rows(self) -> Channels:
        """The lines along the last varying axis, shape (lines, extent)."""
        axis = self.varying[-1] if self.varying else self.channels.ndim - 1
        return np.moveaxis(self.channels, axis, -1).reshape(-1, self.channels.shape[axis])

    def line(self) -> Channels:
        """The channels of a value with one axis, in full."""
        return np.broadcast_to(self.channels, self.shape)

    def kept_shape(self, kept: Kept) -> tuple[int, ...] | None:
        """The shape of what is left of the value; None where it is no rectangle.

        The last axis along which channels vary loses elements, the ones before it whole slabs. Of a shuffle (columns,
        groups) each group may also lose elements of its own, as many as the others: what is left of it closes up.
        """
        shape = self._slabs(kept)
        return self.closed_shape(kept) if shape is None else shape

    def closed_shape(self, kept: Kept) -> tuple[int, ...] | None:
        """The shape of what is left of a shuffle each of whose groups has lost elements of its own; None of others."""
        if len(self.varying) != 2:
            return None
        columns, groups = self.varying
        counts = set(np.moveaxis(kept[self.channels], groups, 0).reshape(self.shape[groups], -1).sum(1).tolist())
        if len(counts) > 1:
            return None
        return tuple(counts.pop() if axis == columns else extent for axis, extent in enumerate(self.shape))

    def _slabs(self, kept: Kept) -> tuple[int, ...] | None:
        """The shape where axes but the last one lose whole slabs; None where rows would be of different lengths."""
        if not self.varying:
            return self.shape
        mask = kept[self.channels]
        shape = list(self.shape)
        outer = 1
        for axis in self.varying[:-1]:
            others = tuple(a for a in range(mask.ndim) if a != axis)
            shape[axis] = int(mask.any(axis=others).sum())
            outer *= shape[axis]
        total = int(np.count_nonzero(mask))
        if outer == 0 or total % outer:
            return None
        shape[self.varying[-1]] = total // outer
        return tuple(shape)

    def kept_part(self, kept: Kept) -> Tensor | None:
        """What is left of the channels, row by row, as a tensor; None where that is not made of whole slabs."""
        shape = self._slabs(kept)
        if shape is None:
            return None
        if not self.channels.size:
            return I.zeros(shape)
        chosen = self.channels[kept[self.channels]]
        compacted = [after if extent > 1 else 1 for after, extent in zip(shape, self.channels.shape, strict=True)]
        if chosen.size != int(np.prod(compacted)):
            return None
        return torch.from_numpy(chosen.astype(np.int32)).reshape(compacted).expand(shape)


class Footprints:
    """The footprints of ids, each found once; `channel_of` numbers the channel of each id."""

    def __init__(self, channel_of: Channels) -> None:
        self.channel_of = channel_of
        self._found: dict[tuple[object, ...], tuple[Tensor, Footprint]] = {}

    def of(self, ids: Tensor) -> Footprint:
        """The footprint of a value with these ids."""
        # Views that tell the same story have the same memory, shape and strides.
        key = (ids.data_ptr(), ids.shape, ids.stride())
        found = self._found.get(key)
        if found is None:
            table = self.channel_of[I.compact(ids).numpy()]
            found = self._found[key] = (ids, Footprint.of(table, ids.shape))  # the ids keep their address while known
        return found[1]
