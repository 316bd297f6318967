"""The relaxed budget: loss + multiplier · (cost - limit) at its least, a lower bound on the loss within the limit.

The bound is concave in the multiplier, and its best one is found by secants between a labelling that fits and one that
does not (Lagrangian relaxation, Geoffrion 1974; Everett 1963). Where groups have hundreds of widths, neighbouring ones
are taken together first, at the least loss and the least cost of each: that is a relaxation too, and only what the
minimum chooses is split again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.minsum import floors, minimise
from channelcut.cost.protocol import Pairwise

Values = NDArray[np.float64]
Places = NDArray[np.int64]
WHOLE = 64  # widths of a group that are told apart from the beginning
PARTS = 4  # into how many a chosen block is split
ROUNDS, STEPS, ZOOMS = 40, 40, 3
FINE, GROWTH = 4, 1.5  # widths next to a centre that stand alone, and how blocks grow beyond


@dataclass
class Relaxation:
    """The tables of a program, and the blocks of neighbouring widths that are taken together.

    `starts[g]` holds the first place of each block of group g, ascending, from 0 on.
    """

    losses: Sequence[Values]
    cost: Pairwise
    starts: list[Places] = field(init=False)
    _pooled: dict[tuple[int, int], Values] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.starts = [np.arange(len(losses)) for losses in self.losses]

    def least(self, multiplier: float, limit: float) -> tuple[float, Places]:
        """A lower bound on the relaxed sum, and places with a small one; blocks that are chosen are split."""
        bound, places = -np.inf, np.zeros(len(self.losses), dtype=np.int64)
        for _ in range(ROUNDS):
            own = self._own(multiplier)
            found = minimise(*self._tables(own, multiplier))
            before, bound = bound, max(bound, found.bound + multiplier * (self.cost.constant - limit))
            places = np.array([self._inside(own[g], g, int(block)) for g, block in enumerate(found.places)])
            if not self._split(found.places) or bound - before <= 1e-6 * abs(bound):
                break
        return bound, places

    def floors(self, multiplier: float, limit: float) -> list[Values]:
        """For each width of each group what no loss within the limit is below that takes it."""
        found = floors(*self._tables(self._own(multiplier), multiplier))
        constant = multiplier * (self.cost.constant - limit)
        return [
            np.repeat(values, np.diff([*starts.tolist(), len(losses)])) + constant
            for values, starts, losses in zip(found, self.starts, self.losses, strict=True)
        ]

    def _own(self, multiplier: float) -> list[Values]:
        return [loss + multiplier * cost for loss, cost in zip(self.losses, self.cost.alone, strict=True)]

    def _tables(self, own: Sequence[Values], multiplier: float) -> tuple[list[Values], dict[tuple[int, int], Values]]:
        """The relaxed sum as tables over blocks."""
        alone = [np.minimum.reduceat(values, starts) for values, starts in zip(own, self.starts, strict=True)]
        return alone, {pair: multiplier * self._table(pair) for pair in self.cost.pairs}

    def _inside(self, own: Values, group: int, block: int) -> int:
        first, last = self._block(group, block)
        return first + int(np.argmin(own[first:last]))

    def _block(self, group: int, block: int) -> tuple[int, int]:
        ends = [*self.starts[group].tolist(), len(self.losses[group])]
        return ends[block], ends[block + 1]

    def _split(self, chosen: Places) -> bool:
        wide = [(g, *self._block(g, int(block))) for g, block in enumerate(chosen)]
        wide = [(g, first, last) for g, first, last in wide if last - first > 1]
        for g, first, last in wide:
            inner = np.linspace(first, last, min(PARTS, last - first) + 1).round().astype(np.int64)[:-1]
            self.starts[g] = np.unique(np.concatenate([self.starts[g], inner]))
            self._pooled = {pair: table for pair, table in self._pooled.items() if g not in pair}
        return bool(wide)

    def _table(self, pair: tuple[int, int]) -> Values:
        if pair not in self._pooled:
            g, h = pair
            rows = np.minimum.reduceat(self.cost.pairs[pair], self.starts[g], axis=0)
            self._pooled[pair] = np.minimum.reduceat(rows, self.starts[h], axis=1)
        return self._pooled[pair]


@dataclass(frozen=True)
class Dual:
    """The best lower bound on the loss, its multiplier, and the places that were met on the way to it."""

    bound: float
    multiplier: float
    met: list[Places]
    relaxation: Relaxation
    limit: float

    def nearest(self) -> Places:
        """Of the places that were met those whose cost is nearest to the limit."""
        return min(self.met, key=lambda places: abs(self.relaxation.cost.at(places.tolist()) - self.limit))

    def floors(self) -> list[Values]:
        """For each width of each group what no loss within the limit is below that takes it."""
        return self.relaxation.floors(self.multiplier, self.limit)


def relax(losses: Sequence[Values], cost: Pairwise, limit: float, near: float = 0.0) -> Dual:
    """Find the multiplier whose bound is best.

    Args:
        losses: of each group at each of its widths.
        cost: the same, over groups and pairs of them.
        limit: what the cost may be.
        near: a multiplier that is close to it, such as that of a program with a few more widths.
    """
    relaxation = Relaxation(losses, cost)

    def at(places: Places) -> tuple[float, float]:
        return float(sum(v[i] for v, i in zip(losses, places, strict=True))), cost.at(places.tolist())

    widest = np.array([len(v) - 1 - int(np.argmin(v[::-1])) for v in losses], dtype=np.int64)
    high: tuple[float, float] | None = None
    low: tuple[float, float] | None = at(widest)
    assert low is not None
    best, met, worst = (low[0], 0.0), list[Places](), sum(float(v.max()) for v in losses)
    if low[1] <= limit:
        return Dual(low[0], 0.0, [widest], relaxation, limit)
    multiplier, factor = (worst - low[0]) / max(abs(low[1]), 1e-300), 4.0
    if near:
        multiplier, factor, low = near, 1.1, None
    elif max(len(v) for v in losses) > WHOLE:
        (multiplier, centres), factor, low = _zoomed(losses, cost, limit), 1.001, None
        relaxation = Relaxation(losses, centred(cost, centres))
        relaxation.starts = [_around(len(v), int(i))[:-1] for v, i in zip(losses, centres, strict=True)]
    for _ in range(STEPS):
        value, places = relaxation.least(multiplier, limit)
        best = max(best, (value, multiplier))
        met.append(places)
        found = at(places)
        if found[1] > limit:
            low = found if low is None or found[1] < low[1] else low
        else:
            high = found if high is None or found[0] < high[0] else high
        if low is None or high is None:
            if value > worst:  # no widths meet the limit
                break
            multiplier, factor = multiplier * factor if high is None else multiplier / factor, min(factor**2, 1e4)
            continue
        before, multiplier = multiplier, _secant(low, high)
        line = low[0] + multiplier * (low[1] - limit)
        if not multiplier or abs(multiplier - before) <= 1e-4 * before or line - best[0] <= 1e-6 * abs(best[0]):
            break
    return Dual(*best, met, relaxation, limit)


def _zoomed(losses: Sequence[Values], cost: Pairwise, limit: float) -> tuple[float, Places]:
    """A multiplier near the best one, and places near its least sum, by ever closer grids of widths."""
    kept = [np.unique(np.linspace(0, len(v) - 1, WHOLE // 2).round().astype(np.int64)) for v in losses]
    for _ in range(ZOOMS):
        dual = relax([v[some] for v, some in zip(losses, kept, strict=True)], cost.restricted(kept), limit)
        centres = np.array([some[i] for some, i in zip(kept, dual.nearest(), strict=True)], dtype=np.int64)
        kept = [np.append(_around(len(v), int(i))[:-1], len(v) - 1) for v, i in zip(losses, centres, strict=True)]
    return dual.multiplier, centres


def centred(cost: Pairwise, places: Places) -> Pairwise:
    """The same cost, with what a group changes beside neighbours at given places in the tables of the group alone.

    What is left in the tables of pairs is zero along the lines of these places and small near them, so that little is
    lost where the least of a block is taken in each table by itself.
    """
    alone, pairs, constant = [values.copy() for values in cost.alone], {}, cost.constant
    for (g, h), table in cost.pairs.items():
        along, across, corner = table[:, places[h]], table[places[g]], float(table[places[g], places[h]])
        alone[g] += along
        alone[h] += across
        constant -= corner
        pairs[g, h] = table - along[:, None] - across[None, :] + corner
    return Pairwise(constant, tuple(alone), pairs)


def _around(count: int, centre: int) -> Places:
    """Places from 0 to `count`, one by one near a centre and in steps that grow with the distance."""
    steps = [*range(FINE)]
    while steps[-1] < count:
        steps.append(max(steps[-1] + 1, int(steps[-1] * GROWTH)))
    found = np.concatenate([[0, count], centre - np.array(steps), centre + np.array(steps)])
    return np.unique(found[(found >= 0) & (found <= count)])


def _secant(low: tuple[float, float], high: tuple[float, float]) -> float:
    """The multiplier at which two pairs of a loss and a cost have the same sum; 0 where there is none."""
    saved, lost = low[1] - high[1], high[0] - low[0]
    return lost / saved if saved > 0 and lost > 0 else 0.0
