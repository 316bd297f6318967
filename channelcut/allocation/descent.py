"""Widths under a budget where scores are losses: the cheapest loss per unit of cost goes first.

A removed step of width saves what the layers on both its sides cost, at the widths that these have by then. Losses are
of one channel by itself; of those of a group the later ones lose more, because what is left has to make up for what is
gone: each counts by full / present width. The savings of a step fall as its neighbours shrink, so its loss per unit
saved only rises, and a heap of outdated ratios finds the least one (lazy greedy, Minoux 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from channelcut.cost.protocol import WidthCost

Widths = NDArray[np.int64]
Scores = NDArray[np.float64]


def descend(losses: Sequence[Scores], steps: Sequence[Widths], cost: WidthCost, limit: float) -> Widths:
    """The widths that are reached by removing, one step after another, what loses least per unit of cost.

    Args:
        losses: of each group the loss with each step of its width, over all lanes, in descending order, shape (width,).
        steps: the admissible widths of each group, ascending.
        cost: of the network, as a function of the widths.
        limit: what it may be.
    """
    widths = np.array([step[-1] for step in steps], dtype=np.int64)
    now = cost(widths)
    heap = [entry for g in range(len(widths)) if (entry := _entry(g, widths, losses, steps, cost, now)) is not None]
    heapq.heapify(heap)
    while now > limit and heap:
        _, group = heapq.heappop(heap)
        fresh = _entry(group, widths, losses, steps, cost, now)
        if fresh is None:
            continue
        if heap and fresh > heap[0]:
            heapq.heappush(heap, fresh)
            continue
        widths[group] = _lower(steps[group], widths[group])
        now = cost(widths)
        after = _entry(group, widths, losses, steps, cost, now)
        if after is not None:
            heapq.heappush(heap, after)
    return widths


def _lower(steps: Widths, width: int) -> int:
    return int(steps[int(np.searchsorted(steps, width)) - 1])


def _entry(
    group: int, widths: Widths, losses: Sequence[Scores], steps: Sequence[Widths], cost: WidthCost, now: float
) -> tuple[float, int] | None:
    """The loss per unit saved of a group's next step and the group; None where it has none, or nothing is saved."""
    if widths[group] <= steps[group][0]:
        return None
    trial = widths.copy()
    trial[group] = _lower(steps[group], widths[group])
    saved = now - cost(trial)
    if saved <= 1e-9 * max(now, 1.0):
        return None
    loss = losses[group][trial[group] : widths[group]].sum() * steps[group][-1] / widths[group]
    return float(loss) / saved, group
