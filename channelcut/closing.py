"""Closing the loop: a plan for a time is built and timed, and made again until what was measured meets the budget.

A predicted ratio may be wrong, a measured one is what the user gets. The limit that a plan is made for is moved by what
the last plan measured, inside the bracket of plans that were too slow and fast enough (a secant step on logarithms).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from channelcut.allocation import Budget
from channelcut.choosing import Ranked
from channelcut.core.errors import BudgetError
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.cost.mixed import MixedCost
from channelcut.cost.protocol import WidthCost
from channelcut.gauge import Gauging, gauge_for, ratio_of
from channelcut.precision.mixed import LayersLowered
from channelcut.steps import applied, context_of

TOLERANCE = 0.03  # of the budget
_ROUNDS = 6
_LATENCY = "latency"


@dataclass(frozen=True)
class Trial:
    """One plan that was built and timed, all as shares of the original's time.

    asked: the limit that the plan was made for. predicted: its time by the cost model. ratio, low, high: its time as
    measured, with the 95 % interval. align: the multiple that its widths are rounded to. macs: what it leaves of them.
    lowered: how many layers were in a lower precision. error: the output error of that, as measured.
    """

    asked: float
    predicted: float
    ratio: float
    low: float
    high: float
    align: int
    macs: float
    lowered: int = 0
    error: float = 0.0

    @property
    def faster(self) -> bool:
        """Whether it is faster than the original by more than the noise."""
        return self.high < 1


def cut_within(
    scored: Ranked, budget: Budget, cost: WidthCost | None, example: Any, watch: Stopwatch
) -> tuple[Plan, nn.Module]:
    """The plan that meets a budget, and the cut; a budget of time is met in measurement where `cost` was measured.

    Args:
        scored: the network and its scores.
        budget: what may remain.
        cost: for a budget of time what it is predicted by; one with a `target` was measured here.
        example: an example input, as for `channelcut.prune`; both are timed at the batch of `cost`.
        watch: takes the time.

    Raises:
        UserError: a budget of time comes without `cost`, or with one that was measured at another size than that of
            the example.
        BudgetError: the budget cannot be met, in measurement either.
    """
    scored = scored.timed(cost) if budget.timed else scored
    target = getattr(cost, "target", None) if budget.timed else None
    if target is None or budget.in_shares(scored.whole_ms).latency == 1:  # predicted alone, or met by the original
        plan = scored.planned(budget, watch)
        return plan, applied(scored.model, plan, watch)
    with gauge_for(scored.model, example, cost, scored.groups.deploy, watch) as gauge:
        return closed(scored, budget, gauge, watch)


def closed(scored: Ranked, budget: Budget, gauge: Gauging, watch: Stopwatch) -> tuple[Plan, nn.Module]:
    """The plan whose measured time is as close below a budget as plans come, with every trial in its options.

    Args:
        scored: the network, its scores, and `latency` among its costs.
        budget: of time; its alignment is where it starts.
        gauge: times a cut beside the original.
        watch: takes the time.

    Raises:
        BudgetError: no plan measures so little, or none is faster than the original by more than the noise; the text
            names the nearest budget that was measured.
    """
    trials: list[Trial] = []
    asked, budget = budget, budget.in_shares(scored.whole_ms)
    for align in (budget.align, *(wide for wide in (16, 32) if wide > budget.align)):
        fine = budget.fine if align == budget.align else 0
        loop = _Loop(scored, replace(budget, align=align, fine=fine), gauge, watch)
        try:
            found = loop.run()
        except BudgetError:
            if not trials:
                raise
            break  # coarser widths cannot meet it at all; what finer ones measured is told
        finally:
            trials += loop.trials
        if found is not None and found[0].faster:
            options = {name: value for name, value in found[1].options.items() if name != _LATENCY}
            assert asked.limit is not None
            options |= {asked.limit[0]: asked.limit[1], "trials": [asdict(trial) for trial in trials]}
            return replace(found[1], options=options), found[2]
        if found is None and any(trial.faster for trial in loop.trials):
            break  # its widths do speed up, only not as far
    raise _refused(budget, trials)


class _Loop:
    """The trials at one alignment."""

    def __init__(self, scored: Ranked, budget: Budget, gauge: Gauging, watch: Stopwatch) -> None:
        assert budget.latency is not None
        self.scored, self.budget, self.target = scored, budget, budget.latency
        self.gauge, self.watch = gauge, watch
        self.trials: list[Trial] = []
        self.cuts: list[tuple[Trial, Plan, nn.Module]] = []

    def run(self) -> tuple[Trial, Plan, nn.Module] | None:
        """The slowest of the plans that meet the budget; None where none does."""
        asked = self.target
        seen: set[bytes] = set()
        for _ in range(_ROUNDS):
            plan = self._plan(asked)
            if plan is None:
                break
            same = context_of(plan).kept.tobytes() + repr(plan.options.get("precision")).encode()
            if same in seen:
                break
            seen.add(same)
            trial = self._timed(plan, asked)
            if abs(trial.ratio / self.target - 1) <= TOLERANCE:
                break
            asked = _next(self.trials, self.target)
        met = [cut for cut in self.cuts if cut[0].ratio <= self.target * (1 + TOLERANCE)]
        return max(met, key=lambda cut: cut[0].ratio) if met else None

    def _plan(self, asked: float) -> Plan | None:
        """The plan for a limit; that of the least widths where the limit lies below them."""
        try:
            return self.scored.planned(replace(self.budget, latency=min(asked, 1.0)), self.watch)
        except BudgetError as error:
            if error.nearest is None:
                return None
            return self.scored.planned(replace(self.budget, latency=error.nearest), self.watch)

    def _timed(self, plan: Plan, asked: float) -> Trial:
        smaller = applied(self.scored.model, plan, self.watch)
        cost = self.scored.costs[_LATENCY]
        lower = lowering_of(cost, plan)
        measured = ratio_of(self.gauge(smaller) if lower is None else self.gauge(smaller, lower))
        kept = context_of(plan).kept
        widths = np.array([group.kept_width(kept) for group in self.scored.groups.groups], np.int64)
        predicted = (cost if lower is None else lower.cost.assigned(lower.precisions))(widths) / self.scored.whole_ms
        trial = Trial(
            asked, predicted, measured.estimate, measured.low, measured.high, self.budget.align, plan.macs_ratio
        )
        if lower is not None and lower.report is not None:
            trial = replace(trial, lowered=len(lower.layers), error=lower.report.error)
        self.trials.append(trial)
        self.cuts.append((trial, plan, smaller))
        return trial


def lowering_of(cost: WidthCost | None, plan: Plan) -> LayersLowered | None:
    """What writes files in the precisions that a plan chose; None where it chose none."""
    chosen = plan.options.get("precision", {}).get("layers")
    return LayersLowered(cost, chosen) if chosen and isinstance(cost, MixedCost) else None


def _next(trials: Sequence[Trial], target: float) -> float:
    """The limit to plan for next: where the power law through the two nearest trials meets the target.

    Kept inside the bracket of limits whose plans were fast enough and too slow, by its geometric middle.
    """
    nearest = sorted(trials, key=lambda trial: abs(math.log(trial.ratio / target)))[:2]
    power = 1.0
    if len(nearest) == 2 and nearest[0].asked != nearest[1].asked:
        power = math.log(nearest[0].ratio / nearest[1].ratio) / math.log(nearest[0].asked / nearest[1].asked)
    asked = nearest[0].asked * (target / nearest[0].ratio) ** (1 / min(max(power, 0.2), 5.0))
    fast = max((trial.asked for trial in trials if trial.ratio <= target), default=0.0)
    slow = min((trial.asked for trial in trials if trial.ratio > target), default=math.inf)
    if fast < asked < slow or fast >= slow:
        return float(asked)
    low, high = fast or slow / 2, slow if math.isfinite(slow) else fast * 2
    return float(math.sqrt(low * high))


def _refused(budget: Budget, trials: Sequence[Trial]) -> BudgetError:
    """The error of a budget that no measured plan meets."""
    assert budget.latency is not None
    met = [trial for trial in trials if trial.ratio <= budget.latency * (1 + TOLERANCE)]
    quickest = min(trials, key=lambda trial: trial.high)
    aligns = ", ".join(str(align) for align in sorted({trial.align for trial in trials}))
    count = "one plan was" if len(trials) == 1 else f"{len(trials)} plans were"
    tried = f"{count} built and timed, at align {aligns}"
    interval = f"{quickest.low:.3f} to {quickest.high:.3f}"
    nearest = f"The nearest that was measured is latency={quickest.ratio:.3f} ({interval})"
    if not quickest.faster:
        nearest = "None was faster than the original by more than the noise"
    if met:
        return BudgetError(
            f"A network at latency={budget.latency:g} would not be faster than the original by more than the noise of "
            f"the measurement ({tried}). {nearest}. Ask for less, or measure on a quieter machine."
        )
    remedy = "Ask for that, or lower" if quickest.faster else "See what takes the time (channelcut measure), or lower"
    return BudgetError(
        f"The budget latency={budget.latency:g} cannot be met in measurement: {tried}. {nearest}. {remedy} the "
        "alignment or the least widths (min_keep, min_channels, keep)."
    )
