"""Ranking in passes: cut a little, refit what is left, rank that again, until the budget is met.

A gradient tells what a network loses with a little less of a channel, not with half of its channels at once. So what
counts for the last ones to go is asked of a network that has lost the others, and has made up for them. No label is
read and nothing is trained. All passes choose among the channels of the original, by its costs, and the weights of one
are where the refits of the next begin. Of what a budget limits a share s is left by n passes as s ** (1 / n), s ** (2 /
n), ..., s (a constant share of what is left: Frankle and Carbin 2019, arXiv:1803.03635; ranked anew on the way:
Molchanov et al. 2017, arXiv:1611.06440).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from channelcut.adapters import weighing_of
from channelcut.allocation import Budget, absolute
from channelcut.choosing import Ranked
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.groups import Groups
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.cost.bilinear import full_widths
from channelcut.cost.protocol import WidthCost
from channelcut.cutting import Halfway, carried, cut
from channelcut.ranking import Criterion
from channelcut.restoring import compensated
from channelcut.scoring import Scored, ranks_by_gradients
from channelcut.steps import context_of

OF_A_DETECTOR = 4  # where nobody says how many (benchmarks/results/accuracy.md has rows of one and of four)


def passes_of(asked: int | None, criterion: Criterion, restore: str, blocks: object) -> int:
    """In how many passes channels are ranked: where nobody says so, four of a detector of a known library, else one.

    Args:
        asked: how many.
        criterion: by what channels are ranked.
        restore: what is done after the proof, see `channelcut.prune`.
        blocks: which residual blocks go.

    Raises:
        UserError: it is no number, or several could not be told from one.
    """
    fits = restore == "compensate" and bool(criterion.batches) and ranks_by_gradients(criterion.chosen)
    if asked is None:
        known = criterion.detects and criterion.detections is None
        return OF_A_DETECTOR if fits and known and blocks is None else 1
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise UserError(f"passes={asked!r}: expected a whole number from 1 on.")
    if asked > 1 and not fits:
        raise UserError(
            f"passes={asked}: what is left after a pass is refitted and ranked again, which takes images "
            "(calibration=, --data), restore='compensate' and an importance of gradients (fisher, taylor or "
            "group-fisher). Expected these, or one pass."
        )
    if asked > 1 and blocks is not None:
        raise UserError(
            f"passes={asked} with blocks: what a block did is made up for once, with the widths. Expected one pass; or "
            "leave the blocks out first, with cc.drop_blocks, and prune what is left in passes."
        )
    return asked


def ranked_in_passes(scored: Ranked, budget: Budget, cost: WidthCost | None, passes: int, watch: Stopwatch) -> Ranked:
    """Channels as all passes but the last rank and cut them; the last one is that of whoever plans by them.

    Args:
        scored: the network and its scores.
        budget: what may remain in the end.
        cost: of a budget of time.
        passes: how many; fewer where a part of the budget is too little to remove anything.
        watch: takes the time.

    Raises:
        UserError: a budget of time comes without `cost`.
        BudgetError: the budget cannot be met.
    """
    scored = scored.timed(cost) if budget.timed else scored
    first = scored.planned(budget, watch)  # what cannot be met is told at once
    if first.after == first.before:
        return scored
    found = replace(scored, passes=passes, first=scored.scored)
    for number in range(1, passes):
        part, ranked = number / passes, found
        if budget.limit is None and scored.shares is not None:
            ranked = replace(found, shares=scored.shares**part)
        try:
            plan = ranked.planned(_part(scored, budget, part), watch)
        except BudgetError:  # alignment and floors let nothing go yet
            continue
        halfway = _refitted(found, plan, watch)
        found = replace(found, scored=_again(found, halfway, watch), halfway=halfway)
    return found


def _part(scored: Ranked, budget: Budget, part: float) -> Budget:
    """The budget of a pass: the share that is to be left in the end, to the power of its part of the way."""
    if budget.limit is None:
        return budget if not isinstance(budget.keep, (int, float)) else replace(budget, keep=budget.keep**part)
    if budget.timed:
        budget = budget.in_shares(scored.whole_ms)
    assert budget.limit is not None
    name, given = budget.limit
    whole = scored.costs[name](full_widths(scored.groups.groups))
    return budget.limited(min(1.0, absolute(given, whole) / whole) ** part)


def _refitted(scored: Ranked, plan: Plan, watch: Stopwatch) -> Halfway:
    """The network of a pass, refitted on the images that rank as far as that can be."""
    before, rest, criterion = scored.model, plan, scored.criterion
    with watch.stage("cut"):
        smaller = cut(before, plan)
    if scored.halfway is not None:
        before, rest = scored.halfway.model, scored.halfway.rest(plan)
        smaller = carried(scored.halfway, smaller, rest)
    weighing = weighing_of(before, scored.groups.deploy, criterion.detections)
    smaller, _ = compensated(before, smaller.eval(), rest, criterion.batches, weighing, watch)
    return Halfway(smaller, plan)


def _again(scored: Ranked, halfway: Halfway, watch: Stopwatch) -> Scored:
    """The importance of the channels that are left, by the network that has lost the others; of these -inf."""
    kept = context_of(halfway.plan).kept
    with watch.stage("score"):
        found = scored.criterion.scored(halfway.model, _narrowed(scored.groups, halfway.plan), watch)
    return Scored(np.where(kept, found.values, -np.inf), scored.scored.unseen)


def _narrowed(groups: Groups, plan: Plan) -> Groups:
    """The groups of a cut network: the same channels, at the places where they are after it."""
    slots = []
    for slot in groups.slots:
        positions = plan.kept.get(slot.tensor, {}).get(slot.axis)
        slots.append(slot if positions is None else replace(slot, channels=slot.channels[list(positions)]))
    shapes = {name: plan.shape(name, shape) for name, shape in groups.shapes.items()}
    return replace(groups, slots=tuple(slots), shapes=shapes)
