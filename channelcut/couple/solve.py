"""From bindings to channels, from channels to groups and lanes.

Channels are the connected components of all bindings. Channels with the same slots form a lane; lanes that a `chunk`
must keep equally wide form one group. An equality that is not between whole lanes is turned into bindings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from channelcut.core.graph import Graph, Site
from channelcut.core.groups import Group, Groups, Pin, Slot, Work
from channelcut.couple.coupler import Coupler, RawSlot
from channelcut.couple.ids import compact, varying_axes

Channels = NDArray[np.int64]


def solve(coupler: Coupler, graph: Graph, values: Mapping[int, object]) -> Groups:
    """Turn what the rules collected into `Groups`."""
    slots = list(coupler.slots.values())
    _settle_rectangles(coupler)
    while True:
        channel_of = _components(coupler)
        pinned = _pinned(coupler, channel_of)
        lanes = _lanes(slots, channel_of, pinned)
        equal, broken = _equal_lanes(coupler, channel_of, pinned, lanes)
        if not broken:
            break
        for position in sorted(broken, reverse=True):
            pieces, _ = coupler.equal.pop(position)
            for piece in pieces[1:]:
                coupler.bind(pieces[0], piece)
    groups = _groups(lanes, equal, slots)
    return Groups(
        groups=groups,
        pins=_pins(coupler, channel_of),
        slots=tuple(Slot(s.tensor, s.axis, _relabel(s.ids, channel_of), s.role) for s in slots),
        work=tuple(
            Work(w.macs, _relabel(w.rows, channel_of), _relabel(w.columns, channel_of), w.site) for w in coupler.work
        ),
        channel_count=int(channel_of.max()) + 1,
        graph=graph,
        values=_Relabelled(values, channel_of),
        shapes={n.name: n.value.shape for n in graph.nodes if n.kind == "state"},
    )


def _settle_rectangles(coupler: Coupler) -> None:
    """Bind what still varies along several axes, so that only the innermost of them loses elements."""
    table = torch.from_numpy(_components(coupler))
    for ids in coupler.rectangles:
        small = compact(ids)
        while len(axes := varying_axes(table[small.to(torch.int64)])) > 1:
            coupler.bind_along(small, axes[0])
            table = torch.from_numpy(_components(coupler))


class _Relabelled(dict[int, object]):
    """Ids of values, read as channels: relabelled when asked, because few values are."""

    def __init__(self, values: Mapping[int, object], channel_of: Channels) -> None:
        super().__init__(values)
        self._table = torch.from_numpy(channel_of)

    def __getitem__(self, node: int) -> object:
        ids = super().__getitem__(node)
        if not isinstance(ids, torch.Tensor):
            return ids
        return self._table[compact(ids).to(torch.int64)].expand(ids.shape)


def _components(coupler: Coupler) -> Channels:
    """The channel of each id, numbered from 1 in the order of the ids; id 0 is channel 0."""
    edges = np.concatenate(coupler.edges) if coupler.edges else np.zeros((0, 2), np.int64)
    ones = np.ones(len(edges), np.int8)
    shape = (coupler.next_id, coupler.next_id)
    _, labels = connected_components(coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=shape), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    channel_of: Channels = order[inverse].astype(np.int64)
    return channel_of


def _relabel(ids: torch.Tensor, channel_of: Channels) -> Channels:
    channels: Channels = channel_of[ids.to(torch.int64).numpy()]
    return channels


def _pinned(coupler: Coupler, channel_of: Channels) -> NDArray[np.bool_]:
    pinned = np.zeros(int(channel_of.max()) + 1, dtype=bool)
    pinned[0] = True
    for pin in coupler.pins:
        pinned[channel_of[pin.ids]] = True
    return pinned


def _lanes(slots: list[RawSlot], channel_of: Channels, pinned: NDArray[np.bool_]) -> dict[tuple[int, ...], Channels]:
    """Free channels by the set of slots that they appear in."""
    if not slots:
        return {}
    present = np.zeros((len(slots), len(pinned)), dtype=bool)
    for index, slot in enumerate(slots):
        present[index, _relabel(slot.ids, channel_of)] = True
    free = np.flatnonzero(present.any(0) & ~pinned)
    lanes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    signatures = np.packbits(present[:, free], axis=0).T
    where_of: dict[bytes, tuple[int, ...]] = {}
    for channel, signature in zip(free.tolist(), signatures, strict=True):
        key = signature.tobytes()
        if key not in where_of:
            where_of[key] = tuple(np.flatnonzero(present[:, channel]).tolist())
        lanes[where_of[key]].append(channel)
    return {where: np.sort(np.array(channels, dtype=np.int64)) for where, channels in lanes.items()}


def _equal_lanes(
    coupler: Coupler, channel_of: Channels, pinned: NDArray[np.bool_], lanes: Mapping[tuple[int, ...], Channels]
) -> tuple[list[list[tuple[int, ...]]], list[int]]:
    """Read every equality as one between whole lanes; returns those, and the positions of the ones that are not."""
    lane_of = {int(c): where for where, channels in lanes.items() for c in channels}
    equal, broken = [], []
    for position, (pieces, _) in enumerate(coupler.equal):
        channels = [_relabel(piece, channel_of) for piece in pieces]
        if all(pinned[c].all() for c in channels) or all(
            np.array_equal(np.sort(c), np.sort(channels[0])) for c in channels
        ):
            continue
        wheres = [{lane_of.get(int(c), ()) for c in piece} for piece in channels]
        whole = all(
            len(where) == 1 and len(piece) == len(np.unique(piece)) == len(lanes.get(next(iter(where)), ()))
            for where, piece in zip(wheres, channels, strict=True)
        )
        if whole:
            equal.append([next(iter(where)) for where in wheres])
        else:
            broken.append(position)
    return equal, broken


def _groups(
    lanes: Mapping[tuple[int, ...], Channels], equal: list[list[tuple[int, ...]]], slots: list[RawSlot]
) -> tuple[Group, ...]:
    """Join equal lanes, order by first channel, and name each group after its first producer."""
    parent = {where: where for where in lanes}

    def root(where: tuple[int, ...]) -> tuple[int, ...]:
        while parent[where] != where:
            where = parent[where]
        return where

    for wheres in equal:
        for other in wheres[1:]:
            parent[root(other)] = root(wheres[0])
    joined: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for where in sorted(lanes, key=lambda w: int(lanes[w][0])):
        joined[root(where)].append(where)
    groups: list[Group] = []
    for wheres in joined.values():
        members = sorted({index for where in wheres for index in where})
        producer = next((i for i in members if slots[i].role in ("out", "group", "depthwise")), members[0])
        groups.append(
            Group(len(groups), slots[producer].tensor, tuple(lanes[where] for where in wheres), tuple(members))
        )
    return tuple(groups)


def _pins(coupler: Coupler, channel_of: Channels) -> tuple[Pin, ...]:
    """Pins of the same reason at the same place, joined."""
    joined: dict[tuple[str, Site, str], set[int]] = defaultdict(set)
    for pin in coupler.pins:
        joined[pin.reason, pin.site, pin.remedy] |= set(channel_of[pin.ids].tolist())
    return tuple(
        Pin(reason, site.op, site.module, site.source, tuple(sorted(channels)), remedy)
        for (reason, site, remedy), channels in joined.items()
    )
