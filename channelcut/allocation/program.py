"""Widths as a program: the least loss of all groups together within a limit on what the network costs.

    minimise Σ loss_g(w_g)   subject to   cost(w) <= limit,   w_g one of the admissible widths of group g

A loss is a table for each group; the cost is one for each group and each pair of groups that a layer lies between
(`cost.protocol.Pairwise`). Nothing is assumed of their shape: a measured cost may rise where a width falls.

1. The budget is relaxed by a multiplier, which leaves tables over one and two groups to minimise, exactly by
   elimination for nearly all networks: the best multiplier gives a lower bound (`lagrangian`, `minsum`).
2. What was met on the way is brought within the limit and improved by moves of one and two groups (`polish`).
3. A width whose own lower bound is above the loss that has been reached is in no better solution. What is left is
   looked at as a whole, or searched by branch and bound (`search`), where it is small enough.

The gap is what the loss may be above the least one at most, as a share of it. Where a cost is no sum of pairs, all of
this is done on its closest sum, and repeated with a limit that makes up for the difference at the solution; what then
still fits by the cost itself is filled up. The gap is that of the sum of pairs, which `method` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.descent import Descent
from channelcut.allocation.lagrangian import Dual, relax
from channelcut.allocation.polish import polish, repair, widened
from channelcut.allocation.search import SMALL, branch_and_bound, enumerated, loss_at, size
from channelcut.cost.protocol import Pairwise, WidthCost

Values = NDArray[np.float64]
Widths = NDArray[np.int64]
Places = NDArray[np.int64]

BEST, ENOUGH = 1e-9, 2e-3  # the gap of a solution that is the best one, and one that is worth no search
STARTS = 3  # solutions that are improved
LARGEST = 6_000  # numbers in the tables of what is searched
ROUNDS = 4  # solutions for a cost that is no sum of pairs
CLOSE = 1e-3  # the part of the limit by which they may miss


@dataclass(frozen=True)
class Program:
    """What is to be chosen, see the module.

    Args:
        losses: losses[g][i] is what is lost where group g has its i-th width.
        steps: the admissible widths of each group, ascending.
        cost: of the network, as a function of the widths.
        limit: what it may be.
    """

    losses: Sequence[Values]
    steps: Sequence[Widths]
    cost: WidthCost
    limit: float


@dataclass(frozen=True)
class Solution:
    """The widths that were chosen, shape (groups,), and how good they are.

    loss: their summed loss.
    cost: what the network costs with them.
    bound: no widths within the limit have a smaller loss.
    gap: (loss - bound) / loss, 0 where nothing is lost.
    method: how the gap was proven, in words.
    seconds: that it took.
    """

    widths: Widths
    loss: float
    cost: float
    bound: float
    gap: float
    method: str
    seconds: float


def solve(program: Program) -> Solution | None:
    """The best widths that are found, with a proven gap; None where no widths meet the limit.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_matrix
        >>> from channelcut.cost.bilinear import BilinearCost, Share
        >>> one = Share(np.zeros(1), csr_matrix([[1.0, 0.0]]))
        >>> other = Share(np.zeros(1), csr_matrix([[0.0, 1.0]]))
        >>> product = BilinearCost(np.ones(1), one, other)
        >>> widths = np.arange(1, 5)
        >>> found = solve(Program([np.array([9.0, 4, 1, 0]), np.array([5.0, 3, 1, 0])], [widths, widths], product, 9))
        >>> found.widths.tolist(), found.loss, found.gap
        ([3, 3], 2.0, 0.0)
    """
    begin = perf_counter()
    losses, steps, cost = finite(program.losses), program.steps, program.cost
    tables = cost.pairwise(steps)
    room = 1e-9 * abs(program.limit)
    shift, best, exact = 0.0, None, True
    for number in range(ROUNDS):
        found = _within(losses, tables, program.limit + room - shift)
        if found is None:
            break
        price = cost(_widths(steps, found.places))
        apart = price - tables.at(found.places.tolist())
        exact = exact and abs(apart) <= room
        if price <= program.limit + room and (best is None or found.loss < best.loss):
            best = found
        if exact or (best is not None and abs(apart - shift) <= CLOSE * abs(program.limit)):
            break
        shift = apart + (number * CLOSE / 2 * abs(program.limit) if best is None else 0.0)
    if best is None and exact:
        return None
    if best is None or not exact:
        best = _repaired(best, losses, program)
        if best is None:
            return None
    widths = _widths(steps, best.places)
    gap = max(0.0, best.loss - best.bound) / best.loss if best.loss > 0 else 0.0
    spent = perf_counter() - begin
    return Solution(widths, best.loss, cost(widths), min(best.bound, best.loss), gap, best.method, spent)


def _widths(steps: Sequence[Widths], places: Places) -> Widths:
    return np.array([step[i] for step, i in zip(steps, places, strict=True)], dtype=np.int64)


@dataclass(frozen=True)
class _Found:
    places: Places
    loss: float
    bound: float
    method: str


def _repaired(found: _Found | None, losses: Sequence[Values], program: Program) -> _Found | None:
    """Places within the limit by a cost that is no sum of pairs: filled up, or descended to where there are none."""
    descent = Descent(losses, program.steps, program.cost)
    if found is None:
        places, bound, method = descent.down(program.limit), 0.0, "descent"
        if program.cost(descent.widths(places)) > program.limit * (1 + 1e-9):
            return None
    else:
        places, bound, method = found.places, found.bound, f"{found.method} on the closest sum of pairs"
    places = descent.filled(places, program.limit)
    return _Found(places, loss_at(losses, places), bound, method)


def _within(losses: Sequence[Values], tables: Pairwise, limit: float) -> _Found | None:
    """Places whose pairwise cost is within a limit."""
    dual = relax(losses, tables, limit)
    starts = sorted(dual.met, key=lambda places: abs(tables.at(places.tolist()) - limit))[:STARTS]
    starts.append(np.zeros(len(losses), dtype=np.int64))
    fitting = [place for start in starts if (place := repair(start, losses, tables, limit)) is not None]
    if not fitting:
        return None
    fitting = sorted(fitting, key=lambda places: loss_at(losses, places))[:STARTS]
    places = min((polish(p, losses, tables, limit) for p in fitting), key=lambda p: loss_at(losses, p))
    found = _closed(losses, tables, limit, dual, places)
    return replace(found, places=widened(found.places, losses, tables))


def _closed(losses: Sequence[Values], tables: Pairwise, limit: float, dual: Dual, places: Places) -> _Found:
    """The same places or better ones, with the gap as far closed as a search of what is left does it."""
    loss = loss_at(losses, places)
    relaxed = _Found(places, loss, dual.bound, "Lagrangian relaxation")
    gap = loss - dual.bound
    if gap <= BEST * loss:
        return relaxed
    kept = [np.flatnonzero(floor <= loss * (1 + BEST)) for floor in dual.floors()]
    kept = [np.union1d(some, [i]) for some, i in zip(kept, places, strict=True)]
    fewer, part = tables.restricted(kept), [values[some] for values, some in zip(losses, kept, strict=True)]
    if prod(map(len, kept)) <= SMALL:
        chosen, bound, method = enumerated(part, fewer, limit), np.inf, "enumeration"
    elif gap > ENOUGH * loss and size([len(some) for some in kept], tables) <= LARGEST:
        whole = branch_and_bound(part, fewer, limit, BEST, loss)
        chosen, bound, method = whole.places, whole.bound, "branch and bound"
    else:
        return relaxed
    if chosen is not None:
        better = np.array([some[i] for some, i in zip(kept, chosen, strict=True)], dtype=np.int64)
        if tables.at(better.tolist()) <= limit and loss_at(losses, better) < loss:
            places, loss = better, loss_at(losses, better)
    return _Found(places, loss, max(dual.bound, min(bound, loss)), method)


def finite(losses: Sequence[Values]) -> list[Values]:
    """Losses without infinities, which no sum could be compared with: a million times all others together."""
    sums = sum(float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) for values in losses)
    return [np.nan_to_num(values, posinf=1e6 * max(sums, 1.0), neginf=0.0) for values in losses]
