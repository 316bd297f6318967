"""The one loop of the analysis: constraints are refined until no check objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from channelcut.core.errors import ChannelcutError
from channelcut.core.footprint import Channels, Kept
from channelcut.core.graph import Site
from channelcut.core.groups import Group, Role
from channelcut.core.reasons import ALL_TOGETHER, MULTIPLE_OF_WIDTH, NO_COMMON_STEP, ONE_CHANNEL
from channelcut.coupling.equations import Solution, solve
from channelcut.coupling.facts import Constraints, Facts, PinRequest, Request
from channelcut.coupling.lanes import Divider, Partition

LIMIT = 200  # rounds; every one binds or pins something, and models take fewer than ten


@dataclass(frozen=True)
class Draft:
    """What a model looks like under some constraints.

    `given` are the constraints that the check which looks at it has asked for so far; `constraints` are these and what
    the checks before it have added.
    """

    facts: Facts
    given: Constraints
    constraints: Constraints
    partition: Partition
    solution: Solution

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Lanes of one share, joined, in the order of their first channels; each named after its first producer."""
        partition = self.partition
        joined: dict[int, list[int]] = defaultdict(list)
        for lane in range(len(partition.lanes)):
            joined[self.solution.shares.root(lane)].append(lane)
        slots = list(self.facts.slots.values())
        groups: list[Group] = []
        for lanes in sorted(joined.values(), key=lambda lanes: min(int(partition.lanes[lane][0]) for lane in lanes)):
            members = sorted({index for lane in lanes for index in partition.slots_of[lane]})
            makes = (Role.OUT, Role.GROUP, Role.DEPTHWISE)
            producer = next((i for i in members if slots[i].role in makes), members[0])
            # Lanes and groups come in the order of their channels, which is that of the forward, whatever tied them.
            ordered = sorted((partition.lanes[lane] for lane in lanes), key=lambda channels: int(channels[0]))
            step = self.solution.steps.get(self.solution.shares.root(lanes[0]), 1)
            table = self._table(ordered)
            groups.append(Group(len(groups), slots[producer].tensor, tuple(ordered), tuple(members), step, table))
        return tuple(groups)

    def _table(self, lanes: Sequence[Channels]) -> Mapping[int, tuple[int, ...]]:
        """What these lanes keep where they keep no equal shares; empty where nothing says so."""
        channel_of = self.partition.footprints.channel_of
        for table in self.constraints.tables:
            same = len(table.lanes) == len(lanes)
            if same and all(np.array_equal(channel_of[a], b) for a, b in zip(table.lanes, lanes, strict=True)):
                return table.counts
        return {}

    @cached_property
    def movable(self) -> Kept:
        """The channels of groups with a table, shape (channels,)."""
        found = np.zeros(len(self.partition.pinned), dtype=bool)
        for group in self.groups:
            found[group.channels] = bool(group.table)
        return found

    @cached_property
    def group_of(self) -> Channels:
        """The group of each channel; -1: it stays."""
        found = np.full(len(self.partition.pinned), -1, dtype=np.int64)
        for group in self.groups:
            found[group.channels] = group.index
        return found


Check = Callable[[Draft], Sequence[Request]]
"""Looks at a draft and says what it objects to; nothing, where all is well."""


@dataclass(frozen=True)
class Settling:
    """Settles the constraints of one model.

    `divide` keeps what depends on bindings alone, so that a refinement that only pins is cheap.
    """

    facts: Facts
    divide: Divider
    _settled: dict[tuple[Check, ...], Draft] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, facts: Facts) -> Settling:
        """Begin with what the rules said."""
        return cls(facts, Divider(facts))

    def settle(self, checks: Sequence[Check], constraints: Constraints | None = None) -> Draft:
        """Refine constraints until no check objects.

        Checks go from cheap to dear. What a dear one asks for is added to the constraints that it was given, and the
        cheaper ones start anew from there: a pin may make a binding unnecessary that was found without it.
        """
        given = self.facts.constraints if constraints is None else constraints
        if not checks:
            return self._draft(given)
        if given is not self.facts.constraints:
            return self._refined(checks, given)
        key = tuple(checks)  # what the rules alone come to is asked more than once
        if key not in self._settled:
            self._settled[key] = self._refined(checks, given)
        return self._settled[key]

    def _refined(self, checks: Sequence[Check], given: Constraints) -> Draft:
        *cheaper, check = checks
        for _ in range(LIMIT):
            # Not from the draft's own constraints: see above.
            draft = replace(self.settle(cheaper, given), given=given)
            requests = check(draft)
            if not requests:
                return draft
            given = given.refined(requests)
        raise ChannelcutError("The analysis does not come to an end. Please report this with the model.")

    def without_held(self, draft: Draft) -> Draft:
        """What can never lose a channel is no group, and what holds it is said.

        This is no check: no selection that is legal changes by it, so that nothing has to be checked anew.
        """
        requests = _held(draft)
        return self._draft(draft.constraints.refined(requests)) if requests else draft

    def _draft(self, constraints: Constraints) -> Draft:
        partition = self.divide(constraints)
        return Draft(self.facts, constraints, constraints, partition, solve(self.facts, constraints, partition))


def free_channels(draft: Draft) -> int:
    """How many channels may go."""
    return sum(len(group.channels) for group in draft.groups if group.width > 1)


def _held(draft: Draft) -> Sequence[Request]:
    """Pins of the groups that can never lose a channel."""
    requests = []
    slots = list(draft.facts.slots.values())
    for group in draft.groups:
        if group.width == 1:
            extents = {len(slots[index].ids) for index in group.slots}
            alone = ONE_CHANNEL if extents == {1} else ALL_TOGETHER
            several = MULTIPLE_OF_WIDTH if group.step > 1 else NO_COMMON_STEP
            reason = alone if len(group.channels) == 1 else several
            ids = draft.partition.free_first(group.channels)
            requests.append(PinRequest(reason, first_use(draft.facts, group.name), ids, reason.remedy, "steps"))
    return requests


def first_use(facts: Facts, tensor: str) -> Site:
    """The first op that reads a parameter."""
    for run in facts.runs:
        for node in run.graph.calls:
            if any(run.graph.nodes[ref.index].name == tensor for ref in node.inputs):
                return node.site
    return Site()


def equations(draft: Draft) -> Sequence[Request]:
    """The check of the numbers: what the linear system cannot meet with the lanes as they are."""
    return draft.solution.requests
