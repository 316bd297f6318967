"""Small programs to their end: all of them looked at, or branch and bound with Lagrangian bounds.

Branch and bound (Land and Doig 1960) splits the widths of one group at a time and goes on where the lower bound is
least. The bounds are those of the relaxed limit (`lagrangian`; Geoffrion 1974), which are no weaker than the linear
relaxation's over the local polytope, exact in floating point where a solver has tolerances, and strike out widths too.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.lagrangian import Dual, relax
from channelcut.allocation.polish import repair
from channelcut.cost.protocol import Pairwise

Values = NDArray[np.float64]
Places = NDArray[np.int64]

SMALL = 200_000  # combinations that are all looked at
NODES = 200  # after which the search stops with what it has: the same on every machine


@dataclass(frozen=True)
class Whole:
    """Places within the limit, or None where none were found, and what no loss within it is below."""

    places: Places | None
    bound: float


def loss_at(losses: Sequence[Values], places: Places) -> float:
    """The summed loss of places."""
    return float(sum(values[i] for values, i in zip(losses, places, strict=True)))


def enumerated(losses: Sequence[Values], cost: Pairwise, limit: float) -> Places | None:
    """The places of the least loss within the limit, by looking at all; None where there are none."""
    open_groups = [g for g, values in enumerate(losses) if len(values) > 1]  # each is an axis

    def along(values: Values, *groups: int) -> Values:
        return values.reshape([values.shape[groups.index(g)] if g in groups else 1 for g in open_groups])

    price: Values = np.full((1,) * len(open_groups), cost.constant)
    loss: Values = np.zeros((1,) * len(open_groups))
    for g, (lost, spent) in enumerate(zip(losses, cost.alone, strict=True)):
        loss, price = loss + along(lost, g), price + along(spent, g)
    for (g, h), table in cost.pairs.items():
        price = price + along(table, g, h)
    best = np.where(price <= limit, loss, np.inf)
    if not np.isfinite(best.min()):
        return None
    places = np.zeros(len(losses), dtype=np.int64)
    places[open_groups] = np.unravel_index(int(best.argmin()), best.shape)
    return places


def size(counts: Sequence[int], cost: Pairwise) -> int:
    """How many numbers the tables of a program hold."""
    return sum(counts) + sum(counts[g] * counts[h] for g, h in cost.pairs)


@dataclass(order=True)
class Node:
    """A part of a program: kept[g] are the places of group g that it has, `bound` what no loss in it is below."""

    bound: float
    number: int
    multiplier: float = field(compare=False)
    kept: list[Places] = field(compare=False)


def branch_and_bound(
    losses: Sequence[Values], cost: Pairwise, limit: float, gap: float, known: float = np.inf
) -> Whole:
    """The least loss within the limit.

    Args:
        losses: of each group at each of its widths.
        cost: the same, over groups and pairs of them.
        limit: what the cost may be.
        gap: the relative distance from the bound at which it may stop.
        known: a loss within the limit that was reached; only places with less are found then.
    """
    search = _Search(losses, cost, limit, gap, loss=known)
    nodes = [Node(-np.inf, 0, 0.0, [np.arange(len(values)) for values in losses])]
    for _ in range(NODES):
        if not nodes or nodes[0].bound >= search.worth:
            break
        for node in search.split(heapq.heappop(nodes)):
            heapq.heappush(nodes, node)
    return Whole(search.places, min([search.worth, *(node.bound for node in nodes[:1])]))


@dataclass
class _Search:
    """A program, and the best places that were met."""

    losses: Sequence[Values]
    cost: Pairwise
    limit: float
    gap: float
    places: Places | None = None
    loss: float = np.inf
    nodes: int = 1

    @property
    def worth(self) -> float:
        """The loss that is no improvement any more; losses are at least 0."""
        return self.loss * (1 - self.gap) if np.isfinite(self.loss) else np.inf

    def split(self, node: Node) -> list[Node]:
        """Look at a part; what is left of it, in two parts."""
        losses, cost = self._part(node.kept)
        dual = relax(losses, cost, self.limit, node.multiplier)
        fitting = [places for places in dual.met if cost.at(places.tolist()) <= self.limit]
        if not fitting and not np.isfinite(self.loss):
            fitting = [found for found in [repair(dual.nearest(), losses, cost, self.limit)] if found is not None]
        for places in fitting:
            self._met(node.kept, places)
        floors = dual.floors()
        left = [np.flatnonzero(floor < self.worth) for floor in floors]
        if dual.bound >= self.worth or not all(map(len, left)):
            return []
        kept = [some[here] for some, here in zip(node.kept, left, strict=True)]
        if prod(map(len, kept)) <= SMALL:
            found = enumerated(*self._part(kept), self.limit)
            if found is not None:
                self._met(kept, found)
            return []
        group, place = _branch(left, dual)
        below = int(np.searchsorted(left[group], place))
        parts = []
        for side in (slice(0, below), slice(below, None)):
            self.nodes += 1
            bound = max(node.bound, dual.bound, float(floors[group][left[group][side]].min()))
            divided = [*kept[:group], kept[group][side], *kept[group + 1 :]]
            parts.append(Node(bound, self.nodes, dual.multiplier, divided))
        return parts

    def _part(self, kept: Sequence[Places]) -> tuple[list[Values], Pairwise]:
        return [v[some] for v, some in zip(self.losses, kept, strict=True)], self.cost.restricted(kept)

    def _met(self, kept: Sequence[Places], places: Places) -> None:
        found = np.array([some[i] for some, i in zip(kept, places, strict=True)], dtype=np.int64)
        loss = loss_at(self.losses, found)
        if loss < self.loss:
            self.places, self.loss = found, loss


def _branch(left: Sequence[Places], dual: Dual) -> tuple[int, int]:
    """A group of more than one width and the first place of its upper part.

    The relaxation is a mixture of places above the limit and places within it: what these choose differently is
    parted, in the group that has most widths left.
    """
    relaxed = dual.relaxation.cost
    near = sorted(dual.met, key=lambda places: abs(relaxed.at(places.tolist()) - dual.limit))
    within = [places for places in near if relaxed.at(places.tolist()) <= dual.limit][:1]
    above = [places for places in near if relaxed.at(places.tolist()) > dual.limit][:1]
    counts = np.array([len(some) for some in left])
    if within and above:
        apart = np.where(within[0] != above[0], counts, 0)
        group, place = int(apart.argmax()), int(np.maximum(within[0], above[0])[apart.argmax()])
        if left[group][0] < place <= left[group][-1]:
            return group, place
    group = int(counts.argmax())
    return group, int(left[group][counts[group] // 2])
