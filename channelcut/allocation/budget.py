"""`allocate`: from scores and a budget to the channels that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.steps import admissible_widths, nearest_width, width_alignment
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.groups import Group, Groups
from channelcut.cost import BilinearCost
from channelcut.cost.bilinear import full_widths

Widths = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What may remain: exactly one of a uniform keep ratio and shares of MACs or parameters, each in (0, 1].

    `align` is the multiple that kept widths are rounded to, `floor` the least share of any group that a budget leaves.
    """

    keep: float | None = None
    macs: float | None = None
    params: float | None = None
    align: int = 1
    floor: float = 0.1

    def __post_init__(self) -> None:
        given = {n: v for n, v in (("keep", self.keep), ("macs", self.macs), ("params", self.params)) if v is not None}
        if len(given) != 1:
            raise UserError(f"Give exactly one of keep, macs and params; got {', '.join(given) or 'none'}.")
        name, value = next(iter(given.items()))
        if not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise UserError(
                f"{name}={value} is not a share of the original: expected a number above 0 and at most 1, such as 0.5."
            )
        if self.align < 1 or not 0 <= self.floor <= 1:
            raise UserError(
                f"align={self.align} and floor={self.floor}: expected align >= 1 and floor between 0 and 1."
            )


def allocate(groups: Groups, scores: Scores, budget: Budget, costs: Mapping[str, BilinearCost]) -> NDArray[np.bool_]:
    """Which channels are kept, shape (channel_count,).

    Args:
        groups: from `couple`.
        scores: importance of every channel, shape (channel_count,).
        budget: what may remain.
        costs: `macs` and `params` as functions of the widths.

    Raises:
        UserError: nothing can be removed at all.
        BudgetError: the budget is below what the floors allow; names the nearest that can be met.
    """
    if not groups.groups:
        reasons = "; ".join(str(pin) for pin in groups.pins[:3]) or "the model has no convolution or linear layer"
        raise UserError(
            f"No channel of this model can be removed: {reasons}. Expected at least one convolution or linear layer "
            f"whose "
            "output is not the network's. See `channelcut analyze` for every pin and its remedy."
        )
    order = [_descending(group, scores) for group in groups.groups]
    means = [
        _steps_mean(group, [scores[lane] for lane in lanes]) for group, lanes in zip(groups.groups, order, strict=True)
    ]
    ranked = [mean * _consumers(groups, group) for mean, group in zip(means, groups.groups, strict=True)]
    aligns = [width_alignment(groups, group, budget.align) for group in groups.groups]
    floor = 0.0 if budget.keep is not None else budget.floor
    steps = [admissible_widths(g.width, align, floor) for g, align in zip(groups.groups, aligns, strict=True)]
    if budget.keep is not None:
        wanted = [max(1, round(group.width * budget.keep)) for group in groups.groups]
        widths = np.array([nearest_width(m, w, s) for m, w, s in zip(means, wanted, steps, strict=True)])
    else:
        name, share = ("macs", budget.macs) if budget.macs is not None else ("params", budget.params)
        widths = _global(groups, ranked, steps, costs[name], name, float(share or 1))
    kept = np.ones(groups.channel_count, dtype=bool)
    for group, lanes, width in zip(groups.groups, order, widths, strict=True):
        for lane in lanes:
            kept[lane[width * (len(lane) // group.width) :]] = False
    if kept.all() and min(share for share in (budget.keep, budget.macs, budget.params) if share is not None) < 1:
        widest = max(group.width for group in groups.groups)
        raise BudgetError(
            f"Nothing would be removed: no group may take a smaller width at align={budget.align} and "
            f"floor={budget.floor:g} "
            f"(the widest lane has {widest} channels). Lower the alignment, or ask for less to be kept."
        )
    return kept


def _consumers(groups: Groups, group: Group) -> int:
    """How many layers read a group's channels: the damage of a removed channel adds up over them.

    Without this a residual stream, read by every block, ranks with the inside of one block, and a ResNet-20 at 70 % of
    its MACs drops to 21 % top-1 on CIFAR-10 instead of 68 % (as cut, l2, align 8, first 1,000 test images).
    """
    return max(1, sum(groups.slots[index].role in ("in", "depthwise", "group") for index in group.slots))


def _steps_mean(group: Group, scores: list[Scores]) -> Scores:
    """The mean score of each step of a group's width, over its lanes, shape (width,).

    `scores` are in descending order.
    """
    means: Scores = np.mean([lane.reshape(group.width, -1).mean(1) for lane in scores], axis=0)
    return means


def _descending(group: Group, scores: Scores) -> list[NDArray[np.int64]]:
    """Each lane's channels, most important first; ties keep the earlier channel."""
    return [lane[np.argsort(-scores[lane], kind="stable")] for lane in group.lanes]


def _global(
    groups: Groups, means: list[Scores], steps: list[Widths], cost: BilinearCost, name: str, share: float
) -> Widths:
    """Rank all channels together: the lowest threshold on importance whose network fits, then what still fits on
    top.
    """
    full = full_widths(groups.groups)
    limit = share * cost(full)
    least = np.array([s[0] for s in steps])
    if cost(least) > limit * (1 + 1e-9):
        nearest = min(cost(least) / cost(full), 1 - 5e-5)
        raise BudgetError(
            f"The budget {name}={share:g} cannot be met: with every group at its floor {nearest:.4f} of the original's "
            f"{name} remain, because the rest is pinned. The nearest possible budget is {name}={nearest + 5e-5:.4f}. "
            f"Ask for that, "
            "lower --align or the floor, or see `channelcut analyze` for what is pinned and how to free it."
        )
    thresholds = np.unique(np.concatenate([[0.0], *means]))
    low, high = 0, len(thresholds)  # at `low` the network may be too large, at `high` it fits
    while low < high:
        middle = (low + high) // 2
        if cost(_at(thresholds[middle], means, steps)) <= limit:
            high = middle
        else:
            low = middle + 1
    widths = _at(thresholds[high], means, steps) if high < len(thresholds) else least
    return _fill(widths, means, steps, cost, limit)


def _at(threshold: float, means: list[Scores], steps: list[Widths]) -> Widths:
    """Widths when every channel below the threshold goes."""
    counts = [int(np.count_nonzero(mean >= threshold)) for mean in means]
    return np.array([nearest_width(m, c, s) for m, c, s in zip(means, counts, steps, strict=True)])


def _fill(widths: Widths, means: list[Scores], steps: list[Widths], cost: BilinearCost, limit: float) -> Widths:
    """Give back steps, the most important per unit of cost first, while the budget holds."""
    widths = widths.copy()
    open_groups = set(range(len(widths)))
    while open_groups:
        best, best_gain = -1, 0.0
        now = cost(widths)
        for g in sorted(open_groups):
            position = int(np.searchsorted(steps[g], widths[g])) + 1
            if position >= len(steps[g]):
                open_groups.discard(g)
                continue
            trial = widths.copy()
            trial[g] = steps[g][position]
            price = cost(trial) - now
            if now + price > limit:
                open_groups.discard(g)
                continue
            gain = float(means[g][widths[g] : trial[g]].sum()) / max(price, 1e-12)
            if gain > best_gain:
                best, best_gain = g, gain
        if best < 0:
            break
        widths[best] = steps[best][int(np.searchsorted(steps[best], widths[best])) + 1]
    return widths
