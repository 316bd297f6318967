"""The equations that a forward's sizes and numbers make between widths, solved at once.

A size that an op was called with must still fit after a cut: view(b, c, h, w) with the c of another tensor makes two
widths keep the same share; split((self.c, self.c)) makes `self.c` follow; a factor c ** -0.5 must not change at all.
Unknowns are the shares of lanes and the attributes of modules. Attributes are eliminated exactly, since each may be
whatever its equation says. What is left between lanes ties them to one share, or keeps them whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from channelcut.core import ids as I
from channelcut.core.footprint import Channels
from channelcut.core.graph import Attribute, Extent, Origin, Site, WidthUse, sources
from channelcut.core.reasons import COUNTS_A_PART, NUMBER_OF_WIDTH, SAME_COUNT, Reason
from channelcut.coupling.facts import Bind, Constraints, Facts, PinRequest, Request, Run
from channelcut.coupling.lanes import Partition
from channelcut.coupling.linear import Linear, Nonlinear, Unknown, value
from channelcut.ops.host import State

CHECK = "equations"


@dataclass(frozen=True)
class Row:
    """A function of lanes that must stay zero, why, and where."""

    difference: Linear
    reason: Reason
    site: Site


@dataclass(frozen=True)
class Use:
    """A number that the forward used: what it is made of, and what it must be (None: what it was)."""

    origin: Origin
    needed: Linear | None
    leaf: Callable[[Extent | Attribute], Linear]
    site: Site

    def difference(self, known: Mapping[Attribute, Linear]) -> Linear:
        """What the number is less what it must be, with the attributes that are known by now.

        Raises:
            Nonlinear: it is no linear function of what is unknown.
        """
        given = value(self.origin, lambda leaf: known[leaf] if isinstance(leaf, Attribute) and leaf in known else self.leaf(leaf))
        return given - (Linear(given.full) if self.needed is None else self.needed)


@dataclass(frozen=True)
class Tie:
    """Lanes that keep one share."""

    lanes: tuple[int, ...]
    reason: Reason
    site: Site


@dataclass(frozen=True)
class Shares:
    """The solution: what each attribute is, which lanes are tied, and what cannot be met without more constraints."""

    attributes: Mapping[Attribute, Linear]
    ties: tuple[Tie, ...]
    root: Mapping[int, int]
    requests: tuple[Request, ...] = ()


class Forest:
    """Lanes that keep one share (disjoint sets, Tarjan 1975); lanes without a tie are alone."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def root(self, lane: int) -> int:
        """The representative of the lanes that keep one share with this one."""
        while (above := self._parent.get(lane, lane)) != lane:
            self._parent[lane] = self._parent.get(above, above)
            lane = above
        return lane

    def tie(self, lanes: Sequence[int]) -> None:
        """Let lanes keep one share."""
        first = self.root(lanes[0])
        for lane in lanes[1:]:
            self._parent[self.root(lane)] = first


def solve(facts: Facts, constraints: Constraints, partition: Partition) -> Shares:
    """Find what the numbers of all runs and the equal pieces say about the lanes of a partition."""
    rows: list[Row] = []
    stays: Stays = []
    requests = _equal_rows(constraints, partition, rows)
    if requests:
        return Shares({}, (), {}, tuple(requests))
    forest = Forest()
    readers = [_Reader(facts, number, run, partition) for number, run in enumerate(facts.runs)]
    attributes, found = eliminated([use for reader in readers for use in reader.uses()], stays)
    ties = tied([*rows, *found], forest, stays)
    requests = [request for reader in readers for request in reader.requests] or [
        request for lanes, reason, site in stays for request in _whole(partition, forest, lanes, reason, site)
    ]
    for reader in readers:
        attributes |= reader.unused(attributes, forest)
    root = {lane: forest.root(lane) for lane in range(len(partition.lanes))}
    return Shares(attributes, tuple(ties), root, tuple(requests))


Stays = list[tuple[set[int], Reason, Site]]
"""Lanes that must stay whole, with the reason and the place."""


def eliminated(uses: Sequence[Use], stays: Stays) -> tuple[dict[Attribute, Linear], list[Row]]:
    """What every attribute is as a function of lanes, and the rows that are left, which speak of lanes alone.

    The plainest uses come first: what an attribute is as it stands decides, expressions of it have to agree. A use that
    is no product any more once one of its attributes is known waits for that. An attribute of which nothing says what
    it is keeps its value.
    """
    known: dict[Attribute, Linear] = {}
    rows: list[Row] = []
    pending = sorted(uses, key=lambda use: not isinstance(use.origin, Attribute))
    while pending:
        left = []
        several: list[Linear] = []
        for use in pending:
            try:
                difference = use.difference(known)
            except Nonlinear:
                left.append(use)
                continue
            unknown = _attributes(difference)
            if not difference.is_zero(difference.full):  # it does not hold before a cut, so it is no linear function after all
                stays.append((_lanes(difference), NUMBER_OF_WIDTH, use.site))
            elif not unknown:
                rows.append(Row(difference, NUMBER_OF_WIDTH, use.site))
            elif len(unknown) == 1:
                known[unknown[0]] = difference.solved_for(unknown[0]) * Linear(unknown[0].value)
            else:
                several.append(difference)
                left.append(use)
        determined = {} if len(left) < len(pending) else simultaneous(several)
        if len(left) == len(pending) and not determined:
            break
        known |= determined
        pending = left
    for use in pending:
        try:
            rows.append(Row(use.difference(_Constants(known)), NUMBER_OF_WIDTH, use.site))
        except Nonlinear as error:
            needed = set() if use.needed is None else _lanes(use.needed)
            stays.append(({u for u in error.unknowns if isinstance(u, int)} | needed, NUMBER_OF_WIDTH, use.site))
    return known, rows


class _Constants(dict[Any, Linear]):
    """What is known of attributes, and of every other one that it keeps its value."""

    def __contains__(self, leaf: object) -> bool:
        return isinstance(leaf, Attribute)

    def __missing__(self, leaf: Attribute) -> Linear:
        return Linear(leaf.value)


def simultaneous(differences: Sequence[Linear]) -> dict[Attribute, Linear]:
    """Functions of several attributes that are all zero, solved together (Gauss and Jordan's elimination).

    Returns those attributes alone that come out as functions of lanes; what stays open has no one answer.
    """
    solved: dict[Unknown, Linear] = {}
    for difference in differences:
        reduced = difference.with_known(solved)
        if unknown := _attributes(reduced):
            pivot = reduced.solved_for(unknown[0])
            solved = {u: function.with_known({unknown[0]: pivot}) for u, function in solved.items()}
            solved[unknown[0]] = pivot
    return {
        u: f * Linear(u.value) for u, f in solved.items() if isinstance(u, Attribute) and not _attributes(f)
    }


def _attributes(function: Linear) -> list[Attribute]:
    return [unknown for unknown in function.terms if isinstance(unknown, Attribute)]


def _lanes(function: Linear) -> set[int]:
    return {unknown for unknown in function.terms if isinstance(unknown, int)}


def tied(rows: Sequence[Row], forest: Forest, stays: Stays) -> list[Tie]:
    """Tie lanes to one share where a row asks for it; note in `stays` the lanes that must stay whole.

    Rows between two lanes come first: what they tie may be all that the longer ones need (4a + 6c = 4b + 6d holds where
    a = b and c = d). A row of more lanes that is still open at the end has more solutions than one share for all; that
    one always holds.
    """
    ties: list[Tie] = []
    pending, longest = list(rows), 2
    while pending:
        left = []
        for row in pending:
            merged = row.difference.merged(forest.root)
            lanes = sorted(_lanes(merged))
            if merged.fixed:
                continue
            if not merged.is_zero(merged.constant) or len(lanes) == 1:
                stays.append((set(lanes), row.reason, row.site))
            elif len(lanes) <= longest:
                forest.tie(lanes)
                ties.append(Tie(tuple(lanes), row.reason, row.site))
            else:
                left.append(row)
        longest = 2 if len(left) < len(pending) else longest + 1
        pending = left
    return ties


def _equal_rows(constraints: Constraints, partition: Partition, rows: list[Row]) -> list[Request]:
    """Rows for equal pieces and for the rows of rectangles.

    Pieces that hold only a part of a lane have no size of their own: equal ones are bound, rectangles are pinned.
    """
    binds: list[Request] = []
    pins: list[Request] = []
    for equal in constraints.equal:
        contents = [partition.content(piece) for piece in equal.pieces]
        if any(content is None for content in contents):
            binds.append(Bind(equal.pieces, equal, SAME_COUNT, equal.site, CHECK))
        rows += _same(contents, equal.site)
    for rectangle in constraints.rectangles:
        footprint = partition.footprints.of(rectangle.ids)
        if len(footprint.varying) > 1:
            contents = partition.contents(footprint.rows)
            if any(content is None for content in contents):
                pins += _pins(partition, footprint.channels, SAME_COUNT, rectangle.site)
            rows += _same(contents, rectangle.site)
    return binds or pins


def _same(contents: Sequence[Linear | None], site: Site) -> Iterator[Row]:
    """Rows that make all contents equal; none where one is not known."""
    first, *others = contents
    for content in others:
        if first is not None and content is not None and content != first and None not in contents:
            yield Row(first - content, SAME_COUNT, site)


def _whole(partition: Partition, forest: Forest, lanes: set[int], reason: Reason, site: Site) -> list[Request]:
    """Pin lanes, and those that are tied to them."""
    roots = {forest.root(lane) for lane in lanes}
    members = [lane for lane in range(len(partition.lanes)) if forest.root(lane) in roots] if roots else []
    return _pins(partition, np.concatenate([partition.lanes[m] for m in members]), reason, site) if members else []


def _pins(partition: Partition, channels: Channels, reason: Reason, site: Site) -> list[Request]:
    """Pin channels by one id each, if any is still free."""
    free = partition.free_first(np.unique(channels))
    return [PinRequest(reason, site, free, reason.remedy, CHECK)] if len(free) else []


class _Reader:
    """Reads the numbers of one run as rows."""

    def __init__(self, facts: Facts, number: int, run: Run, partition: Partition) -> None:
        self.facts, self.number, self.run, self.partition = facts, number, run, partition
        self.requests: list[Request] = []

    def uses(self) -> list[Use]:
        """Every number that decides a size, or that must not change."""
        found: list[Use] = []
        for use in self.run.graph.uses:
            needed = self._needed(use)
            if needed is not None or use.role == "number":
                found.append(Use(use.origin, needed, self._leaf, use.site))
        return found

    def _needed(self, use: WidthUse) -> Linear | None:
        """What a number must be after a cut; None where it decides no size, or where that is not clear."""
        if use.role in ("number", "free"):
            return None
        if use.role == "extent":
            ids = self.run.values.get(use.index)
            return self._counted(ids, use.axis, use.site) if isinstance(ids, torch.Tensor) else None
        bound = self.facts.bounds.get(((self.number, use.index), use.role))
        if bound is None:
            return None
        line, sign = bound
        content = self.partition.content(line)
        if content is None:
            self.requests += _pins(self.partition, self.partition.channels(line), COUNTS_A_PART, use.site)
            return None
        return content * Linear(sign)

    def _counted(self, ids: torch.Tensor, axis: int, site: Site) -> Linear | None:
        content = self.partition.extent(ids, axis)
        if content is None:
            self.requests += _pins(self.partition, self.partition.channels(ids), COUNTS_A_PART, site)
        return content

    def _leaf(self, leaf: Extent | Attribute) -> Linear:
        """An attribute is an unknown; an extent is what is left of the value that it was read from."""
        if isinstance(leaf, Attribute):
            return Linear(0, {leaf: leaf.value})
        ids, axis = self.run.values.get(leaf.node), leaf.axis
        if isinstance(ids, State):
            slot = self.facts.slots.get((ids.name, ids.axis(axis)))
            ids, axis = (slot.ids, 0) if slot is not None else (None, 0)
        if not isinstance(ids, torch.Tensor):
            return Linear(leaf.value)
        content = self.partition.extent(ids, axis)
        if content is None:
            lanes = self.partition.lane_of[self.partition.channels(ids)]
            raise Nonlinear(Linear(0, dict.fromkeys(lanes[lanes >= 0].tolist(), 1)))
        return content

    def unused(self, attributes: Mapping[Attribute, Linear], forest: Forest) -> dict[Attribute, Linear]:
        """Attributes that this forward does not use, but that equal the pieces of a split in their own module.

        Such as the width that C2f keeps for another form of its forward.
        """
        graph = self.run.graph
        used = {s for use in graph.uses for s in sources(use.origin)}
        known = {(a.module, a.name) for a in (*used, *attributes) if isinstance(a, Attribute)}
        found: dict[Attribute, Linear] = {}
        by_module: dict[str, list[Attribute]] = {}
        for (path, name), number in graph.attributes.items():
            if (path, name) not in known:
                by_module.setdefault(path, []).append(Attribute(path, name, number))
        pieces: dict[str, list[Linear]] = {}
        for index, axis in self.facts.divisions.get(self.number, ()) if by_module else ():
            module = graph.nodes[index].site.module
            for ids in self.run.values[index] if module in by_module else ():
                if axis in I.varying_axes(ids) and (content := self.partition.extent(ids, axis)) is not None:
                    pieces.setdefault(module, []).append(content)
        for module, contents in pieces.items():
            for attribute in by_module[module]:
                same = [c.merged(forest.root) for c in contents if c.full == attribute.value]
                if same and all(c == same[0] for c in same):
                    found[attribute] = same[0]
        return found
