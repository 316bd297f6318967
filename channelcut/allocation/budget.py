"""`allocate`: from scores and a budget to the channels that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.descent import descend
from channelcut.allocation.layers import check_keep
from channelcut.allocation.mixed import MixedSolution, quickest, solve_mixed
from channelcut.allocation.program import Program, Solution, solve
from channelcut.allocation.steps import admissible_widths, nearest_width, width_alignment
from channelcut.allocation.worth import losses_at
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.groups import Group, Groups
from channelcut.core.reasons import EXCLUDED
from channelcut.core.unused import unused_words
from channelcut.cost.bilinear import full_widths
from channelcut.cost.mixed import MixedCost
from channelcut.cost.protocol import WidthCost

LIMITS = ("macs", "params", "latency", "latency_ms")
_SHARE_OR_NUMBER = (
    "a share of the original, above 0 and at most 1, such as 0.5, or an absolute number above 1, such as 1.5e9"
)
_EXPECTED = {
    "latency": "a share of the original's time, above 0 and at most 1, such as 0.6; milliseconds go into latency_ms",
    "latency_ms": "milliseconds above 0, such as 4.5",
}
Widths = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What may remain: a uniform keep ratio, or a limit on MACs, parameters or time; exactly one of them.

    Limits are shares of the original in (0, 1], or absolute numbers above 1; that on time is a share, `latency`, or
    milliseconds, `latency_ms`. `keep` is one share, or shares by pattern
    on the names of layers: what is kept, or, beside a limit, the least that is kept. `align` is the multiple that kept
    widths are rounded to, `fine` another one that narrow widths, below twice `align`, may be of (0: none), `min_keep`
    the least share of any group that a limit leaves, `min_channels` the least number of channels of any lane of any
    group.
    """

    keep: float | Mapping[str, float] | None = None
    macs: float | None = None
    params: float | None = None
    align: int = 1
    min_keep: float = 0.1
    min_channels: int = 1
    latency: float | None = None
    latency_ms: float | None = None
    fine: int = 0

    def __post_init__(self) -> None:
        limits = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        shares = isinstance(self.keep, Mapping)
        if len(limits) + (self.keep is not None and not (shares and limits)) != 1:
            given = ", ".join([*(["keep"] if self.keep is not None else []), *limits]) or "none"
            raise UserError(
                f"Give exactly one of keep, {', '.join(LIMITS[:-1])} and {LIMITS[-1]}; got {given}. Beside a limit, "
                "keep may be shares by pattern, such as {'backbone.*': 0.8}: the least that is kept there."
            )
        for name, value in limits.items():
            if not _is_number(value) or not 0 < value < math.inf or (name == "latency" and value > 1):
                raise UserError(f"{name}={value!r} is no budget: expected {_EXPECTED.get(name, _SHARE_OR_NUMBER)}.")
        if isinstance(self.keep, Mapping):
            check_keep(self.keep)
        elif self.keep is not None and not (_is_number(self.keep) and 0 < self.keep <= 1):
            raise UserError(
                f"keep={self.keep!r} is not a share of the original: expected a number above 0 and at most 1, such as "
                "0.5, or shares by pattern, such as {'backbone.*': 0.8, '*': 0.5}."
            )
        if not (_is_int(self.align) and self.align >= 1 and _is_int(self.min_channels) and self.min_channels >= 1):
            raise UserError(
                f"align={self.align!r} and min_channels={self.min_channels!r}: expected align >= 1 and min_channels "
                ">= 1, both whole numbers of channels."
            )
        if not _is_number(self.min_keep) or not 0 <= self.min_keep <= 1:
            raise UserError(f"min_keep={self.min_keep!r}: expected a share between 0 and 1.")

    def beside(self, whole: int, gone: int) -> Budget:
        """The budget that is left for channels where `gone` of the `whole` parameters go with unused modules."""
        if self.params is None or not gone:
            return self
        return replace(self, params=min(absolute(self.params, whole) + gone, whole))

    def in_shares(self, whole_ms: float) -> Budget:
        """The budget with milliseconds as a share of what the original takes, which is 1 where it takes no more."""
        if self.latency_ms is None:
            return self
        return replace(self, latency_ms=None, latency=min(1.0, self.latency_ms / whole_ms))

    @property
    def limits(self) -> str:
        """The name of the cost that is limited."""
        return "latency" if self.timed else self.limit[0] if self.limit else ""

    def allowed(self, whole: float) -> float:
        """What the cost that is limited may be, in its unit; `whole`: that of the original."""
        assert self.limit is not None
        name, given = self.limit
        return min(given, whole) if name == "latency_ms" else absolute(given, whole)

    def limited(self, limit: float) -> Budget:
        """The same with another limit on what it limits."""
        assert self.limit is not None
        changed: Any = {self.limit[0]: limit}
        return replace(self, **changed)

    @property
    def timed(self) -> bool:
        """Whether it limits time."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def limit(self) -> tuple[str, float] | None:
        """The cost that is limited, and its limit as given; None where channels are counted instead."""
        found = [(name, float(getattr(self, name))) for name in LIMITS if getattr(self, name) is not None]
        return found[0] if found else None


def absolute(given: float, whole: float) -> float:
    """A limit in the unit of a cost, of which the original has `whole`: shares of it are at most 1."""
    return given * whole if given <= 1 else given


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Allocation:
    """Which channels are kept, shape (channel_count,), and under a limit how its widths were found."""

    kept: NDArray[np.bool_]
    solution: Solution | None = None

    def to_dict(self) -> dict[str, object]:
        """How the widths were found, and by how much of the loss it may be above the least one."""
        found = self.solution
        if found is None:
            return {}
        said: dict[str, object] = {"allocation": {"method": found.method, "gap": round(found.gap, 6)}}
        if isinstance(found, MixedSolution):
            said["precision"] = {"layers": dict(found.precisions), "expected_error": found.error}
        return said


def allocate(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    costs: Mapping[str, WidthCost],
    shares: Scores | None = None,
    unit: str = "relative",
    bounds: tuple[Widths, Widths] | None = None,
) -> Allocation:
    """Which channels are kept: under a limit, the widths at which least is lost.

    Args:
        groups: from `couple`.
        scores: importance of every channel, shape (channel_count,).
        budget: what may remain.
        costs: `macs` and `params` as functions of the widths.
        shares: what `budget.keep` asks of each group, shape (groups,), NaN where it says nothing; needed where it is
            shares by pattern.
        unit: what scores are: `relative` to others of their lane, a `density` of importance that compares channels of
            all groups, or the `loss` with a channel, which a limit on a cost weighs against what the channel costs.
        bounds: the least and the greatest width that each group may have here, shape (groups,) both; the greatest and
            the next one below it are always offered, and channels beyond it score -inf. By default none.

    Raises:
        UserError: nothing can be removed at all.
        BudgetError: the budget is below what the least widths allow; names the nearest that can be met.
    """
    if not groups.groups:
        raise _nothing_to_remove(groups)
    if shares is None:
        shares = np.full(len(groups.groups), budget.keep if isinstance(budget.keep, float | int) else np.nan)
    steps, means, order = steps_and_means(groups, scores, budget, shares, bounds)
    solution = None
    if budget.limit is None:
        asked = np.where(np.isnan(shares), 1.0, shares)
        wanted = [max(1, round(group.width * share)) for group, share in zip(groups.groups, asked, strict=True)]
        widths = np.array([nearest_width(m, w, s) for m, w, s in zip(means, wanted, steps, strict=True)])
    else:
        cost = costs[budget.limits]
        losses = losses_at(groups, means, steps, cost, unit)
        solution = within(losses, steps, cost, budget.allowed(cost(full_widths(groups.groups))))
        if solution is None:
            raise _refused(groups, steps, cost, budget)
        widths = solution.widths
    kept = np.ones(groups.channel_count, dtype=bool)
    for group, lanes, width in zip(groups.groups, order, widths, strict=True):
        for lane, count in zip(lanes, group.counts(int(width)), strict=True):
            kept[lane[count:]] = False
    lowered = isinstance(solution, MixedSolution) and solution.precisions
    if kept.all() and not lowered and _asks(budget, shares, costs, groups):
        raise _none_narrower(groups, budget)
    return Allocation(kept, solution)


def _none_narrower(groups: Groups, budget: Budget) -> BudgetError:
    """The error of a budget whose alignment and floors leave every group as it is."""
    widest = max(group.width for group in groups.groups)
    return BudgetError(
        f"Nothing would be removed: no group may take a smaller width at align={budget.align}, "
        f"min_keep={budget.min_keep:g} and min_channels={budget.min_channels} (the widest lane has {widest} "
        "channels). Lower the alignment or the least widths, or ask for less to be kept."
    )


def steps_and_means(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    shares: Scores | None = None,
    bounds: tuple[Widths, Widths] | None = None,
) -> tuple[list[Widths], list[Scores], list[list[NDArray[np.int64]]]]:
    """Of each group the admissible widths, the mean score of each step, and the channels of each lane in their order.

    Args:
        groups: from `couple`.
        scores: see `allocate`.
        budget: its alignment and floors.
        shares: see `allocate`.
        bounds: see `allocate`.
    """
    asked = np.full(len(groups.groups), np.nan) if shares is None else shares
    order = [_descending(group, scores) for group in groups.groups]
    values = np.where(np.isneginf(scores), 0.0, scores)
    means = [
        _steps_mean(group, [values[lane] for lane in lanes]) for group, lanes in zip(groups.groups, order, strict=True)
    ]
    least = [least_width(group, budget, share) for group, share in zip(groups.groups, asked, strict=True)]
    steps = [_admissible(groups, group, budget, low) for group, low in zip(groups.groups, least, strict=True)]
    if bounds is not None:
        steps = [_between(step, low, high) for step, low, high in zip(steps, *bounds, strict=True)]
        means = [mean[:high] for mean, high in zip(means, bounds[1], strict=True)]
    return steps, means, order


def _between(widths: Widths, low: int, high: int) -> Widths:
    """Of ascending widths those from `low` on that are below `high`, one at least where there is any, and `high`."""
    below = widths[widths < high]
    return np.append(below[below >= min(low, int(below.max(initial=0)))], high)


def _nothing_to_remove(groups: Groups) -> UserError:
    """The error of groups of which none is left, with what holds them."""
    held = sorted({pin.reason for pin in groups.pins if pin.reason.startswith(EXCLUDED.text)})
    if held:
        return UserError(
            f"No channel is left to remove: every one that could go is {', '.join(held)}, or coupled to such a layer. "
            "Expected exclude to leave some layers: name fewer, such as ['head.*']."
        )
    reasons = "; ".join(str(pin) for pin in groups.pins[:3]) or "the model has no convolution or linear layer"
    return UserError(
        f"No channel of this model can be removed: {reasons}. Expected at least one convolution or linear layer whose "
        "output is not the network's. See `channelcut analyze` for every pin and its remedy."
    )


def least_widths(groups: Groups, budget: Budget) -> Widths:
    """The width that each group has at least under a limit, at the alignment and the floors of a budget."""
    found = [_admissible(groups, g, budget, least_width(g, budget, math.nan))[0] for g in groups.groups]
    return np.array(found, dtype=np.int64)


def _admissible(groups: Groups, group: Group, budget: Budget, least: int) -> Widths:
    """The widths that a budget offers a group."""
    align = width_alignment(groups, group, budget.align)
    fine = width_alignment(groups, group, budget.fine) if budget.fine else 0
    return admissible_widths(group.widths, align, least, fine)


def least_width(group: Group, budget: Budget, share: float) -> int:
    """The least width of a group: every lane keeps `min_channels`; beside a limit, also the shares that are asked.

    Of lanes that keep no equal shares it is all together that keep as many, wherever they stand in a tensor.
    """
    shortest = group.width if group.table else min(len(lane) for lane in group.lanes)
    least = math.ceil(budget.min_channels * group.width / shortest)
    if budget.limit is not None:
        part = max(budget.min_keep, 0.0 if math.isnan(share) else share)
        least = max(least, math.ceil(part * group.width - 1e-9))
    return min(group.width, max(1, least))


def _asks(budget: Budget, shares: Scores, costs: Mapping[str, WidthCost], groups: Groups) -> bool:
    """Whether anything has to go."""
    if budget.limit is None:
        return bool((shares < 1).any())
    whole = costs[budget.limits](full_widths(groups.groups))
    return budget.allowed(whole) < whole


def _steps_mean(group: Group, scores: list[Scores]) -> Scores:
    """The mean score of each step of a group's width, over its lanes, shape (width,).

    `scores` are in descending order. Where lanes keep no equal shares, all steps between two widths have the mean of
    what goes with them, and none more than the one before.
    """
    if not group.table:
        equal: Scores = np.mean([lane.reshape(group.width, -1).mean(1) for lane in scores], axis=0)
        return equal
    means, before = np.zeros(group.width), (0, 0.0, 0)
    for width in group.widths.tolist():
        counts = group.counts(width)
        total = sum(float(lane[:count].sum()) for lane, count in zip(scores, counts, strict=True))
        means[before[0] : width] = (total - before[1]) / max(1, sum(counts) - before[2])
        before = (width, total, sum(counts))
    descending: Scores = np.minimum.accumulate(np.maximum(means, 0.0))
    return descending


def _descending(group: Group, scores: Scores) -> list[NDArray[np.int64]]:
    """Each lane's channels, most important first; ties keep the earlier channel."""
    return [lane[np.argsort(-scores[lane], kind="stable")] for lane in group.lanes]


def within(losses: list[Scores], steps: list[Widths], cost: WidthCost, limit: float) -> Solution | None:
    """The widths that lose least within a limit; by descent where the cost is a bare function. None: none meet it."""
    if isinstance(cost, MixedCost):
        return solve_mixed(Program(losses, steps, cost, limit), cost)
    if hasattr(cost, "pairwise"):
        return solve(Program(losses, steps, cost, limit))
    if cost(np.array([step[0] for step in steps], dtype=np.int64)) > limit * (1 + 1e-9):
        return None
    widths = descend(losses, steps, cost, limit)
    lost = sum(float(v[int(np.searchsorted(s, w))]) for v, s, w in zip(losses, steps, widths, strict=True))
    return Solution(widths, lost, cost(widths), 0.0, 1.0 if lost else 0.0, "descent", 0.0)


def _refused(groups: Groups, steps: list[Widths], cost: WidthCost, budget: Budget) -> BudgetError:
    """The error of a budget that the least widths do not meet."""
    if all(len(step) == 1 for step in steps):
        return _none_narrower(groups, budget)
    assert budget.limit is not None
    name, given = budget.limit
    least, whole = np.array([s[0] for s in steps]), cost(full_widths(groups.groups))
    left = cost.assigned(quickest(cost, least))(least) if isinstance(cost, MixedCost) else cost(least)
    share = min(left / whole, 1 - 5e-5)
    if name == "latency_ms":
        nearest = f"{left * (1 + 1e-3):.4g}"
    else:
        nearest = f"{share + 5e-5:.4f}" if given <= 1 else f"{math.ceil(left)}"
    why = "is pinned"
    if groups.unused and name == "params":
        why = f"is pinned, or never read by the forward ({unused_words(groups.unused)}: see entries, drop_unused)"
    of = "time" if budget.timed else name
    return BudgetError(
        f"The budget {name}={given:g} cannot be met: with every group at its least width (align={budget.align}, "
        f"min_keep={budget.min_keep:g}, min_channels={budget.min_channels}) {share:.4f} of the original's {of} remain, "
        f"because the rest {why}. The nearest possible budget is {name}={nearest}. Ask for that, lower the alignment "
        "or the least widths (min_keep, min_channels, keep), or see `channelcut analyze` for what is pinned and how "
        "to free it.",
        float(nearest),
    )
