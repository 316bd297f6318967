"""Depth and width under one budget: the blocks that a program chooses go first, and widths meet what is left of it."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from channelcut.allocation import LIMITS, Budget, absolute
from channelcut.choosing import AUTO, Ranked
from channelcut.closing import TOLERANCE
from channelcut.core.errors import BudgetError, ProofError, UserError
from channelcut.core.inputs import Inputs
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
    rest, share = _rest(scored, shorter, first, x, asked, watch)
    last, small, proof, step = first.step, first.model, first.proof, first.step
    said: Mapping[str, Any] = scored.asked(asked.budget)
    if rest is not None:
        try:
            last, small, proof = cut_and_proven(shorter, x, inputs, rest, watch)
        except BudgetError as error:
            raise _of_the_rest(error, first.step.dropped, asked.budget) from error
        step, said = compose(first.step, last), last.options
    step = replace(step, options=_options(said, scored, asked.budget, first.step.dropped, share))
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
    budget = asked.budget.in_shares(scored.whole_ms) if asked.budget.timed else asked.budget
    free = candidates(scored, found, budget, asked.batches[:_COMPARED] or [inputs], watch)
    if not free:
        return ()
    with watch.stage("allocate"):
        return scored.blocks_to_go(budget, free)


def _rest(
    scored: Ranked, shorter: Ranked, first: PruneResult, x: Any, asked: Request, watch: Stopwatch
) -> tuple[Request | None, float]:
    """What is asked of the network without the blocks, or None where it is met; and the share of time it takes."""
    budget = asked.budget
    if budget.limit is None:
        return asked, 1.0
    name, given = budget.limit
    if not budget.timed:
        limit = absolute(given, scored.costs[name](full_widths(scored.groups.groups)))
        left = replace(asked, budget=budget.limited(max(limit, _NO_SHARE)))
        return (None if getattr(first.step.after, name) <= limit else left), 1.0
    whole: Any = asked.cost
    cost = whole.without(first.step.dropped)
    if getattr(cost, "target", None) is None:
        share = shorter.timed(cost).whole_ms / scored.whole_ms
    else:
        with gauge_for(scored.model, x, cost, asked.deploy, watch) as gauge:
            share = ratio_of(gauge(first.model)).estimate
    wanted = budget.in_shares(scored.whole_ms).latency
    assert wanted is not None
    if wanted / share >= 1 - TOLERANCE:
        return None, share
    return replace(asked, cost=cost, budget=replace(budget, latency_ms=None, latency=wanted / share)), share


def _of_the_rest(error: BudgetError, chosen: Sequence[str], budget: Budget) -> BudgetError:
    unit = "shares of the network that is left" if budget.timed else "numbers rather than shares"
    return BudgetError(f"Without {', '.join(chosen)}, and in {unit}: {error}")


def _options(
    said: Mapping[str, Any], scored: Ranked, given: Budget, chosen: Sequence[str], share: float
) -> dict[str, Any]:
    """What was asked for, as data: of the original, with the blocks that went and trials in shares of its time.

    Args:
        said: the options of the cut in width.
        scored: the original.
        given: its budget.
        chosen: the blocks.
        share: of the original's time that it takes without them.
    """
    found = {name: value for name, value in said.items() if name not in LIMITS}
    if given.limit is not None:
        found[given.limit[0]] = given.limit[1]
    found.pop("kept_importance", None)  # of the widths alone
    parts = ("asked", "predicted", "ratio", "low", "high")
    if "trials" in found:
        found["trials"] = [trial | {part: trial[part] * share for part in parts} for trial in found["trials"]]
    found |= {"full_ms": scored.whole_ms} if given.timed else {}
    return found | {"blocks": list(chosen)}


def _recorded_as(small: nn.Module, options: Mapping[str, Any]) -> None:
    """Let the record of a cut say what was asked for of the original."""
    record = record_of(small)
    assert record is not None
    put_record(small, replace(record.plan, options=options), record.rounds, record.weights)
