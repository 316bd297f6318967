"""Widths under a budget where a cost is a bare function, of which no table over pairs of groups can be had.

The cheapest loss per unit of cost goes first, at the widths that the others have by then, until the network fits; then
what still fits on top comes back. The savings of a step fall as its neighbours shrink, so its loss per unit saved only
rises, and a heap of outdated ratios finds the least one (lazy greedy, Minoux 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Widths = NDArray[np.int64]
Values = NDArray[np.float64]
Cost = Callable[[Widths], float]


def descend(losses: Sequence[Values], steps: Sequence[Widths], cost: Cost, limit: float) -> Widths:
    """The widths that are reached by removing, one step after another, what loses least per unit of cost.

    Args:
        losses: losses[g][i] is what is lost where group g has its i-th width.
        steps: the admissible widths of each group, ascending.
        cost: of the network, as a function of the widths.
        limit: what it may be.
    """
    descent = Descent(losses, steps, cost)
    return descent.widths(descent.filled(descent.down(limit), limit))


class Descent:
    """Steps down and up in the widths of one network, by the cost itself."""

    def __init__(self, losses: Sequence[Values], steps: Sequence[Widths], cost: Cost) -> None:
        self.losses, self.steps, self.cost = losses, steps, cost

    def widths(self, places: Widths) -> Widths:
        """The widths at these places."""
        return np.array([step[i] for step, i in zip(self.steps, places, strict=True)], dtype=np.int64)

    def down(self, limit: float) -> Widths:
        """The places that are reached from full width."""
        places = np.array([len(step) - 1 for step in self.steps], dtype=np.int64)
        now = self.cost(self.widths(places))
        heap = [entry for g in range(len(places)) if (entry := self._entry(g, places, now)) is not None]
        heapq.heapify(heap)
        while now > limit and heap:
            _, group = heapq.heappop(heap)
            fresh = self._entry(group, places, now)
            if fresh is None:
                continue
            if heap and fresh > heap[0]:
                heapq.heappush(heap, fresh)
                continue
            places[group] -= 1
            now = self.cost(self.widths(places))
            after = self._entry(group, places, now)
            if after is not None:
                heapq.heappush(heap, after)
        return places

    def _entry(self, group: int, places: Widths, now: float) -> tuple[float, int] | None:
        """The loss per unit saved of a group's next step and the group; None where it has none, or saves nothing."""
        if places[group] == 0:
            return None
        trial = places.copy()
        trial[group] -= 1
        saved = now - self.cost(self.widths(trial))
        if saved <= 1e-9 * max(now, 1.0):
            return None
        return self._loss(group, places) / saved, group

    def filled(self, places: Widths, limit: float) -> Widths:
        """Give back steps, the most important per unit of cost first, while the budget holds."""
        places, able = places.copy(), set(range(len(places)))
        while able:
            best, gain, now = -1, 0.0, self.cost(self.widths(places))
            for g in sorted(able):
                trial = places.copy()
                trial[g] += 1
                price = self.cost(self.widths(trial)) - now if trial[g] < len(self.steps[g]) else np.inf
                if now + price > limit:
                    able.discard(g)
                elif (found := self._loss(g, trial) / max(price, 1e-12)) > gain:
                    best, gain = g, found
            if best < 0:
                break
            places[best] += 1
        return places

    def _loss(self, group: int, places: Widths) -> float:
        """What is lost with the last step of a group."""
        return float(self.losses[group][places[group] - 1] - self.losses[group][places[group]])
