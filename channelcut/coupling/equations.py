"""The first check: what a forward's sizes and numbers demand of the widths.

A size that an op was called with must still fit after a cut: view(b, c, h, w) with the c of another tensor makes two
widths keep the same share; split((self.c, self.c)) makes `self.c` follow; a factor c ** -0.5 must not change at all.
Here these demands are read as rows of one linear system, which coupling.system solves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.footprint import Channels
from channelcut.core.graph import Arithmetic, Attribute, Extent, Site, WidthUse
from channelcut.core.reasons import COUNTS_A_PART, MULTIPLE_OF_WIDTH, SAME_COUNT, Reason
from channelcut.coupling.facts import Bind, Constraints, Facts, PinRequest, Request, Run
from channelcut.coupling.lanes import Partition
from channelcut.coupling.linear import Linear, Nonlinear, value
from channelcut.coupling.system import Lanes, Row, Shares, Use, eliminated, tied
from channelcut.ops.host import State

CHECK = "equations"


@dataclass(frozen=True)
class Solution:
    """What each attribute is, which lanes keep one share, and what cannot be met without more constraints.

    `steps`: of which number what lanes keep must be a multiple, by their root in `shares`.
    """

    attributes: Mapping[Attribute, Linear]
    ties: Sequence[Lanes]
    shares: Shares
    requests: Sequence[Request]
    steps: Mapping[int, int] = field(default_factory=dict)


def solve(facts: Facts, constraints: Constraints, partition: Partition) -> Solution:
    """Find what the numbers of all runs and the equal pieces say about the lanes of a partition."""
    shares = Shares()
    rows: list[Row] = []
    # Pieces that have no count of their own first: what binds them changes the lanes that all else is said of.
    if requests := _equal_counts(constraints, partition, rows):
        return Solution({}, (), shares, requests)
    readers = [_Reader(facts, number, run, partition) for number, run in enumerate(facts.runs)]
    attributes, found = eliminated([use for reader in readers for use in reader.uses()])
    ties, whole = tied([*rows, *found], shares)
    requests = [request for reader in readers for request in reader.requests]
    # A pin may change which sizes can be counted, and with that what has to stay whole: one kind in a round.
    requests = requests or [request for lanes in whole for request in _whole(partition, shares, lanes)]
    for reader in readers:
        attributes |= reader.unused(attributes, shares)
    steps: dict[int, int] = {}
    if not requests:
        widths = _widths(partition, shares)
        requests = [request for reader in readers for request in reader.multiples(attributes, shares, widths, steps)]
    return Solution(attributes, ties, shares, requests, steps)


def _widths(partition: Partition, shares: Shares) -> dict[int, int]:
    """The greatest common divisor of the lengths of the lanes that keep one share, by their root."""
    found: dict[int, int] = {}
    for lane, channels in enumerate(partition.lanes):
        root = shares.root(lane)
        found[root] = math.gcd(found.get(root, 0), len(channels))
    return found


def _equal_counts(constraints: Constraints, partition: Partition, rows: list[Row]) -> list[Request]:
    """Add rows for equal pieces and for the rows of rectangles.

    Pieces that hold only a part of a lane have no count of their own: equal ones are bound, rectangles are pinned.
    """
    binds: list[Request] = []
    pins: list[Request] = []
    for equal in constraints.equal:
        contents = [partition.content(piece) for piece in equal.pieces]
        if None in contents:
            binds.append(Bind(equal.pieces, equal, SAME_COUNT, equal.site, CHECK))
        rows += _same(contents, equal.site)
    for rectangle in constraints.rectangles:
        footprint = partition.footprints.of(rectangle.ids)
        if len(footprint.varying) > 1:
            contents = partition.contents(footprint.rows)
            if None in contents:
                pins += _pins(partition, footprint.channels, SAME_COUNT, rectangle.site)
            rows += _same(contents, rectangle.site)
    return binds or pins


def _same(contents: Sequence[Linear | None], site: Site) -> Iterator[Row]:
    """Rows that make all contents equal; none where one is not known."""
    known = [content for content in contents if content is not None]
    if len(known) == len(contents):
        yield from (Row(known[0] - other, SAME_COUNT, site) for other in known[1:] if other != known[0])


def _whole(partition: Partition, shares: Shares, found: Lanes) -> Iterable[Request]:
    """Pin lanes, and those that keep one share with them."""
    roots = {shares.root(lane) for lane in found.lanes}
    channels = [lane for number, lane in enumerate(partition.lanes) if shares.root(number) in roots]
    return _pins(partition, np.concatenate(channels), found.reason, found.site)


def _pins(partition: Partition, channels: Channels, reason: Reason, site: Site) -> list[Request]:
    """Pin channels by one id each, if any is still free."""
    free = partition.free_first(np.unique(channels))
    return [PinRequest(reason, site, free, reason.remedy, CHECK)] if len(free) else []


class _Reader:
    """Reads the numbers of one run."""

    def __init__(self, facts: Facts, number: int, run: Run, partition: Partition) -> None:
        self.facts, self.number, self.run, self.partition = facts, number, run, partition
        self.requests: list[Request] = []

    def uses(self) -> list[Use]:
        """Every number that decides a size, or that must not change."""
        sizes = [(use, self._needed(use)) for use in self.run.graph.uses]
        return [Use(u.origin, n, self._extent, u.site) for u, n in sizes if n is not None or u.role == "number"]

    def _needed(self, use: WidthUse) -> Linear | None:
        """What a number must be after a cut; None where it decides no size, or where that is not clear."""
        if use.role == "extent":
            ids = self.run.values.get(use.index)
            if isinstance(ids, State):
                return self._parameter(ids, use.axis)
            if not isinstance(ids, Tensor):
                return None
            content, sign = self.partition.extent(ids, use.axis), 1
        elif ((self.number, use.index), use.role) in self.facts.bounds:
            ids, sign = self.facts.bounds[(self.number, use.index), use.role]
            content = self.partition.content(ids)
        else:
            return None
        if content is None:
            self.requests += _pins(self.partition, self.partition.channels(ids), COUNTS_A_PART, use.site)
            return None
        return content * Linear(sign)

    def _extent(self, extent: Extent) -> Linear:
        """What is left of the value that an extent was read from."""
        ids, axis = self.run.values.get(extent.node), extent.axis
        if isinstance(ids, State):  # the shape of a parameter, such as self.weight.shape[0]
            return self._parameter(ids, axis) or Linear(extent.value)
        if not isinstance(ids, Tensor):
            return Linear(extent.value)
        content = self.partition.extent(ids, axis)
        if content is None:
            lanes = self.partition.lane_of[self.partition.channels(ids)]
            raise Nonlinear(Linear(0, dict.fromkeys(lanes[lanes >= 0].tolist(), 1)))
        return content

    def _parameter(self, state: State, axis: int) -> Linear | None:
        """What is left of an axis of a parameter, or of what is computed of some; None where it has several slots."""
        left = Linear(1)
        for factor in state.factors[axis]:
            slots = [self.facts.slots.get((stored.name, stored.axis)) for stored in factor.stored]
            slot = next((slot for slot in slots if slot is not None), None)
            content = Linear(factor.extent) if slot is None else self.partition.extent(slot.ids, 0)
            if content is None or not (left.fixed or content.fixed):
                return None
            left = left * content
        return left

    def multiples(
        self, attributes: Mapping[Attribute, Linear], shares: Shares, widths: Mapping[int, int], steps: dict[int, int]
    ) -> list[Request]:
        """Note in `steps` what the widths have to be multiples of; returns pins where no step is one."""

        def leaf(source: Extent | Attribute) -> Linear:
            if isinstance(source, Extent):
                return self._extent(source)
            return attributes.get(source, Linear(1)) * Linear(source.value)

        found: list[Request] = []
        for use in self.run.graph.uses:
            if use.role != "multiple" or not isinstance(use.origin, Arithmetic):
                continue
            try:
                number, divisor = (value(operand, leaf) for operand in use.origin.operands)
                terms = number.merged(shares.root).terms if divisor.fixed else dict.fromkeys(number.terms, 0)
            except Nonlinear as error:
                terms = dict.fromkeys(error.unknowns, 0)
            for root, coefficient in terms.items():
                assert isinstance(root, int)  # attributes have been eliminated, or keep their values
                # Losing m of the root's steps takes coefficient · m / width off the number.
                taken = Fraction(coefficient) / widths[shares.root(root)] / int(divisor.full) if coefficient else None
                step = math.lcm(steps.get(root, 1), taken.denominator) if taken is not None else 0
                if step and widths[root] % step == 0:
                    steps[root] = step
                else:
                    found += _whole(self.partition, shares, Lanes((root,), MULTIPLE_OF_WIDTH, use.site))
        return found

    def unused(self, attributes: Mapping[Attribute, Linear], shares: Shares) -> dict[Attribute, Linear]:
        """Attributes that this forward does not use, but that equal the pieces of a split in their own module.

        Such as the width that C2f keeps for another form of its forward.
        """
        graph = self.run.graph
        used = {*attributes, *(source for use in graph.uses for source in use.origin.sources())}
        kept = [Attribute(path, name, number) for (path, name), number in graph.attributes.items()]
        by_module: dict[str, list[Attribute]] = {}
        for attribute in kept:
            if attribute not in used:
                by_module.setdefault(attribute.module, []).append(attribute)
        pieces: dict[str, list[Linear]] = {}
        for index, axis in self.facts.divisions.get(self.number, ()) if by_module else ():
            module = graph.nodes[index].site.module
            for ids in self.run.values[index] if module in by_module else ():
                if axis in I.varying_axes(ids) and (content := self.partition.extent(ids, axis)) is not None:
                    pieces.setdefault(module, []).append(content)
        found: dict[Attribute, Linear] = {}
        for module, contents in pieces.items():
            for attribute in by_module[module]:
                same = [c.merged(shares.root) for c in contents if c.full == attribute.value]
                # Pieces of one module that keep different shares tell nothing of what the number means.
                if same and all(c == same[0] for c in same):
                    found[attribute] = same[0] * Linear(1 / Fraction(attribute.value))
        return found
