"""From coupled channels to a plan: they are scored once, and any number of budgets choose among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from channelcut.adapters import deployed_groups
from channelcut.allocation import (
    LIMITS,
    Allocation,
    Budget,
    Candidate,
    allocate,
    blocks_to_go,
    emptied,
    excluded,
    kept_shares,
)
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.graph import Graph, check_named, output_paths, specs
from channelcut.core.groups import Groups
from channelcut.core.inputs import check_kind
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.specs import InputSpec
from channelcut.core.tensors import named_tensors
from channelcut.core.unused import sizes, unused_modules
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.cost.protocol import WidthCost
from channelcut.cutting import Halfway, PlanContext
from channelcut.ranking import Criterion
from channelcut.scoring import Scored, unit_of
from channelcut.trying import scored_by_best

AUTO = "auto"
Held = tuple[str | nn.Module, ...]


@dataclass(frozen=True)
class Ranked:
    """A network whose channels are scored.

    groups: what may go of its deployed form.
    scored: the importance of every channel, by `criterion`.
    costs: `macs`, `params` and what else is limited, as functions of the widths.
    shares: what `keep` by pattern asks of each group; None where it does not.
    held: what was excluded.
    dropped: unused modules that go as wholes.
    halfway: what earlier passes have cut already, whose channels score -inf.
    first: the importance before these.
    passes: in how many its channels are ranked and cut, see `passes`.
    """

    model: nn.Module
    groups: Groups
    criterion: Criterion
    scored: Scored
    costs: Mapping[str, WidthCost]
    shares: NDArray[np.float64] | None
    held: Held
    dropped: tuple[str, ...]
    halfway: Halfway | None = None
    first: Scored | None = None
    passes: int = 1

    def timed(self, cost: WidthCost | None) -> Ranked:
        """The same with what time costs.

        Raises:
            UserError: there is none.
        """
        if not callable(cost):
            raise UserError(
                f"A budget of time needs a model of what time is spent on, and cost={cost!r} is none. Expected what "
                "channelcut.measure gives, or another callable cost(widths) in milliseconds."
            )
        bound = cost.on(self.groups) if hasattr(cost, "on") else cost
        return replace(self, costs={**self.costs, "latency": bound})

    @property
    def whole_ms(self) -> float:
        """What the uncut network takes by the model of its time."""
        return self.costs["latency"](full_widths(self.groups.groups))

    def emptied(self, budget: Budget) -> NDArray[np.float64]:
        """What is lost where a group has no channel left, shape (groups,), see `allocation.blocks`."""
        return emptied(self.groups, self.scored.values, budget, self.costs, unit_of(self.criterion.chosen))

    def blocks_to_go(self, budget: Budget, candidates: Sequence[Candidate]) -> tuple[str, ...]:
        """The blocks without which least is lost within a limit, see `allocation.blocks`."""
        unit = unit_of(self.criterion.chosen)
        return blocks_to_go(self.groups, self.scored.values, budget, self.costs, unit, candidates)

    def planned(self, budget: Budget, watch: Stopwatch) -> Plan:
        """The plan that meets a budget, with its context."""
        with watch.stage("allocate"):
            limited = budget.beside(*sizes(self.model, self.dropped, self.groups.undeployed))
            chosen = self._allocated(limited)
            context = PlanContext(
                self.model, self.groups, chosen.kept, self.scored.values, self.costs, self.dropped, halfway=self.halfway
            )
            said = chosen.to_dict() | (self._time_of(chosen) if budget.timed else {})
            said |= self._importance_of(chosen.kept)
            return context.plan(self.asked(budget) | said)

    def _allocated(self, budget: Budget) -> Allocation:
        """What is kept within a budget; of several passes none takes more of a group than its part, where it can."""
        unit = unit_of(self.criterion.chosen)
        allocated = partial(allocate, self.groups, self.scored.values, budget, self.costs, self.shares, unit)
        if self.passes == 1:
            return allocated()
        most = full_widths(self.groups.groups)
        if self.halfway is not None:
            kept = ~np.isneginf(self.scored.values)
            most = np.array([group.kept_width(kept) for group in self.groups.groups], dtype=np.int64)
        try:
            return allocated((np.ceil(budget.min_keep ** (1 / self.passes) * most - 1e-9).astype(np.int64), most))
        except BudgetError:
            return allocated((np.zeros_like(most), most))

    def _time_of(self, chosen: Allocation) -> dict[str, Any]:
        """What the network takes, the share of it that is predicted of the cut, and what that is told by."""
        assert chosen.solution is not None
        predicted = round(chosen.solution.cost / self.whole_ms, 6)
        by = getattr(self.costs["latency"], "words", "a function of the widths")
        return {"full_ms": self.whole_ms, "predicted": predicted, "planned_by": by}

    def asked(self, budget: Budget) -> dict[str, Any]:
        """What was asked for, as data, and how channels were ranked for it."""
        said = self.criterion.said(budget, self.scored) | ({"passes": self.passes} if self.passes > 1 else {})
        return _recorded(self.model, self.groups, budget, said, self.held)

    def _importance_of(self, kept: NDArray[np.bool_]) -> dict[str, float]:
        """The share of the summed importance of all channels that could go that is kept, shape (channel_count,)."""
        channels = np.concatenate([group.channels for group in self.groups.groups])
        values = (self.first or self.scored).values[channels]
        whole = float(values.sum())
        if not np.isfinite(whole) or whole <= 0 or values.min() < 0:
            return {}  # of a function of the user's
        return {"kept_importance": round(float(values[kept[channels]].sum()) / whole, 6)}


def alignment(align: int | str, cost: WidthCost | None) -> int:
    """The multiple of kept widths that is meant: of `auto` the step of what time is spent on, where that is known."""
    return int(getattr(cost, "step", 1)) if align == AUTO else cast(int, align)  # a budget checks it


def fine_alignment(align: int | str, cost: WidthCost | None, *, timed: bool) -> int:
    """The multiple of narrow widths, where `auto` lets a budget of time choose among all that were timed; 0: none."""
    return int(getattr(cost, "fine", 0)) if align == AUTO and timed else 0


def ranked(
    model: nn.Module,
    groups: Groups,
    keep: object,
    criterion: Criterion,
    exclude: Iterable[str | nn.Module],
    watch: Stopwatch,
    *,
    drop_unused: bool = False,
    deploy: Deploy = DEFAULT,
) -> Ranked:
    """Score the channels of the deployed form.

    Args:
        model: the network.
        groups: its coupling.
        keep: that of the budget.
        criterion: by what channels are ranked; of a detector, where that is open, by what suits it best.
        exclude: what keeps its width, see `channelcut.plan`.
        watch: takes the time.
        drop_unused: see `channelcut.plan`.
        deploy: see `channelcut.plan`.
    """
    check_fits(model, groups)
    check_kind(deploy, Deploy, "deploy", "channelcut.core.deployed.Deploy(...)")
    check_named(output_paths([groups.graph]), deploy.outputs, "outputs")
    groups = deployed_groups(model, groups, deploy)
    held = excludes(exclude)
    groups = excluded(model, groups, held)
    shares = kept_shares(model, groups, keep) if isinstance(keep, Mapping) else None
    with watch.stage("score"):
        costs = network_costs(model, groups)
        best, scored = scored_by_best(model, groups, criterion, costs, watch)
    dropped = tuple(unused_modules(model, groups.unused)) if drop_unused else ()
    return Ranked(model, groups, best, scored, costs, shares, held, dropped)


def excludes(exclude: Iterable[str | nn.Module]) -> tuple[str | nn.Module, ...]:
    """What `exclude` holds, which may be a lone pattern or module."""
    if isinstance(exclude, (str, nn.Module)):
        return (exclude,)
    if not isinstance(exclude, Iterable):
        raise UserError(f"exclude={exclude!r} names nothing. Expected patterns such as 'head.*', or modules.")
    return tuple(exclude)


def check_fits(model: nn.Module, groups: Groups) -> None:
    """Refuse groups of another model.

    Raises:
        UserError: a tensor has another shape, or is missing.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    wrong = sorted({s.tensor for s in groups.slots if shapes.get(s.tensor) != tuple(groups.shapes[s.tensor])})
    if wrong:
        raise UserError(
            f"These groups were found in another model: {', '.join(wrong[:3])} has another shape here, or is missing. "
            "Analyze the model that you want to plan for: groups = channelcut.analyze(model, x)."
        )


def _recorded(
    model: nn.Module, groups: Groups, budget: Budget, said: Mapping[str, Any], exclude: Sequence[str | nn.Module]
) -> dict[str, Any]:
    """What was asked for, as data."""
    paths = {id(module): path for path, module in model.named_modules()}
    chosen: dict[str, Any] = {}
    shape = _input_shape(groups.graph)
    if shape:
        chosen["input"] = shape
    if budget.keep is not None:
        chosen["keep"] = dict(budget.keep) if isinstance(budget.keep, Mapping) else budget.keep
    if groups.free_outputs:
        chosen["prunable_outputs"] = list(groups.free_outputs)
    if groups.graph.entries:
        chosen["entries"] = list(groups.graph.entries)
    chosen |= {name: value for name in LIMITS if (value := getattr(budget, name)) is not None}
    if deployed := groups.deploy.to_dict():
        chosen["deploy"] = deployed
    if exclude:
        chosen["exclude"] = [entry if isinstance(entry, str) else paths[id(entry)] for entry in exclude]
    return {
        **chosen,
        "align": budget.align,
        "min_keep": budget.min_keep,
        "min_channels": budget.min_channels,
        **said,
    }


def _input_shape(graph: Graph) -> str:
    """The one tensor that a forward takes, as `1x3x224x224`; empty where it takes several."""
    others = tuple(f"{entry}." for entry in graph.entries)
    taken = [node for node in graph.nodes if node.kind == "input" and not node.name.startswith(others)]
    found = [spec for node in taken for spec in specs(node.value)]
    if len(found) != 1:
        return ""
    return str(InputSpec(tuple(found[0].shape), str(found[0].dtype).removeprefix("torch.")))
