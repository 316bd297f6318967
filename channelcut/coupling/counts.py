"""Counts: what lanes without a common divisor keep, as the forward's own splits say.

Halves of 29 channels are 15 and 14, those of 24 are 12 and 12: lanes of one stream keep no equal shares, and yet the
forward of a narrower network says exactly how many each has. So the rules run on narrower networks (`scaled`), and what
they find is checked as everything else is: the rules run once more on what a selection keeps (`arrival`), the numbers
that the forward computes are computed, and the probe runs the real forward.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from torch import Tensor

from channelcut.core.footprint import Kept
from channelcut.core.graph import Arithmetic, Attribute, Extent, Free, Origin, WidthUse
from channelcut.core.groups import Group
from channelcut.coupling.arrival import Arriving
from channelcut.coupling.facts import Request, Table
from channelcut.coupling.replay import touching
from channelcut.coupling.scaled import Scale, Scaled
from channelcut.coupling.selections import selection
from channelcut.coupling.settle import Draft, first_use
from channelcut.ops.host import State

CHECK = "counts"
_MOST = 16  # widths of a group; each of them is checked
Counts = Mapping[int, tuple[int, ...]]


@dataclass(eq=False)
class UnequalLanes:
    """The check of groups whose lanes have no common divisor: it finds what they keep at one width after another."""

    _known: dict[tuple[object, ...], Counts] = field(default_factory=dict, repr=False)

    def __call__(self, draft: Draft) -> Sequence[Request]:
        """Tables for such groups; nothing, where there is none that could lose channels."""
        found: list[Request] = []
        for group in draft.groups:
            if group.width > 1 or group.step > 1 or len(group.lanes) == 1:
                continue
            # Another check may ask for more, and then the same lanes come again.
            key = (id(draft.partition.footprints), *(lane.tobytes() for lane in group.lanes))
            if key not in self._known:
                self._known[key] = _table(draft, group)
            if len(table := self._known[key]) > 1:
                first, site = draft.partition.first, first_use(draft.facts, group.name)
                found.append(Table(tuple(first[lane] for lane in group.lanes), table, site, CHECK))
        return found


def _table(draft: Draft, group: Group) -> Counts:
    """What every lane of a group keeps, by the width; empty where that cannot be said."""
    free = np.zeros(len(draft.partition.pinned), dtype=bool)
    free[group.channels] = True
    of = draft.partition.footprints.of
    slots = {key: int(free[of(slot.ids).line()].sum()) for key, slot in draft.facts.slots.items()}
    width = math.gcd(*slots.values())
    chosen = [
        set(touching(run, draft.facts, draft.partition.footprints, free.astype(np.int64))) for run in draft.facts.runs
    ]
    scale = Scale(free, Fraction(1), slots)
    whole = Scaled(draft.facts, draft.partition.footprints, scale, 0).counts(chosen[0])
    lane_of = _lanes(group, whole or {})
    if lane_of is None:
        return {}
    table = {width: tuple(len(lane) for lane in group.lanes)}
    for narrower in reversed(_widths(width)):
        scale = replace(scale, share=Fraction(narrower, width))
        found = Scaled(draft.facts, draft.partition.footprints, scale, 0).counts(chosen[0])
        counts = _counts(lane_of, found, len(group.lanes))
        # Of 3 channels a lane may have one more than of 4, where another has fewer; never more than it has.
        inside = counts is not None and all(map(operator.le, counts, table[width]))
        if counts is not None and inside and _fits(draft, group, counts, scale.share, chosen):
            table[narrower] = counts
    return dict(sorted(table.items()))


def _widths(width: int) -> list[int]:
    """The widths that are tried, ascending: the multiples of a power of two."""
    step = 1
    while width > _MOST * step:
        step *= 2
    return list(range(step, width, step))


def _lanes(group: Group, whole: Mapping[int, list[int]]) -> dict[int, int] | None:
    """The number of the lane of the channels with each signature; None where a lane has several, or two have one."""
    signature_of = {channel: signature for signature, channels in whole.items() for channel in channels}
    found: dict[int, int] = {}
    for number, lane in enumerate(group.lanes):
        signatures = {signature_of.get(channel) for channel in lane.tolist()}
        signature = signatures.pop()
        if signatures or signature is None or signature in found or len(whole[signature]) != len(lane):
            return None
        found[signature] = number
    return found if len(found) == len(whole) else None


def _counts(lane_of: Mapping[int, int], found: Mapping[int, list[int]] | None, lanes: int) -> tuple[int, ...] | None:
    """How many channels each lane has in a narrower network; None where that has others."""
    if found is None or not set(found) <= set(lane_of):
        return None
    counts = {lane_of[signature]: len(channels) for signature, channels in found.items()}
    return tuple(counts.get(lane, 0) for lane in range(lanes))


def _fits(draft: Draft, group: Group, counts: Sequence[int], share: Fraction, chosen: Sequence[set[int]]) -> bool:
    """Whether rules and numbers go through when the lanes keep these counts, at other positions in each."""
    attributes = _attributes(draft, group, counts, share)
    if attributes is None:
        return False
    movable = np.zeros(len(draft.partition.pinned), dtype=bool)
    movable[group.channels] = True
    kept, orders = _drawn(draft, group, counts), dict[tuple[str, int], Tensor]()
    if not _equal_pieces_are_equal(draft, kept):
        return False
    for number in range(len(draft.facts.runs)):
        checker = Arriving(draft.facts, draft.partition.footprints, kept, number, movable, orders)
        if checker.arrived(chosen[number]) is None or not _numbers_hold(checker, attributes, chosen[number]):
            return False
    return True


def _equal_pieces_are_equal(draft: Draft, kept: Kept) -> bool:
    """Whether pieces that must keep equal counts do: a forward may run with others, and mean something else."""
    of = draft.partition.footprints.of
    for equal in draft.constraints.equal:
        if len({int(kept[of(piece).line()].sum()) for piece in equal.pieces}) > 1:
            return False
    return all(
        len(set(kept[of(rectangle.ids).rows].sum(1).tolist())) == 1 for rectangle in draft.constraints.rectangles
    )


def _drawn(draft: Draft, group: Group, counts: Sequence[int]) -> Kept:
    """Channels that are drawn in every lane; of other groups there is about a half."""
    generator = np.random.default_rng(sum(counts))
    kept = selection([other for other in draft.groups if other is not group], len(draft.partition.pinned), 0)
    for lane, count in zip(group.lanes, counts, strict=True):
        kept[generator.choice(lane, len(lane) - count, replace=False)] = False
    return kept


def _attributes(draft: Draft, group: Group, counts: Sequence[int], share: Fraction) -> dict[Attribute, int] | None:
    """What is left of every number that a module keeps and that follows the group.

    None where it would be no whole number, or where it does not follow the group's width: what it counts is a part.
    """
    by_first = {int(lane[0]): Fraction(count, len(lane)) for lane, count in zip(group.lanes, counts, strict=True)}
    lanes = draft.partition.lanes
    found = {}
    for attribute, function in draft.solution.attributes.items():
        terms = {lane: c for lane, c in function.terms.items() if isinstance(lane, int)}
        ours = {lane: c for lane, c in terms.items() if int(lanes[lane][0]) in by_first}
        if ours:
            gone = sum(Fraction(c) * (1 - by_first[int(lanes[lane][0])]) for lane, c in ours.items())
            if gone != sum(Fraction(c) for c in ours.values()) * (1 - share):
                return None
            left = attribute.value * (Fraction(function.full) - gone)
            if left.denominator != 1:
                return None
            found[attribute] = int(left)
    return found


def _numbers_hold(checker: Arriving, attributes: Mapping[Attribute, int], chosen: set[int]) -> bool:
    """Whether the numbers that the forward computes are those that its ops need."""
    for use in checker.graph.uses:
        sources = list(use.origin.sources())
        follows = any(s in attributes if isinstance(s, Attribute) else s.node in chosen for s in sources)
        if follows and not _holds(use, checker, attributes):
            return False
    return True


def _holds(use: WidthUse, checker: Arriving, attributes: Mapping[Attribute, int]) -> bool:
    """Whether one number is what it has to be, as Python computes it."""
    number = _number(use.origin, lambda source: _left(source, checker, attributes))
    if use.role == "multiple":
        return number == 0
    if use.role == "extent" and use.index in checker.values:
        value = checker.found[use.index]
        return not isinstance(value, (Tensor, State)) or number == value.shape[use.axis]
    if (bound := checker.facts.bounds.get(((checker.number, use.index), use.role))) is not None:
        beside, sign = bound
        return number == sign * int(checker.kept[checker.footprints.of(beside).line()].sum())
    return number == _number(use.origin, lambda source: source.value)


def _left(source: Extent | Attribute, checker: Arriving, attributes: Mapping[Attribute, int]) -> int:
    """What an extent or an attribute is after the cut."""
    if isinstance(source, Attribute):
        return attributes.get(source, source.value)
    value = checker.found[source.node] if source.node in checker.values else None
    return int(value.shape[source.axis]) if isinstance(value, (Tensor, State)) else source.value


def _number(origin: Origin | float, leaf: Callable[[Extent | Attribute], int]) -> float:
    """A number of the forward, where `leaf` tells what extents and attributes are."""
    if isinstance(origin, (Extent, Attribute)):
        return leaf(origin)
    if isinstance(origin, Arithmetic):
        found: float = getattr(operator, origin.op)(*(_number(part, leaf) for part in origin.operands))
        return found
    assert not isinstance(origin, Free), "what is left to the op has no sources"
    return origin
