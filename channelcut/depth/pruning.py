"""Depth and width under one budget: the blocks that a program chooses go first, and widths meet what is left of it."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from channelcut.allocation import LIMITS, Budget, absolute
from channelcut.choosing import AUTO, Ranked
from channelcut.closing import TOLERANCE, Trial, refused
from channelcut.core.errors import BudgetError, ProofError, UserError
from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.record import put_record, record_of
from channelcut.core.result import PruneResult
from channelcut.cost.bilinear import full_widths
from channelcut.coupling.branches import Block
from channelcut.cutting import compose
from channelcut.depth.candidates import candidates, excluded_in
from channelcut.depth.dropping import dropped, named, paths_of
from channelcut.depth.finding import blocks_of
from channelcut.gauge import gauge_for, ratio_of
from channelcut.pruning import Request, cut_and_proven, finished, pruned, scored_channels
from channelcut.restoring import as_result, restored_by, unrestored

Blocks = str | Iterable[str]
_NO_SHARE = 1 + 1e-6  # a limit at or below 1 would be read as a share
_COMPARED = 2  # batches tell how far the outputs move without a block


def pruned_with_blocks(
    model: nn.Module, x: Any, inputs: Inputs, blocks: Blocks | None, asked: Request, watch: Stopwatch
) -> PruneResult:
    """The network without some residual blocks, cut in width to what the budget leaves, each proven, and restored.

    Args:
        model: the network.
        x: an example, as for `channelcut.prune`.
        inputs: the same with the further entries.
        blocks: the paths of blocks, or `auto`: those that the program of the budget leaves out; None: no block goes.
        asked: what is asked for.
        watch: takes the time.

    Raises:
        UserError: a path is no residual block or holds an excluded layer, or the budget or the cost is none that
            blocks can be chosen by.
        BudgetError: the budget cannot be met.
        ProofError: one of the two cuts could not be proven.
    """
    if blocks is None:
        return pruned(model, x, inputs, asked, watch)
    names = _checked(asked, blocks)
    scored = scored_channels(model, inputs, asked, watch)
    scored = scored.timed(asked.cost) if asked.budget.timed else scored
    found = blocks_of(model, scored.groups, inputs)
    if names is None:
        first = _chosen(scored, found, inputs, asked, watch)
    else:
        chosen = named(names, found)
        _check_held(scored, chosen)
        first = dropped(model, scored.groups, [found[path] for path in chosen], inputs, watch)
    if first is None:
        return finished(scored, x, inputs, asked, watch)
    asked = replace(asked, exclude=tuple(_pattern(model, entry) for entry in asked.exclude))
    shorter = scored_channels(first.model, inputs, asked, watch)
    rest, alone = _rest(scored, shorter, first, x, asked, watch)
    last, small, proof, step = first.step, first.model, first.proof, first.step
    said: Mapping[str, Any] = scored.asked(asked.budget)
    if rest is not None:
        try:
            last, small, proof = cut_and_proven(shorter, x, inputs, rest, watch)
        except BudgetError as error:
            raise _of_the_rest(error, first.step, asked.budget, scored, alone) from error
        step, said = compose(first.step, last), last.options
    step = replace(step, options=_options(said, scored, asked, first.step, alone))
    _recorded_as(small, step.options)
    done = restored_by(small, last, asked.restoring, watch, (model, step))
    return as_result(done, unrestored(small, step, proof, scored.groups), watch)


def _checked(asked: Request, blocks: Blocks) -> list[str] | None:
    """The paths that are asked for; None where a program is to choose."""
    names = None if isinstance(blocks, str) and blocks == AUTO else paths_of(blocks)
    if names is None and asked.budget.limit is None:
        raise UserError(
            "blocks='auto' chooses by what a budget limits, and keep limits nothing. Give macs, params or latency, or "
            "name the blocks."
        )
    if asked.budget.timed and not hasattr(asked.cost, "without"):
        raise UserError(
            f"Blocks under a budget of time need a cost that is known without them, and cost={asked.cost!r} is a "
            "function of the widths alone. Expected what channelcut.measure gives, or a roofline."
        )
    return names


def _chosen(
    scored: Ranked, found: Mapping[str, Block], inputs: Inputs, asked: Request, watch: Stopwatch
) -> PruneResult | None:
    """The network without the blocks that the program leaves out, of those that can be proven, if there are any."""
    while chosen := _least_missed(scored, found, inputs, asked, watch):
        try:
            return dropped(scored.model, scored.groups, [found[path] for path in chosen], inputs, watch)
        except ProofError:
            unfit = [path for path in chosen if not _goes(scored, found[path], inputs, watch)]
            if not unfit:
                raise
            found = {path: block for path, block in found.items() if path not in unfit}
    return None


def _goes(scored: Ranked, block: Block, inputs: Inputs, watch: Stopwatch) -> bool:
    try:
        dropped(scored.model, scored.groups, [block], inputs, watch)
    except ProofError:
        return False
    except UserError:  # the outputs do not depend on it
        return True
    return True


def _check_held(scored: Ranked, chosen: Sequence[str]) -> None:
    """Refuse to leave out a block that holds an excluded layer."""
    for path in chosen:
        if held := excluded_in(scored, path):
            raise UserError(
                f"blocks: {path!r} is to go, and exclude holds {', '.join(held[:3])}, which is in it. Expected blocks "
                "without excluded layers: leave the block out of blocks, or the layer out of exclude."
            )


def _pattern(model: nn.Module, entry: str | nn.Module) -> str:
    """An entry of `exclude` that is true of a copy of the model as well."""
    if isinstance(entry, str):
        return entry
    return glob.escape(next(path for path, module in model.named_modules() if module is entry)) or "*"


def _least_missed(
    scored: Ranked, found: Mapping[str, Block], inputs: Inputs, asked: Request, watch: Stopwatch
) -> Sequence[str]:
    """The blocks that the program leaves out."""
    budget = asked.budget
    free = candidates(scored, found, budget, asked.batches[:_COMPARED] or [inputs], watch)
    if not free:
        return ()
    with watch.stage("allocate"):
        return scored.blocks_to_go(budget, free)


def _rest(
    scored: Ranked, shorter: Ranked, first: PruneResult, x: Any, asked: Request, watch: Stopwatch
) -> tuple[Request | None, Trial]:
    """What is asked of the network without the blocks, or None where it is met; and what that network takes.

    Raises:
        BudgetError: it is met, but without the blocks the network is not faster by more than the noise.
    """
    budget, macs = asked.budget, first.step.macs_ratio
    alone = Trial(1.0, 1.0, 1.0, 1.0, 1.0, budget.align, macs)
    if budget.limit is None:
        return asked, alone
    name, given = budget.limit
    if not budget.timed:
        limit = absolute(given, scored.costs[name](full_widths(scored.groups.groups)))
        left = replace(asked, budget=budget.limited(max(limit, _NO_SHARE)))
        return (None if getattr(first.step.after, name) <= limit else left), alone
    whole: Any = asked.cost
    cost = whole.without(first.step.dropped)
    wanted = budget.in_shares(scored.whole_ms).latency
    assert wanted is not None
    share = shorter.timed(cost).whole_ms / scored.whole_ms
    alone = Trial(wanted, share, share, share, share, budget.align, macs)
    if _timed_here(asked):
        with gauge_for(scored.model, x, cost, asked.deploy, watch) as gauge:
            ratio = ratio_of(gauge(first.model))
        alone = replace(alone, ratio=ratio.estimate, low=ratio.low, high=ratio.high)
    if wanted / alone.ratio >= 1 - TOLERANCE:
        if not alone.faster:
            raise refused(budget, scored.whole_ms, [alone])
        return None, alone
    return replace(asked, cost=cost, budget=replace(budget, latency_ms=None, latency=wanted / alone.ratio)), alone


def _timed_here(asked: Request) -> bool:
    return asked.budget.timed and getattr(asked.cost, "target", None) is not None


def _of_the_rest(error: BudgetError, without: Plan, budget: Budget, scored: Ranked, alone: Trial) -> BudgetError:
    """The error of what is left of a budget, with the nearest one of the original, in the unit that was asked for."""
    text = f"Without {', '.join(without.dropped)}, of the network that is left: {error}"
    if error.nearest is None or budget.limit is None:
        return BudgetError(text)
    name, given = budget.limit
    nearest = error.nearest
    if budget.timed:
        nearest *= alone.ratio * (scored.whole_ms if name == "latency_ms" else 1.0)
    elif given <= 1:
        nearest /= scored.costs[name](full_widths(scored.groups.groups))
    return BudgetError(f"{text} Of the whole network the nearest possible budget is {name}={nearest:.4g}.", nearest)


def _options(said: Mapping[str, Any], scored: Ranked, asked: Request, without: Plan, alone: Trial) -> dict[str, Any]:
    """What was asked for, as data: of the original, with the blocks that went and trials as shares of it.

    Args:
        said: the options of the cut in width.
        scored: the original.
        asked: what is asked of it.
        without: the plan that leaves the blocks out.
        alone: what the network without them takes.
    """
    given, found = asked.budget, {name: value for name, value in said.items() if name not in LIMITS}
    if given.limit is not None:
        found[given.limit[0]] = given.limit[1]
    found.pop("kept_importance", None)  # of the widths alone
    trials = found.pop("trials", [])
    if _timed_here(asked):
        parts = dict.fromkeys(("asked", "predicted", "ratio", "low", "high"), alone.ratio) | {"macs": alone.macs}
        widths = [trial | {part: trial[part] * share for part, share in parts.items()} for trial in trials]
        found["trials"] = [asdict(replace(alone, chosen=not widths)), *widths]
    if given.timed:
        found["predicted"] = alone.predicted * found.get("predicted", 1.0)
        found["full_ms"] = scored.whole_ms
    return found | {"blocks": list(without.dropped)}


def _recorded_as(small: nn.Module, options: Mapping[str, Any]) -> None:
    """Let the record of a cut say what was asked for of the original."""
    record = record_of(small)
    assert record is not None
    put_record(small, replace(record.plan, options=options), record.rounds, record.weights)
