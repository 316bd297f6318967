"""The probe: does the real forward still run when every group has lost channels?

A forward may hard-code a width (`split((8, 8), 1)`, a literal in a view), which no graph shows. So every group loses a
channel or a few and the forward is traced again. The line that fails, or that computes with another number or gives
another size than predicted, and the values that it handles, say which channels a constant holds; they are pinned there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from channelcut.core.footprint import Kept
from channelcut.core.graph import Graph, Ref, Site
from channelcut.core.groups import Group, Groups
from channelcut.core.reasons import HARD_CODED_WIDTH
from channelcut.core.trees import leaves, mapped_only
from channelcut.coupling.binding import removable
from channelcut.coupling.facts import Facts, PinRequest, Request
from channelcut.coupling.result import groups_of
from channelcut.coupling.settle import Check, Draft, Settling, free_channels

CHECK = "probe"


@dataclass(frozen=True)
class Failure:
    """Where a smaller forward failed or differed: the user's lines, outermost first.

    `other_ops`: it ran other ops than the uncut one, maybe because it found what the first trace has left in a cache.
    """

    lines: Sequence[str]
    other_ops: bool = False


class StaleTrace(Exception):
    """The uncut forward runs other ops by now than when it was traced; holds its graph of today."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph


Forward = Callable[[Groups, Kept], "Failure | None"]
"""forward(groups, kept): run the model with the kept channels alone, and say where it fails or differs."""


@dataclass(eq=False)
class Probe:
    """The check of the real forward.

    Args:
        settling: settles the constraints of the model.
        forward: runs a cut copy of the model.
        again: traces the uncut model once more, for a forward that ran other ops; None where that has been done.
        cheaper: the checks before this one, which say what a pin would hold.
    """

    settling: Settling
    forward: Forward
    again: Callable[[], Graph] | None
    cheaper: Sequence[Check] = field(default=())

    def __call__(self, draft: Draft) -> Sequence[Request]:
        """What to pin so that the forward runs with every group a little smaller; nothing, where it does.

        Raises:
            StaleTrace: the uncut forward runs other ops by now than those that were traced.
        """
        if not draft.groups:
            return ()
        groups = groups_of(draft)
        failure = self.forward(groups, one_step(groups, groups.groups))
        if failure is None:
            return ()
        if failure.other_ops and self.again is not None:
            graph = self.again()
            if [node.name for node in graph.nodes] != [node.name for node in groups.graph.nodes]:
                raise StaleTrace(graph)
        return self._at_line(draft, failure) or self._by_halves(draft, groups)

    def _at_line(self, draft: Draft, failure: Failure) -> list[Request]:
        """Pin the channels at the innermost line of the failure that handles any that are still free.

        A line that handles most of what is free, such as a whole forward in one expression, tells too little: nothing.
        """
        free = free_channels(draft)
        tried = {request.site.source for request in draft.given.requests if request.check == CHECK}
        for line in reversed(failure.lines):
            requests = [] if line in tried else handled(draft.facts, line)
            if not requests:
                continue
            left = free_channels(self.settling.settle(self.cheaper, draft.given.refined(requests)))
            if left < free:  # else the line handles nothing that may go, and the next outer one is asked
                return requests if left >= free / 2 else []
        return []

    def _by_halves(self, draft: Draft, groups: Groups) -> list[Request]:
        """Where no line tells, find by halving which groups the forward cannot lose channels of, and pin these."""

        def failing(part: Sequence[Group]) -> list[Group]:
            if not part or self.forward(groups, one_step(groups, part)) is None:
                return []
            if len(part) == 1:
                return list(part)
            half = len(part) // 2
            return failing(part[:half]) + failing(part[half:])

        # Where each half runs and the whole does not, no group is to blame more than another: all of them stay.
        names = {group.name for group in failing(groups.groups) or groups.groups}
        return [
            _pin(slot.ids, Site("parameter", slot.tensor.rpartition(".")[0]))
            for slot in draft.facts.slots.values()
            if slot.tensor in names and len(removable(slot.ids))
        ]


def one_step(groups: Groups, smaller: Sequence[Group]) -> Kept:
    """Keep all but the last one to three channels of every lane of the groups in `smaller`.

    The steps differ from group to group, because a forward may read the width of one group and use it for another.
    """
    kept = np.ones(groups.channel_count, dtype=bool)
    for group in smaller:
        width = int(group.widths[max(0, len(group.widths) - 2 - group.index % 3)])
        for lane, count in zip(group.lanes, group.counts(width), strict=True):
            kept[lane[count:]] = False
    return kept


def handled(facts: Facts, line: str) -> list[Request]:
    """Pins on what goes into and comes out of the ops of a source line."""
    found: list[Request] = []
    for run in facts.runs:
        for node in run.graph.calls:
            if node.site.source == line and node.name != "getitem":  # its op is pinned already
                values = mapped_only(Ref, lambda ref: run.values[ref.index], node.args)  # noqa: B023  used at once
                tensors = [leaf for leaf in leaves((values, run.values[node.index])) if isinstance(leaf, Tensor)]
                found += [_pin(ids, node.site) for ids in tensors if len(removable(ids))]
    return found


def _pin(ids: Tensor, site: Site) -> PinRequest:
    return PinRequest(HARD_CODED_WIDTH, site, removable(ids), HARD_CODED_WIDTH.remedy, CHECK)
