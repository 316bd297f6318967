"""From bindings to channels, and from channels to lanes: the smallest sets that keep a share of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from channelcut.core.footprint import Channels, Footprints
from channelcut.coupling.facts import Constraints, Facts
from channelcut.coupling.linear import Linear, Number, Unknown


@dataclass(frozen=True)
class Partition:
    """The channels under one set of constraints.

    `footprints` knows the channels of ids, `lane_of` the lane of each channel (-1: it stays). `lanes` are ascending
    arrays of channels, `slots_of` the slots that each lane appears in.
    """

    footprints: Footprints
    pinned: NDArray[np.bool_]
    lane_of: Channels
    lanes: tuple[Channels, ...]
    slots_of: tuple[tuple[int, ...], ...]
    _extents: dict[tuple[int, int], Linear | None] = field(default_factory=dict)

    @cached_property
    def first(self) -> Channels:
        """One id of each channel, the first."""
        found: Channels = np.unique(self.footprints.channel_of, return_index=True)[1]
        return found

    @cached_property
    def _sizes(self) -> Channels:
        return np.array([len(lane) for lane in self.lanes], dtype=np.int64)

    def channels(self, ids: Tensor) -> Channels:
        """The channels of ids, with extent 1 along the axes along which they do not change."""
        return self.footprints.of(ids).channels

    def content(self, line: Tensor) -> Linear | None:
        """How many positions of a line of ids remain, as `contents` says."""
        return self.contents(self.footprints.of(line).line()[None])[0]

    def contents(self, rows: Channels) -> list[Linear | None]:
        """How many positions of each row remain, as functions of the lanes' shares; shape (rows, extent).

        None where a lane is there in part, or with some of its channels more often than with others.
        """
        if not self.lanes:
            return [Linear(rows.shape[1])] * len(rows)
        lanes = self.lane_of[rows]
        free = lanes >= 0
        constants = (~free).sum(1)
        # A row and a channel as one number, then a row and a lane: sorting pairs of columns is far slower.
        found, times = _counted(np.nonzero(free)[0] * len(self.lane_of) + rows[free])
        row, channel = np.divmod(found, len(self.lane_of))
        pairs, inverse, present = np.unique(
            row * len(self.lanes) + self.lane_of[channel], return_inverse=True, return_counts=True
        )
        row, lane = np.divmod(pairs, len(self.lanes))
        counts = np.bincount(inverse, times, len(pairs)).astype(np.int64)  # weighted, they are floats
        # A lane counts as a whole where each of its channels is there, each as often as the others.
        uneven = np.zeros(len(pairs), dtype=bool)
        uneven[inverse[times * present[inverse] != counts[inverse]]] = True
        partly = set(row[uneven | (present != self._sizes[lane])].tolist())
        terms: list[dict[Unknown, Number]] = [{} for _ in range(len(rows))]
        for r, found_lane, count in zip(row.tolist(), lane.tolist(), counts.tolist(), strict=True):
            terms[r][found_lane] = int(count)  # weighted counts are floats, and a third of one is no fraction
        return [None if r in partly else Linear(c, terms[r]) for r, c in enumerate(constants.tolist())]

    def extent(self, ids: Tensor, axis: int) -> Linear | None:
        """How many positions of a value remain along an axis.

        Where the channels vary along several axes, the last of them loses elements and the others keep theirs.
        """
        footprint = self.footprints.of(ids)
        if not footprint.varying or axis != footprint.varying[-1]:
            return Linear(ids.shape[axis])
        key = (id(footprint), axis)  # the footprints live as long as this
        if key not in self._extents:
            self._extents[key] = self.contents(footprint.rows[:1])[0]
        return self._extents[key]

    def free_first(self, channels: Channels) -> Channels:
        """One id of each of some channels, of those that are free."""
        return self.first[channels[~self.pinned[channels]]]


@dataclass(frozen=True)
class _Labels:
    """What follows from the bindings and the pieces alone, whatever is pinned.

    `signature` is a number for the set of slots and pieces that a channel appears in, `members` pairs of slots and
    channels.
    """

    footprints: Footprints
    signature: NDArray[np.uint64]
    members: tuple[Channels, Channels]


class Divider:
    """Divides the channels of one model into lanes, under one set of constraints after another.

    What depends on the bindings alone is kept: most constraints that a check adds are pins.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._footprints: dict[tuple[bytes, ...], Footprints] = {}
        self._labels: dict[tuple[object, ...], _Labels] = {}

    def __call__(self, constraints: Constraints) -> Partition:
        """Number the channels, mark what is pinned, and divide the rest into lanes."""
        labels = self._labelled(constraints)
        pinned = np.zeros(len(labels.signature), dtype=bool)
        pinned[0] = True  # channel 0 is what belongs to no removable channel
        for pin in constraints.pins:
            pinned[labels.footprints.channel_of[pin.ids]] = True
        slots, channels = labels.members
        slotted = np.zeros(len(pinned), dtype=bool)
        slotted[channels] = True
        lane_of, lanes = _lanes(labels.signature, slotted & ~pinned)
        return Partition(labels.footprints, pinned, lane_of, lanes, _slots_of(slots, lane_of[channels], len(lanes)))

    def _labelled(self, constraints: Constraints) -> _Labels:
        base = len(self.facts.constraints.edges)
        # Checks that start anew ask for the same bindings in new arrays: their content is the key.
        added = tuple(pairs.tobytes() for pairs in constraints.edges[base:])
        if added not in self._footprints:
            self._footprints[added] = Footprints(components(constraints.edges, np.arange(self.facts.count)))
        # Equal pieces and rectangles are only ever taken away, and `facts` keeps them all: an id stays one thing's.
        key = (added, *map(id, constraints.equal), *map(id, constraints.rectangles))
        if key not in self._labels:
            self._labels[key] = self._label(self._footprints[added], constraints)
        return self._labels[key]

    def _label(self, footprints: Footprints, constraints: Constraints) -> _Labels:
        members = _pairs([footprints.channel_of[slot.ids.numpy()] for slot in self.facts.slots.values()])
        pieces = [footprints.of(piece).channels for equal in constraints.equal for piece in equal.pieces]
        pieces += [footprints.of(line).channels for line in self.facts.lines]
        for rectangle in constraints.rectangles:
            if len((footprint := footprints.of(rectangle.ids)).varying) > 1:
                pieces += list(footprint.rows)
        count = int(footprints.channel_of.max()) + 1
        return _Labels(footprints, _signature((members, _pairs(pieces)), count), members)


def components(edges: Sequence[NDArray[np.int64]], channel_of: Channels) -> Channels:
    """Channels joined by edges between ids, numbered from 1 in the order of the ids; id 0 is channel 0."""
    if not edges:
        return channel_of
    pairs = channel_of[np.concatenate(edges)]
    count = int(channel_of.max()) + 1
    ones = np.ones(len(pairs), np.int8)
    _, labels = connected_components(coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), (count, count)), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # the rank of each component by its first id, so that 0 stays 0
    found: Channels = order[inverse].astype(np.int64)[channel_of]
    return found


def _pairs(lines: Sequence[Channels]) -> tuple[Channels, Channels]:
    """The numbers of the lines and the channels in them, each pair once."""
    if not lines:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    channels = np.concatenate([line.reshape(-1) for line in lines])
    owners = np.repeat(np.arange(len(lines)), [line.size for line in lines])
    count = int(channels.max()) + 1 if len(channels) else 1
    owners, channels = np.divmod(_counted(owners * count + channels)[0], count)
    return owners, channels


def _counted(keys: Channels) -> tuple[Channels, Channels]:
    """Sorted unique keys and how often each is there; most are sorted and unique already."""
    if bool((keys[1:] > keys[:-1]).all()):
        return keys, np.ones(len(keys), np.int64)
    found, times = np.unique(keys, return_counts=True)
    return found, times


def _signature(sets: Sequence[tuple[Channels, Channels]], count: int) -> NDArray[np.uint64]:
    """The sum of a random number for every set that a channel is in."""
    # Two different sets have the same sum with a chance of 2^-63, and to compare sums is cheaper than to compare sets.
    generator = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    for owners, channels in sets:
        if len(owners):
            drawn = generator.integers(1, 2**63, int(owners.max()) + 1, dtype=np.uint64)
            np.add.at(signature, channels, drawn[owners])
    return signature


def _lanes(signature: NDArray[np.uint64], free: NDArray[np.bool_]) -> tuple[Channels, tuple[Channels, ...]]:
    """Free channels by the set of slots and pieces that they appear in, in the order of their first channels."""
    channels = np.flatnonzero(free)
    _, first, inverse = np.unique(signature[channels], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    lane_of = np.full(len(free), -1, dtype=np.int64)
    lane_of[channels] = order[inverse]
    by_lane = np.argsort(lane_of[channels], kind="stable")
    bounds = np.flatnonzero(np.diff(lane_of[channels][by_lane])) + 1
    lanes = tuple(np.split(channels[by_lane].astype(np.int64), bounds)) if len(channels) else ()
    return lane_of, lanes


def _slots_of(slots: Channels, lanes: Channels, count: int) -> tuple[tuple[int, ...], ...]:
    """The slots of each lane, ascending, from pairs of a slot and the lane of one of its channels."""
    number = int(slots.max()) + 1 if len(slots) else 1
    pairs = np.unique((lanes * number + slots)[lanes >= 0])
    bounds = np.searchsorted(pairs, np.arange(1, count) * number)
    return tuple(tuple(part.tolist()) for part in np.split(pairs % number, bounds)) if count else ()
