"""Widths and precisions of all layers together, within a limit on the time and one on the output error.

    minimise Σ loss_g(w_g)   subject to   Σ ms_l(w, p_l) <= limit,   Σ error_l(p_l)² <= E²

A layer's time depends on its precision and two widths, which is no sum of pairs. Both limits weighed into one are:

    Σ min over p of (ms_l(w, p) + price · error_l(p)²)  <=  limit + price · E²

is a table over two widths for each layer, and whatever meets both limits meets it: its least loss is a lower bound for
every price (a surrogate constraint; Glover 1968, Karwan and Rardin 1979), at least as good as that of a Lagrangian
with both limits. The price is found by bisection. At the widths of each price

1. the quickest precisions within E are a program of the same form, in which layers stand for groups and precisions for
   widths (`quickest`);
2. with these held, which have met E whatever the widths, the widths are the program again (`program.solve`), and so on
   in turns while that loses less.

Among what is tried are the first precision alone and the least widths, so that nothing is lost against widths alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.program import Program, Solution, solve
from channelcut.cost.mixed import MixedCost
from channelcut.cost.protocol import Pairwise

Widths = NDArray[np.int64]
Values = NDArray[np.float64]

_PRICES, _TURNS = 8, 4


@dataclass(frozen=True)
class MixedSolution(Solution):
    """Widths, and the precisions of the layers that leave the first, with the output error that is expected."""

    precisions: Mapping[str, str] = field(default_factory=dict)
    error: float = 0.0


@dataclass(frozen=True)
class _Squares:
    """Squared errors of layers at their precisions: a sum over single groups."""

    tables: tuple[Values, ...]

    def __call__(self, widths: Widths) -> float:
        return float(sum(table[w] for table, w in zip(self.tables, widths, strict=True)))

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        return Pairwise(0.0, tuple(table[step] for table, step in zip(self.tables, steps, strict=True)), {})


def quickest(cost: MixedCost, widths: Widths) -> dict[str, str]:
    """The precisions with which a network of these widths takes least within the output error.

    Args:
        cost: of the network.
        widths: shape (groups,).

    Returns:
        Those of the layers that leave the first precision, by name.
    """
    open_ways = [ways for ways in cost.ways if len(ways) > 1]
    times = [np.array([way.part.at(widths) for way in ways]) for ways in open_ways]
    worth = [i for i, ms in enumerate(times) if ms.min() < ms[-1]]
    if not worth:
        return {}
    squares = _Squares(tuple(np.array([way.squared for way in open_ways[i]]) for i in worth))
    losses = [times[i] - times[i].min() for i in worth]
    found = solve(Program(losses, [np.arange(len(values)) for values in losses], squares, cost.max_error**2))
    assert found is not None  # the first precision has no error
    chosen = {}
    for i, place in zip(worth, found.widths.tolist(), strict=True):
        if times[i][place] < times[i][-1]:
            chosen[open_ways[i][place].part.key] = open_ways[i][place].precision
    return chosen


def solve_mixed(program: Program, cost: MixedCost) -> MixedSolution | None:
    """The best widths and precisions that are found; None where none meet both limits.

    Args:
        program: its losses, widths and limit; of its cost only `cost` is looked at.
        cost: what the network takes by precision.
    """
    return _Turns(program, cost).run()


class _Turns:
    def __init__(self, program: Program, cost: MixedCost) -> None:
        self.program, self.cost = program, cost
        self.tried: dict[tuple[tuple[str, str], ...], Solution | None] = {}
        self.best: MixedSolution | None = None
        self.bound = 0.0

    def run(self) -> MixedSolution | None:
        self._with({})
        self._improved(np.array([step[0] for step in self.program.steps]))
        self._improved(np.array([step[-1] for step in self.program.steps]))
        squares = [way.squared for ways in self.cost.ways for way in ways if way.squared > 0]
        low, high = 0.0, math.inf
        price = 0.0
        for _ in range(_PRICES if squares else 1):
            widths = self._relaxed(price)
            if widths is None:
                break  # whatever meets both limits would meet this one
            self._improved(widths)
            if self._closed():
                break
            if self.cost.error(self.cost.cheapest(widths, price)) > self.cost.max_error:
                low = price
            else:
                if price == 0:
                    break  # the quickest precisions fit
                high = price
            price = _between(low, high, self.program.limit / self.cost.max_error**2)
        return self._finished()

    def _relaxed(self, price: float) -> Widths | None:
        """The widths of least loss within both limits weighed into one; None where there are none."""
        limit = self.program.limit + price * self.cost.max_error**2
        found = solve(replace(self.program, cost=self.cost.priced(price), limit=limit))
        if found is None:
            return None
        self.bound = max(self.bound, found.bound)
        return found.widths

    def _improved(self, widths: Widths) -> None:
        """Precisions and widths in turns, from given widths on."""
        for _ in range(_TURNS):
            precisions = quickest(self.cost, widths)
            if tuple(sorted(precisions.items())) in self.tried:
                return
            found = self._with(precisions)
            if found is None:
                return
            widths = found.widths

    def _with(self, precisions: dict[str, str]) -> Solution | None:
        """The best widths with given precisions, which becomes the best of all where it is."""
        found = solve(replace(self.program, cost=self.cost.assigned(precisions)))
        self.tried[tuple(sorted(precisions.items()))] = found
        if found is not None and (self.best is None or found.loss < self.best.loss):
            parts = vars(found)
            self.best = MixedSolution(**parts, precisions=precisions, error=self.cost.error(precisions))
        return found

    def _closed(self) -> bool:
        return self.best is not None and self.best.loss <= self.bound * (1 + 1e-9)

    def _finished(self) -> MixedSolution | None:
        if self.best is None:
            return None
        loss = self.best.loss
        bound = min(self.bound, loss)
        gap = (loss - bound) / loss if loss > 0 else 0.0
        seconds = sum(found.seconds for found in self.tried.values() if found is not None)
        return replace(
            self.best,
            bound=bound,
            gap=gap,
            method=f"{self.best.method}, precisions by a surrogate limit",
            seconds=seconds,
        )


def _between(low: float, high: float, unit: float) -> float:
    """The next price in an interval; a unit is what makes the whole error worth the whole time."""
    if math.isinf(high):
        return max(unit, low * 16)
    return math.sqrt(low * high) if low else high / 16
