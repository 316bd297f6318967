"""From what the rules collected to groups: partition, demands, replay, until nothing changes.

Channels are the connected components of all bindings. Channels with the same slots form a lane; lanes that must keep
the same share form a group. What a demand or the replay cannot be met with, is bound more tightly, or pinned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from channelcut.core.errors import ProofError
from channelcut.core.graph import Site
from channelcut.core.groups import Follower, Group, Groups, Pin, Slot, Work
from channelcut.coupling.collect import Coupler, RawPin
from channelcut.coupling.footprint import Channels
from channelcut.coupling.partition import Partition, Partitioner
from channelcut.coupling.replay import Mismatch, Replay, adversary, touching
from channelcut.coupling.sizes import REMEDY, Demands, Run, demands
from channelcut.ops.ids import compact

ORDER = "the channels would not keep their order"
SEEDS = (0, 1, 2)
ROUNDS = 200


def solve(partitioner: Partitioner, runs: Sequence[Run]) -> Groups:
    """Turn what the rules collected into `Groups`; the partitioner's coupler is bound and pinned further."""
    coupler = partitioner.coupler
    for _ in range(ROUNDS):
        found = partitioner.partition()
        wanted = demands(coupler, found, runs)
        if _bind_partly(coupler, found, wanted) or _pin_staying(coupler, found, wanted):
            continue
        groups = _groups(found, wanted, coupler)
        problems = _replayed(coupler, found, groups, runs)
        if not problems:
            return _result(coupler, found, wanted, groups, runs)
        _tighten_all(coupler, found, problems)
    raise AssertionError("the coupling does not come to an end")  # every round binds or pins something


def _bind_partly(coupler: Coupler, found: Partition, wanted: Demands) -> bool:
    """Pieces that hold only a part of a lane have no size of their own: equal ones are bound, others are pinned."""
    changed = False
    for position in reversed(range(len(coupler.equal))):
        pieces, _ = coupler.equal[position]
        if any(found.content(piece) is None for piece in pieces):
            coupler.equal.pop(position)
            for piece in pieces[1:]:
                coupler.bind(pieces[0], piece)
            changed = True
    if changed:
        return True
    for ids, reason, site in wanted.partly:
        changed |= _pin(coupler, found, np.unique(found.channels(ids)), reason, site)
    return changed


def _pin_staying(coupler: Coupler, found: Partition, wanted: Demands) -> bool:
    changed = False
    members: dict[int, list[int]] = defaultdict(list)
    for lane in range(len(found.lanes)):
        members[wanted.root(lane)].append(lane)
    for roots, reason, site in wanted.stay:
        lanes = sorted({lane for root in roots for lane in members[wanted.root(root)]})
        if lanes:
            changed |= _pin(coupler, found, np.concatenate([found.lanes[lane] for lane in lanes]), reason, site)
    return changed


def _pin(coupler: Coupler, found: Partition, channels: Channels, reason: str, site: Site) -> bool:
    """Pin channels by one id each; whether any was free."""
    free = channels[~found.pinned[channels]]
    if not len(free):
        return False
    coupler.pins.append(RawPin(reason, site, found.first[free], REMEDY))
    return True


def _replayed(coupler: Coupler, found: Partition, groups: tuple[Group, ...], runs: Sequence[Run]) -> list[Mismatch]:
    """The places where a selection with other positions in every lane does not go through.

    Channels that are alone in their lane have no other positions: one selection is enough for what reads only them.
    """
    several = np.zeros(len(found.pinned), dtype=bool)
    for group in groups:
        several[group.channels] = len(group.lanes) > 1
    chosen: list[set[int] | None] = [None] * len(runs)
    for seed in SEEDS if several.any() else SEEDS[:1]:
        kept = adversary(groups, len(found.pinned), seed)
        for run, nodes in zip(runs, chosen, strict=True):
            problems = Replay(coupler, found.footprints, kept).run(run.graph, run.values, nodes)
            if problems:
                return problems
        if seed == SEEDS[0] and several.any():
            chosen = [touching(run.graph, run.values, coupler, found.footprints, several) for run in runs]
    return []


def _tighten_all(coupler: Coupler, found: Partition, problems: Sequence[Mismatch]) -> None:
    """Tighten for the first mismatch, and for those in other lanes than the ones that this has changed."""
    changed = np.zeros(len(found.lanes) + 1, dtype=bool)  # the last is no lane
    for number, problem in enumerate(problems):
        lanes = found.lane_of[problem.channels]
        if number == 0 or ((lanes >= 0).any() and not changed[lanes].any()):
            changed[lanes] = True
            changed[found.lane_of[_tighten(coupler, found, problem)]] = True
            changed[-1] = False


def _group_of(found: Partition, groups: Sequence[Group]) -> Channels:
    """The group of each channel; -1: it stays."""
    group_of = np.full(len(found.pinned), -1, dtype=np.int64)
    for group in groups:
        group_of[group.channels] = group.index
    return group_of


def _tighten(coupler: Coupler, found: Partition, problem: Mismatch) -> Channels:
    """Bind the lanes that a mismatch is about, element by element; where there are none, pin the channels.

    Returns the channels that are bound or pinned.
    """
    lanes = found.lane_of[problem.channels]
    about = np.isin(found.lane_of, lanes[lanes >= 0])
    changed = []
    for position in reversed(range(len(coupler.rectangles))):
        footprint = found.footprints.of(coupler.rectangles[position][0])
        if len(footprint.varying) > 1 and about[footprint.channels].any():
            coupler.rectangles.pop(position)
            first, *others = (torch.from_numpy(found.first[row].astype(np.int32)) for row in footprint.rows)
            for line in others:
                coupler.bind(first, line)
            changed.append(footprint.channels.reshape(-1))
    for position in reversed(range(len(coupler.equal))):
        pieces, _ = coupler.equal[position]
        channels = np.concatenate([found.footprints.of(piece).line() for piece in pieces])
        if about[channels].any() and len({piece.numel() for piece in pieces}) == 1:
            coupler.equal.pop(position)
            for piece in pieces[1:]:
                coupler.bind(pieces[0], piece)
            changed.append(channels)
    if changed:
        bound: Channels = np.unique(np.concatenate(changed))
        return bound
    site = problem.node.site if problem.node is not None else Site()
    if not _pin(coupler, found, problem.channels, ORDER, site):
        raise ProofError(
            f"The coupling contradicts itself at {site}: what a cut would leave does not fit there, and nothing is "
            "left to pin. A rule for an op on the way is wrong; please report this with the model."
        )
    return problem.channels


def _groups(found: Partition, wanted: Demands, coupler: Coupler) -> tuple[Group, ...]:
    """Join lanes of one share, order by first channel, and name each group after its first producer."""
    joined: dict[int, list[int]] = defaultdict(list)
    for lane in range(len(found.lanes)):
        joined[wanted.root(lane)].append(lane)
    roles = [slot.role for slot in coupler.slots.values()]
    names = [slot.tensor for slot in coupler.slots.values()]
    groups: list[Group] = []
    for lanes in sorted(joined.values(), key=lambda members: min(int(found.lanes[lane][0]) for lane in members)):
        members = sorted({index for lane in lanes for index in found.slots_of[lane]})
        producer = next((i for i in members if roles[i] in ("out", "group", "depthwise")), members[0])
        ordered = sorted((found.lanes[lane] for lane in lanes), key=lambda channels: int(channels[0]))
        groups.append(Group(len(groups), names[producer], tuple(ordered), tuple(members)))
    return tuple(groups)


def _result(
    coupler: Coupler, found: Partition, wanted: Demands, groups: tuple[Group, ...], runs: Sequence[Run]
) -> Groups:
    channel_of = found.footprints.channel_of

    def relabel(ids: torch.Tensor) -> Channels:
        channels: Channels = channel_of[ids.to(torch.int64).numpy()]
        return channels

    graph = runs[0].graph
    return Groups(
        groups=groups,
        pins=_pins(coupler, channel_of),
        slots=tuple(Slot(s.tensor, s.axis, relabel(s.ids), s.role) for s in coupler.slots.values()),
        work=tuple(
            Work(w.macs, relabel(w.rows), relabel(w.columns), w.site) for w in coupler.work if w.graph == id(graph)
        ),
        channel_count=int(channel_of.max()) + 1,
        graph=graph,
        values=_Relabelled(runs[0].values, channel_of),
        shapes={n.name: n.value.shape for run in runs for n in run.graph.nodes if n.kind == "state"},
        followers=_followers(found, wanted, groups),
    )


def _followers(found: Partition, wanted: Demands, groups: tuple[Group, ...]) -> tuple[Follower, ...]:
    """The attributes that change with the widths."""
    group_of = _group_of(found, groups)
    followers = []
    for (module, name), value in wanted.attributes.items():
        terms: dict[int, float] = defaultdict(float)
        for lane, coefficient in value.terms.items():
            terms[int(group_of[found.lanes[lane][0]])] += coefficient
        kept = {group: c for group, c in terms.items() if abs(c) > 1e-9}
        if kept:
            followers.append(Follower(module, name, value.constant, tuple(sorted(kept.items()))))
    return tuple(followers)


class _Relabelled(dict[int, object]):
    """Ids of values, read as channels: relabelled when asked, because few values are."""

    def __init__(self, values: Mapping[int, object], channel_of: NDArray[np.int64]) -> None:
        super().__init__(values)
        self._table = torch.from_numpy(channel_of)

    def __getitem__(self, node: int) -> object:
        ids = super().__getitem__(node)
        if not isinstance(ids, torch.Tensor):
            return ids
        return self._table[compact(ids).to(torch.int64)].expand(ids.shape)


def _pins(coupler: Coupler, channel_of: Channels) -> tuple[Pin, ...]:
    """Pins of the same reason at the same place, joined."""
    joined: dict[tuple[str, Site, str], list[Channels]] = defaultdict(list)
    for pin in coupler.pins:
        joined[pin.reason, pin.site, pin.remedy].append(channel_of[pin.ids])
    pins = []
    held = np.zeros(int(channel_of.max()) + 1, dtype=bool)  # to mark is faster than to sort: most are there often
    for (reason, site, remedy), parts in joined.items():
        for part in parts:
            held[part] = True
        pins.append(Pin(reason, site.op, site.module, site.source, np.flatnonzero(held), remedy))
        held[pins[-1].channels] = False
    return tuple(pins)
