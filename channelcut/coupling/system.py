"""The linear system of a model's widths: exact elimination of attributes, then ties between lanes.

A row is a function of lanes and attributes that must stay zero (see coupling.linear for the unknowns).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from channelcut.core.graph import Attribute, Extent, Origin, Site
from channelcut.core.reasons import NUMBER_OF_WIDTH, SIZE_OF_WIDTH, Reason
from channelcut.coupling.linear import Linear, Nonlinear, Unknown, value


@dataclass(frozen=True)
class Row:
    """A function of lanes that must stay zero, why, and where."""

    difference: Linear
    reason: Reason
    site: Site


@dataclass(frozen=True)
class Lanes:
    """Lanes of which something was found: that they keep one share, or that they stay whole."""

    lanes: tuple[int, ...]
    reason: Reason
    site: Site


@dataclass(frozen=True)
class Use:
    """A number that the forward used: what it is made of, and what it must be (None: what it was)."""

    origin: Origin
    needed: Linear | None
    extent: Callable[[Extent], Linear]
    site: Site

    @property
    def reason(self) -> Reason:
        """Why widths have to agree with the number."""
        return NUMBER_OF_WIDTH if self.needed is None else SIZE_OF_WIDTH

    def difference(self, known: Mapping[Attribute, Linear]) -> Linear:
        """What the number is less what it must be, where some attributes are `known` as functions of lanes.

        Raises:
            Nonlinear: it is no linear function of what is unknown.
        """

        def leaf(source: Extent | Attribute) -> Linear:
            if isinstance(source, Extent):
                return self.extent(source)
            factor = known[source] if source in known else Linear(0, {source: 1})
            return factor * Linear(source.value)

        given = value(self.origin, leaf)
        return given - (Linear(given.full) if self.needed is None else self.needed)

    def whole(self, lanes: Iterable[Unknown]) -> list[Row]:
        """Rows that keep lanes whole: nothing less precise can be said of this number."""
        needed = () if self.needed is None else self.needed.terms
        return [Row(Linear(1, {lane: -1}), self.reason, self.site) for lane in (*lanes, *needed)]


class Shares:
    """Lanes that keep one share (disjoint sets, Tarjan 1975); at first each keeps one of its own."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def root(self, lane: int) -> int:
        """The representative of the lanes that keep one share with this one."""
        while (above := self._parent.get(lane, lane)) != lane:
            lane = above
        return lane

    def tie(self, lanes: Sequence[int]) -> None:
        """Let lanes keep one share."""
        first = self.root(lanes[0])
        for lane in lanes[1:]:
            self._parent[self.root(lane)] = first


def eliminated(uses: Sequence[Use]) -> tuple[dict[Attribute, Linear], list[Row]]:
    """What every attribute is as a function of lanes, and the rows that are left, which speak of lanes alone.

    The plainest uses come first: what an attribute is as it stands decides, expressions of it have to agree. An
    expression that is not linear waits until an attribute in it is known. An attribute of which nothing says what it is
    keeps its value, first of all one that others are divided by (`self.channels // self.paths`). A row that does not
    hold before a cut is no linear function after all (c // 2 of an odd c).
    """
    known: dict[Attribute, Linear] = {}
    rows: list[Row] = []
    pending = sorted(uses, key=lambda use: not isinstance(use.origin, Attribute))
    while True:
        waiting, several = [], []
        divisors: dict[Attribute, Linear] = {}
        for use in pending:
            try:
                difference = use.difference(known)
            except Nonlinear as error:
                waiting.append(use)
                divisors |= {unknown: Linear(1) for unknown in error.divisors if isinstance(unknown, Attribute)}
                continue
            unknown = _attributes(difference)
            if not difference.is_zero(difference.full):
                rows += use.whole(lane for lane in difference.terms if lane not in unknown)
            elif len(unknown) == 1:
                known[unknown[0]] = difference.solved_for(unknown[0])
            elif unknown:
                waiting.append(use)
                several.append(difference)
            else:
                rows.append(Row(difference, use.reason, use.site))
        if len(waiting) == len(pending):  # no row alone says what an attribute is
            if not (found := simultaneous(several) or divisors):
                break
            known |= found
        pending = waiting
    return known, rows + [row for use in pending for row in _constant(use, known)]


def _constant(use: Use, known: dict[Attribute, Linear]) -> list[Row]:
    """Rows of a use whose unknown attributes keep their values."""
    kept = {s: Linear(1) for s in use.origin.sources() if isinstance(s, Attribute) and s not in known}
    try:
        return [Row(use.difference(known | kept), use.reason, use.site)]
    except Nonlinear as error:
        return use.whole(error.unknowns)


def simultaneous(differences: Sequence[Linear]) -> dict[Attribute, Linear]:
    """Functions of several attributes that are all zero, solved together (Gauss and Jordan's elimination).

    Returns those attributes alone that come out as functions of lanes; what stays open has no one answer.
    """
    solved: dict[Attribute, Linear] = {}
    for difference in differences:
        reduced = difference.with_known(solved)
        if unknown := _attributes(reduced):
            pivot = {unknown[0]: reduced.solved_for(unknown[0])}
            solved = {u: function.with_known(pivot) for u, function in solved.items()} | pivot
    return {attribute: function for attribute, function in solved.items() if not _attributes(function)}


def _attributes(function: Linear) -> list[Attribute]:
    return [unknown for unknown in function.terms if isinstance(unknown, Attribute)]


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Every row once: a number that is not linear keeps each of many lanes whole, and a forward may use it often."""
    by_content = {(r.difference.constant, frozenset(r.difference.terms.items()), r.reason, r.site): r for r in rows}
    return list(by_content.values())


def tied(rows: Sequence[Row], shares: Shares) -> tuple[list[Lanes], list[Lanes]]:
    """Tie lanes to one share where a row asks for it; returns the ties, and the lanes that must stay whole.

    Rows between two lanes come first: what they tie may be all that the longer ones need (4a + 6c = 4b + 6d holds where
    a = b and c = d). A row of more lanes that is still open at the end has more solutions than one share for all; that
    one always holds.
    """
    ties, whole = [], []
    pending, longest = _distinct(rows), 2
    while pending:
        waiting, shortest = [], sys.maxsize
        for row in pending:
            merged = row.difference.merged(shares.root)
            lanes = tuple(sorted(lane for lane in merged.terms if isinstance(lane, int)))
            found = Lanes(lanes, row.reason, row.site)
            if not merged.is_zero(merged.constant) or len(lanes) == 1:
                whole.append(found)
            elif 1 < len(lanes) <= longest:
                shares.tie(lanes)
                ties.append(found)
            elif lanes:
                waiting.append(row)
                shortest = min(shortest, len(lanes))
        longest = 2 if len(waiting) < len(pending) else shortest
        pending = waiting
    return ties, [found for found in whole if found.lanes]
