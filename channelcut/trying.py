"""Which criterion suits a detector of a known library: a cut by each is tried, and what is detected after it decides.

Neither is best for all: of the COCO weights of YOLO26n `taylor` keeps most, of the same network fine-tuned on three
classes `fisher` (benchmarks/results/scores.md). How far the heads of a cut are from the original's tells which, without
labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.adapters import teaching_of
from channelcut.allocation import Budget, allocate
from channelcut.core.copies import private_copy
from channelcut.core.errors import BudgetError
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs
from channelcut.core.progress import Stopwatch
from channelcut.core.sensitivity import images_in, run
from channelcut.cost.protocol import WidthCost
from channelcut.cutting import cut, make_plan
from channelcut.ranking import Criterion
from channelcut.recovery.chunks import flat, joined, of_size
from channelcut.scoring import WITH_IMAGES, Scored, unit_of

SHARE = 0.7  # of the multiply-accumulates that a trial leaves
MARGIN = 2 / 3  # of what taylor has lost: YOLO11n is off by .82 of it by fisher, and kept less once compensated
_AT_ONCE = 16  # images

Loss = Callable[[Any, Any], Tensor | None]


def scored_by_best(
    model: nn.Module, groups: Groups, criterion: Criterion, costs: Mapping[str, WidthCost], watch: Stopwatch
) -> tuple[Criterion, Scored]:
    """A criterion with its scores; where it is left open for a detector, that whose cut has lost clearly less.

    Args:
        model: the network.
        groups: what may go of its deployed form.
        criterion: what was asked for.
        costs: with `macs`.
        watch: hears of the progress.
    """
    scored = criterion.scored(model, groups, watch)
    loss = teaching_of(model).output if criterion.open and flat(criterion.batches) else None
    if loss is None:
        return criterion, scored
    other = replace(criterion, importance=WITH_IMAGES)
    both = [(criterion, scored), (other, other.scored(model, groups, watch))]
    every = joined(criterion.batches)
    batches = of_size(every, images_in(every), _AT_ONCE)
    lost = []
    for each, values in both:
        try:
            kept = allocate(groups, values.values, Budget(macs=SHARE), costs, unit=unit_of(each.chosen)).kept
        except BudgetError:  # what is held leaves no such cut
            return criterion, scored
        lost.append(_lost(model, cut(model, make_plan(model, groups, kept, costs)).eval(), batches, loss))
    if not all(map(math.isfinite, lost)):
        return criterion, scored
    best, scored = both[lost[1] < MARGIN * lost[0]]
    tried = {str(each.chosen): float(f"{value:.4g}") for (each, _), value in zip(both, lost, strict=True)}
    return replace(best, tried=tried), scored


def _lost(model: nn.Module, small: nn.Module, batches: Sequence[Inputs], loss: Loss) -> float:
    """The mean loss between what both return; infinite where it does not know their results."""
    original, total, images = private_copy(model).eval(), 0.0, 0
    with torch.no_grad():
        for batch in batches:
            said = loss(run(original, batch), run(small, batch))
            if said is None:
                return math.inf
            total, images = total + said.item() * images_in(batch), images + images_in(batch)
    return total / images
