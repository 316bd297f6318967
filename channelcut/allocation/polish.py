"""Local search on a solution within the limit: one group's width, or those of two at once, while the loss falls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from channelcut.cost.protocol import Pairwise

Values = NDArray[np.float64]
Places = NDArray[np.int64]
REACH = 4  # places up and down that moves of two groups look at
MOST = 150  # moves in all


def repair(places: Places, losses: Sequence[Values], cost: Pairwise, limit: float) -> Places | None:
    """Go down in cost, what loses least per unit saved first, until the limit holds; None where it cannot."""
    places, near = places.copy(), neighbours(cost, len(places))
    price = cost.at(places.tolist())
    while price > limit:
        best = (np.inf, 0, 0, 0.0)
        for g in range(len(places)):
            saved = -cost_changes(places, g, cost, near)
            more = losses[g] - losses[g][places[g]]
            able = saved > 1e-12 * max(abs(price), 1e-300)
            if able.any():
                # What saves more than is needed is worth no more than what is needed.
                ratio = np.where(able, more / np.minimum(np.where(able, saved, 1.0), price - limit), np.inf)
                i = int(ratio.argmin())
                best = min(best, (float(ratio[i]), g, i, float(saved[i])))
        if best[0] == np.inf:
            return None
        places[best[1]] = best[2]
        price = cost.at(places.tolist())
    return places


def polish(places: Places, losses: Sequence[Values], cost: Pairwise, limit: float) -> Places:
    """Places with no more loss within the limit, from which no move of one group or of two near ones leads further."""
    places, near = places.copy(), neighbours(cost, len(places))
    for _ in range(MOST):
        slack = limit - cost.at(places.tolist())
        changes = [cost_changes(places, g, cost, near) for g in range(len(places))]
        single = _single(places, losses, changes, slack)
        found = [single] if single else _double(places, losses, changes, cost, slack)
        if not found:
            break
        for group, place in found:
            places[group] = place
    return places


def widened(places: Places, losses: Sequence[Values], cost: Pairwise) -> Places:
    """Places with the greatest width of each group that loses no more and costs no more."""
    places, near = places.copy(), neighbours(cost, len(places))
    for g in range(len(places)):
        free = (cost_changes(places, g, cost, near) <= 0) & (losses[g] <= losses[g][places[g]])
        places[g] = np.flatnonzero(free)[-1]
    return places


def neighbours(cost: Pairwise, count: int) -> list[list[tuple[int, Values]]]:
    """For each group the others that it has a table with, and that table with the group's places as rows."""
    near: list[list[tuple[int, Values]]] = [[] for _ in range(count)]
    for (g, h), table in cost.pairs.items():
        near[g].append((h, table))
        near[h].append((g, table.T))
    return near


def cost_changes(places: Places, group: int, cost: Pairwise, near: Sequence[Sequence[tuple[int, Values]]]) -> Values:
    """What the cost changes by when a group takes each of its places, shape (places,)."""
    values = cost.alone[group].copy()
    for other, table in near[group]:
        values += table[:, places[other]]
    changed: Values = values - values[places[group]]
    return changed


def _single(
    places: Places, losses: Sequence[Values], changes: Sequence[Values], slack: float
) -> tuple[int, int] | None:
    """The move of one group that wins most loss within the slack; of equal ones the cheapest."""
    best, chosen = 0.0, None
    for g, change in enumerate(changes):
        gain = np.where(change <= slack, losses[g][places[g]] - losses[g], -np.inf)
        i = int(gain.argmax())
        if gain[i] > best * (1 + 1e-12) + 1e-15:
            best, chosen = float(gain[i]), (g, i)
    return chosen


def _double(
    places: Places, losses: Sequence[Values], changes: Sequence[Values], cost: Pairwise, slack: float
) -> list[tuple[int, int]]:
    """The moves of two groups that win most loss together within the slack."""
    spans = [np.arange(max(0, p - REACH), min(len(v), p + REACH + 1)) for p, v in zip(places, losses, strict=True)]
    group = np.concatenate([np.full(len(span), g) for g, span in enumerate(spans)])
    place = np.concatenate(spans)
    loss = np.concatenate([v[span] - v[p] for v, span, p in zip(losses, spans, places, strict=True)])
    price = np.concatenate([change[span] for change, span in zip(changes, spans, strict=True)])
    up, down = np.flatnonzero(loss < 0), np.flatnonzero((loss > 0) & (price < 0))
    if not len(up) or not len(down):
        return []
    both = price[up][:, None] + price[down][None, :]
    gain = -(loss[up][:, None] + loss[down][None, :])
    gain[group[up][:, None] == group[down][None, :]] = -np.inf
    for (g, h), table in cost.pairs.items():
        for first, second, cells in ((g, h, table), (h, g, table.T)):
            rows, columns = np.flatnonzero(group[up] == first), np.flatnonzero(group[down] == second)
            i, j = place[up[rows]], place[down[columns]]
            mixed = cells[np.ix_(i, j)] - cells[i, places[second]][:, None] - cells[places[first], j][None, :]
            both[np.ix_(rows, columns)] += mixed + cells[places[first], places[second]]
    gain[both > slack] = -np.inf
    row, column = np.unravel_index(int(gain.argmax()), gain.shape)
    if gain[row, column] <= 1e-12 * max(1e-3, float(np.abs(loss).max())):
        return []
    chosen = (int(up[row]), int(down[column]))
    return [(int(group[k]), int(place[k])) for k in chosen]
