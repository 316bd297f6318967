"""From a settled draft to `Groups`: ids become channels, requests become pins and findings."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import Tensor

from channelcut.core.footprint import Channels
from channelcut.core.graph import Site
from channelcut.core.groups import Finding, Follower, Groups, Index, Pin, Slot, Work
from channelcut.core.reasons import NO_COMMON_STEP
from channelcut.coupling.arrival import Arrangement
from channelcut.coupling.facts import Bind, PinRequest, Table
from channelcut.coupling.settle import Draft


def groups_of(draft: Draft) -> Groups:
    """What the settled constraints of a model mean for its channels."""
    channel_of = draft.partition.footprints.channel_of

    def channels(ids: Tensor) -> Channels:
        found: Channels = channel_of[ids.to(dtype=ids.dtype).long().numpy()]
        return found

    facts = draft.facts
    first = facts.runs[0]
    return Groups(
        groups=draft.groups,
        pins=_pins(draft),
        slots=tuple(Slot(s.tensor, s.axis, channels(s.ids), s.role) for s in facts.slots.values()),
        work=tuple(
            Work(w.macs, channels(w.rows), channels(w.columns), w.site, w.node) for w in facts.work if w.run == 0
        ),
        channel_count=int(channel_of.max()) + 1,
        graph=first.graph,
        shapes={n.name: n.value.shape for run in facts.runs for n in run.graph.nodes if n.kind == "state"},
        followers=_followers(draft),
        indices=tuple(Index(name, i.values, channels(i.line)) for name, i in facts.indices.items()),
        free_outputs=facts.options.free_outputs,
        findings=_findings(draft),
        arrange=Arrangement(facts, draft.partition.footprints, draft.movable) if draft.movable.any() else None,
        _ids=first.values,
        _channel_of=channel_of,
    )


def _followers(draft: Draft) -> tuple[Follower, ...]:
    """The attributes that change with the widths."""
    followers = []
    for attribute, function in draft.solution.attributes.items():
        terms: dict[int, float] = defaultdict(float)
        for lane, coefficient in function.terms.items():
            assert isinstance(lane, int)  # attributes have been eliminated
            terms[int(draft.group_of[draft.partition.lanes[lane][0]])] += float(coefficient * attribute.value)
        kept = tuple(sorted((group, c) for group, c in terms.items() if abs(c) > 1e-9))
        if kept:
            followers.append(
                Follower(attribute.module, attribute.name, float(function.constant * attribute.value), kept)
            )
    return tuple(followers)


def _pins(draft: Draft) -> tuple[Pin, ...]:
    """Pins of the same reason at the same place, joined."""
    channel_of = draft.partition.footprints.channel_of
    joined: dict[tuple[str, Site, str], list[Channels]] = defaultdict(list)
    for pin in draft.constraints.pins:
        joined[str(pin.reason), pin.site, pin.remedy].append(channel_of[pin.ids])
    pins = []
    held = np.zeros(len(draft.partition.pinned), dtype=bool)  # to mark is faster than to sort: most are there often
    for (reason, site, remedy), parts in joined.items():
        for part in parts:
            held[part] = True
        pins.append(Pin(reason, site.op, site.module, site.source, np.flatnonzero(held), remedy))
        held[pins[-1].channels] = False
    return tuple(pins)


def _findings(draft: Draft) -> tuple[Finding, ...]:
    """What checks have asked for, and the ties between lanes, in order."""
    channel_of, lanes = draft.partition.footprints.channel_of, draft.partition.lanes
    found = []
    for request in draft.constraints.requests:
        if isinstance(request, Bind):
            ids = np.concatenate([line.numpy().reshape(-1) for line in request.lines])
            effect, reason = "bind", str(request.reason)
        elif isinstance(request, Table):
            ids = np.concatenate(request.lanes)
            effect, reason = "counts", str(NO_COMMON_STEP)
        else:
            assert isinstance(request, PinRequest)
            ids, effect, reason = request.ids, "pin", str(request.reason)
        channels = np.unique(channel_of[ids])
        found.append(Finding(request.check, effect, reason, request.site, channels[channels > 0]))
    for tie in draft.solution.ties:
        channels = np.unique(np.concatenate([lanes[lane] for lane in tie.lanes]))
        found.append(Finding("equations", "tie", str(tie.reason), tie.site, channels))
    return tuple(found)
