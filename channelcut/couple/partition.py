"""From bindings to channels, and from channels to lanes: the smallest sets that keep a share of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from channelcut.couple.coupler import Coupler
from channelcut.couple.ids import compact, varying_axes
from channelcut.couple.linear import Linear

Channels = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """The channels of the moment.

    `channel_of` numbers the channel of each id, `lane_of` the lane of each channel (-1: it stays). `lanes` are
    ascending arrays of channels, `slots_of` the slots that each lane appears in.
    """

    channel_of: Channels
    pinned: NDArray[np.bool_]
    lane_of: Channels
    lanes: tuple[Channels, ...]
    slots_of: tuple[tuple[int, ...], ...]

    @cached_property
    def first(self) -> Channels:
        """One id of each channel, the first."""
        found: Channels = np.unique(self.channel_of, return_index=True)[1]
        return found

    def channels(self, ids: Tensor) -> Channels:
        """The channels of ids, in their shape, with stride-0 axes cut down to one element."""
        found: Channels = self.channel_of[compact(ids).to(torch.int64).numpy()]
        return found

    def content(self, channels: Channels) -> Linear | None:
        """How many of these positions remain, as a function of the lanes' shares.

        None where a lane is there in part.
        """
        lanes = self.lane_of[channels]
        counts: dict[int, float] = {}
        for lane, count in zip(*np.unique(lanes[lanes >= 0], return_counts=True), strict=True):
            present, times = np.unique(channels[lanes == lane], return_counts=True)
            if len(present) != len(self.lanes[lane]) or (times != times[0]).any():
                return None
            counts[int(lane)] = float(count)
        return Linear(float((lanes < 0).sum()), counts)

    def extent(self, ids: Tensor, axis: int) -> Linear | None:
        """How many positions of a value remain along an axis.

        Where the channels vary along several axes, the last of them loses elements and the others keep theirs.
        """
        table = self.channels(ids)
        varying = [a for a in range(table.ndim) if (table != table.take([0], a)).any()]
        if axis not in varying or axis != varying[-1]:
            return Linear(float(ids.shape[axis]))
        return self.content(np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis])[0])


def partition(coupler: Coupler) -> Partition:
    """Number the channels, mark what is pinned, and divide the rest into lanes."""
    channel_of = components(coupler)
    pinned = np.zeros(int(channel_of.max()) + 1, dtype=bool)
    pinned[0] = True
    for pin in coupler.pins:
        pinned[channel_of[pin.ids]] = True
    slots = list(coupler.slots.values())
    members = [np.unique(_relabel(slot.ids, channel_of)) for slot in slots]
    pieces = [np.unique(_relabel(piece, channel_of)) for piece in _pieces(coupler, channel_of)]
    lane_of, lanes = _lanes(members, pieces, pinned)
    return Partition(channel_of, pinned, lane_of, lanes, _slots_of(members, lane_of, len(lanes)))


def components(coupler: Coupler) -> Channels:
    """The channel of each id, numbered from 1 in the order of the ids; id 0 is channel 0."""
    edges = np.concatenate(coupler.edges) if coupler.edges else np.zeros((0, 2), np.int64)
    ones = np.ones(len(edges), np.int8)
    shape = (coupler.next_id, coupler.next_id)
    _, labels = connected_components(coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=shape), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    channel_of: Channels = order[inverse].astype(np.int64)
    return channel_of


def rows(ids: Tensor, channel_of: Channels) -> list[Tensor]:
    """The lines of a value along the last axis of several along which its channels vary; none where they do not."""
    small = compact(ids)
    varying = varying_axes(torch.from_numpy(channel_of)[small.to(torch.int64)])
    if len(varying) < 2:
        return []
    return list(small.movedim(varying[-1], -1).reshape(-1, small.shape[varying[-1]]))


def _pieces(coupler: Coupler, channel_of: Channels) -> list[Tensor]:
    found = [piece for pieces, _ in coupler.equal for piece in pieces] + list(coupler.pieces)
    for ids, _ in coupler.rectangles:
        found += rows(ids, channel_of)
    return found


def _relabel(ids: Tensor, channel_of: Channels) -> Channels:
    channels: Channels = channel_of[ids.to(torch.int64).numpy()]
    return channels


def _lanes(
    members: Sequence[Channels], pieces: Sequence[Channels], pinned: NDArray[np.bool_]
) -> tuple[Channels, tuple[Channels, ...]]:
    """Free channels by the set of slots and pieces that they appear in, told apart by a sum of random numbers."""
    generator = np.random.default_rng(0)
    signature = np.zeros(len(pinned), dtype=np.uint64)
    slotted = np.zeros(len(pinned), dtype=bool)
    for channels in members:
        slotted[channels] = True
    for channels in (*members, *pieces):
        signature[channels] += generator.integers(1, 2**63, dtype=np.uint64)
    free = np.flatnonzero(slotted & ~pinned)
    _, first, inverse = np.unique(signature[free], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    lane_of = np.full(len(pinned), -1, dtype=np.int64)
    lane_of[free] = order[inverse]
    by_lane = np.argsort(lane_of[free], kind="stable")
    bounds = np.flatnonzero(np.diff(lane_of[free][by_lane])) + 1
    lanes = tuple(np.split(free[by_lane].astype(np.int64), bounds)) if len(free) else ()
    return lane_of, lanes


def _slots_of(members: Sequence[Channels], lane_of: Channels, count: int) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(count)]
    for index, channels in enumerate(members):
        for lane in np.unique(lane_of[channels]):
            if lane >= 0:
                found[lane].append(index)
    return tuple(tuple(slots) for slots in found)
