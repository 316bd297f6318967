"""Small programs to their end: all of them looked at, or an integer program, solved by HiGHS through scipy.

The integer program is over the local marginal polytope: x[g, i] is one where group g takes its i-th width; the
y[g, h, i, j] >= 0 have x as their marginals, so that they are x[g, i] · x[h, j] where x is whole (Schlesinger 1976;
Wainwright and Jordan 2008). The budget is one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from channelcut.cost.protocol import Pairwise

Values = NDArray[np.float64]
Places = NDArray[np.int64]

NODES = 200  # after which HiGHS stops with what it has: the same on every machine
SECONDS = 120.0  # a guard alone, which a machine should never come to


@dataclass(frozen=True)
class Whole:
    """Places within the limit, or None where none were found, and what no loss within it is below."""

    places: Places | None
    bound: float


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
    """How many variables the integer program has."""
    return sum(counts) + sum(counts[g] * counts[h] for g, h in cost.pairs)


def integer_program(losses: Sequence[Values], cost: Pairwise, limit: float, gap: float) -> Whole:
    """The least loss within the limit.

    Args:
        losses: of each group at each of its widths.
        cost: the same, over groups and pairs of them.
        limit: what the cost may be.
        gap: the relative distance from the bound at which it may stop.
    """
    counts = [len(values) for values in losses]
    begin = np.concatenate([[0], np.cumsum(counts)])
    scale = abs(limit - cost.constant) or 1.0  # HiGHS takes rows near one
    objective = [*losses]
    price = [values / scale for values in cost.alone]
    rows, columns = [np.repeat(np.arange(len(counts)), counts)], [np.arange(begin[-1])]
    signs = [np.ones(begin[-1])]
    row, column = len(counts), int(begin[-1])
    for (g, h), table in cost.pairs.items():
        cells = column + np.arange(table.size).reshape(table.shape)
        for axis, group in ((1, g), (0, h)):
            lines = row + np.arange(counts[group])
            rows += [np.repeat(lines, table.shape[axis]), lines]
            columns += [(cells if axis else cells.T).reshape(-1), begin[group] + np.arange(counts[group])]
            signs += [np.ones(table.size), -np.ones(counts[group])]
            row += counts[group]
        column += table.size
        objective.append(np.zeros(table.size))
        price.append(table.reshape(-1) / scale)
    matrix = coo_matrix((np.concatenate(signs), (np.concatenate(rows), np.concatenate(columns))), shape=(row, column))
    right = np.concatenate([np.ones(len(counts)), np.zeros(row - len(counts))])
    units = max(float(max(v.max() for v in losses)), 1e-300)
    found = milp(
        np.concatenate(objective) / units,
        integrality=(np.arange(column) < begin[-1]).astype(int),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(matrix.tocsr(), right, right),
            LinearConstraint(np.concatenate(price)[None, :], -np.inf, (limit - cost.constant) / scale),
        ],
        options={"node_limit": NODES, "time_limit": SECONDS, "mip_rel_gap": gap},
    )
    bound = -np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound) * units
    if found.x is None:
        return Whole(None, bound)
    places = [int(np.argmax(found.x[a:b])) for a, b in pairwise(begin)]
    return Whole(np.array(places, dtype=np.int64), bound)
