"""Closing the loop: a plan for a time is built and timed, and made again until what was measured meets the budget.

A predicted ratio may be wrong, a measured one is what the user gets. The limit that a plan is made for is moved by what
the last plan measured, inside the bracket of plans that were too slow and fast enough (a secant step on logarithms).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

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
_TIMED, _PLANNED = 6, 18  # plans at one alignment, at most
_CLOSE = 1.002  # limits that near have no other plan between them
_LATENCY = "latency"


@dataclass(frozen=True)
class Trial:
    """One plan that was built and timed, all as shares of the original's time.

    asked: the limit that the plan was made for. predicted: its time by the cost model. ratio, low, high: its time as
    measured, with the 95 % interval. align: the multiple that its widths are rounded to. macs: what it leaves of them.
    lowered: how many layers were in a lower precision. error: the output error of that, as measured. importance: what
    it keeps of it; 0 where scores are no shares of one. chosen: whether it is the plan that was taken.
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
    importance: float = 0.0
    chosen: bool = False

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
    """The plan that keeps most among those whose measured time meets a budget, with every trial in its options.

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
            told = [asdict(replace(trial, chosen=trial is found[0])) for trial in trials]
            options |= {asked.limit[0]: asked.limit[1], "trials": told}
            return replace(found[1], options=options), found[2]
        if found is None and any(trial.faster for trial in loop.trials):
            break  # its widths do speed up, only not as far
    raise refused(asked, scored.whole_ms, trials)


class _Loop:
    """The trials at one alignment."""

    def __init__(self, scored: Ranked, budget: Budget, gauge: Gauging, watch: Stopwatch) -> None:
        assert budget.latency is not None
        self.scored, self.budget, self.target = scored, budget, budget.latency
        self.gauge, self.watch = gauge, watch
        self.trials: list[Trial] = []
        self.cuts: list[tuple[Trial, Plan, nn.Module]] = []
        self.points: list[tuple[float, float]] = []  # a limit, and what the plan for it took

    def run(self) -> tuple[Trial, Plan, nn.Module] | None:
        """Of the plans that meet the budget that which keeps most, one that is faster if any is; None: none meets it.

        Raises:
            BudgetError: alignment and floors leave nothing that could go.
        """
        asked = self.target
        known: dict[bytes, Trial] = {}
        while len(self.points) < _PLANNED:
            plan, least = self._plan(asked)
            same = context_of(plan).kept.tobytes() + repr(plan.options.get("precision")).encode()
            if same not in known:
                if len(self.trials) == _TIMED:
                    break
                known[same] = self._timed(plan, asked)
            elif least:
                break  # there is none below it
            trial = known[same]
            self.points.append((asked, trial.ratio))
            if (self._settled(trial) and trial.ratio >= self.target * (1 - TOLERANCE)) or self._closed():
                break
            asked = _next(self.points, self.target)
        met = [cut for cut in self.cuts if cut[0].ratio <= self.target * (1 + TOLERANCE)]
        best = [cut for cut in met if self._settled(cut[0])] or met
        return max(best, key=lambda cut: (cut[0].faster, cut[0].importance, cut[0].ratio)) if best else None

    def _settled(self, trial: Trial) -> bool:
        """Whether a plan meets the budget by more than the noise, which alone may bring others within the tolerance."""
        return trial.ratio <= self.target or trial.high <= self.target * (1 + TOLERANCE)

    def _closed(self) -> bool:
        """Whether no plan is left between one that was fast enough and one that was too slow."""
        fast, slow = _bracket(self.points, self.target)
        return 0 < fast < slow <= fast * _CLOSE

    def _plan(self, asked: float) -> tuple[Plan, bool]:
        """The plan for a limit, and whether it is that of the least widths because the limit lies below them."""
        try:
            return self.scored.planned(replace(self.budget, latency=min(asked, 1.0)), self.watch), False
        except BudgetError as error:
            if error.nearest is None:
                raise
            return self.scored.planned(replace(self.budget, latency=error.nearest), self.watch), True

    def _timed(self, plan: Plan, asked: float) -> Trial:
        smaller = applied(self.scored.model, plan, self.watch)
        lower = lowering_of(self.scored.costs[_LATENCY], plan)
        measured = ratio_of(self.gauge(smaller) if lower is None else self.gauge(smaller, lower))
        trial = Trial(
            asked=asked,
            predicted=plan.options["predicted"],
            ratio=measured.estimate,
            low=measured.low,
            high=measured.high,
            align=self.budget.align,
            macs=plan.macs_ratio,
            importance=plan.options.get("kept_importance", 0.0),
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


def _next(points: Sequence[tuple[float, float]], target: float) -> float:
    """The limit to plan for next: where the power law through the two nearest points meets the target.

    Kept inside the bracket of limits whose plans were fast enough and too slow, by its geometric middle.
    """
    (near, ratio), *others = sorted(points, key=lambda point: abs(math.log(point[1] / target)))
    power = 1.0
    if others and others[0][0] != near:
        power = math.log(ratio / others[0][1]) / math.log(near / others[0][0])
    asked = near * (target / ratio) ** (1 / min(max(power, 0.2), 5.0))
    fast, slow = _bracket(points, target)
    if fast < asked < slow or fast >= slow:
        return float(asked)
    low, high = fast or slow / 2, slow if math.isfinite(slow) else fast * 2
    return float(math.sqrt(low * high))


def _bracket(points: Sequence[tuple[float, float]], target: float) -> tuple[float, float]:
    """The greatest limit whose plan was fast enough, or 0, and the least whose plan was too slow, or infinity."""
    fast = max((asked for asked, ratio in points if ratio <= target), default=0.0)
    return fast, min((asked for asked, ratio in points if ratio > target), default=math.inf)


def below_budget(options: Mapping[str, Any]) -> str:
    """Why a plan takes clearly less time than the budget allows, from the options of the plan; empty where not."""
    trials = options.get("trials", [])
    chosen = next((trial for trial in trials if trial.get("chosen")), None)
    limit = options.get(_LATENCY) or options.get("latency_ms", 0.0) / options.get("full_ms", math.inf)
    if chosen is None or chosen["ratio"] >= limit * (1 - TOLERANCE):
        return ""
    wider = min((t["ratio"] for t in trials if t["ratio"] > limit * (1 + TOLERANCE)), default=None)
    said = f"The plan takes {chosen['ratio']:.3f} of the original's time where {limit:.3f} were allowed: "
    if wider is None:
        return f"{said}none of the {len(trials)} plans that were timed comes nearer to it."
    return f"{said}the next one that was found takes {wider:.3f}. A smaller alignment may have plans in between."


def refused(budget: Budget, whole_ms: float, trials: Sequence[Trial]) -> BudgetError:
    """The error of a budget of time that no measured plan meets, in its own unit.

    Args:
        budget: as it was given.
        whole_ms: what the original takes.
        trials: what was built and timed.
    """
    assert budget.limit is not None
    name, given = budget.limit
    scale, places = (whole_ms, ".4g") if name == "latency_ms" else (1.0, ".3f")
    quickest = min(trials, key=lambda trial: trial.high)
    tried = _tried(budget, trials)
    low, high, nearest = (f"{scale * value:{places}}" for value in (quickest.low, quickest.high, quickest.ratio))
    told = f"The nearest that was measured is {name}={nearest} ({low} to {high})"
    if not quickest.faster:
        told = "None was faster than the original by more than the noise"
    if any(scale * trial.ratio <= given * (1 + TOLERANCE) for trial in trials):
        return BudgetError(
            f"A network at {name}={given:g} would not be faster than the original by more than the noise of the "
            f"measurement ({tried}). {told}. Ask for less, or measure on a quieter machine."
        )
    remedy = "Ask for that, or lower" if quickest.faster else "See what takes the time (channelcut measure), or lower"
    return BudgetError(
        f"The budget {name}={given:g} cannot be met in measurement: {tried}. {told}. {remedy} the alignment or the "
        "least widths (min_keep, min_channels, keep).",
        scale * quickest.ratio if quickest.faster else None,
    )


def _tried(budget: Budget, trials: Sequence[Trial]) -> str:
    """How many plans were timed, and within which widths."""
    aligns = " and ".join(str(align) for align in sorted({trial.align for trial in trials}))
    count = "one plan was" if len(trials) == 1 else f"{len(trials)} plans were"
    floors = f"min_keep={budget.min_keep:g}, min_channels={budget.min_channels}"
    return f"{count} built and timed, at align {aligns} with {floors}"
