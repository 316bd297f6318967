"""Blocks that go as wholes, in the same program as widths: the groups inside a block may have width 0, all or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from channelcut.allocation.budget import Budget, Scores, Widths, steps_and_means, within
from channelcut.allocation.worth import losses_at
from channelcut.core.groups import Groups
from channelcut.cost.protocol import Pairwise, WidthCost

_APART = 10.0  # times the cost of the whole network: what no solution can afford


@dataclass(frozen=True)
class Candidate:
    """A block that may go.

    module: its path.
    groups: those whose channels are in it alone; without them its layers cost nothing.
    loss: what is lost with it, in the unit of the summed losses of channels.
    """

    module: str
    groups: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class TogetherCost:
    """A cost for which the groups of a block are all gone or all there; anything else costs more than there is.

    cost: of the widths, in which a layer without channels costs nothing.
    links: pairs of groups of one block.
    apart: what a broken pair costs.
    """

    cost: WidthCost
    links: tuple[tuple[int, int], ...]
    apart: float

    def __call__(self, widths: Widths) -> float:
        """The cost at these widths, shape (groups,)."""
        broken = sum((widths[g] == 0) != (widths[h] == 0) for g, h in self.links)
        return float(self.cost(widths) + self.apart * broken)

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The same as tables over groups and pairs of groups."""
        tables = self.cost.pairwise(steps)
        pairs = dict(tables.pairs)
        for one, other in self.links:
            g, h = sorted((one, other))
            broken: NDArray[np.float64] = self.apart * ((steps[g] == 0)[:, None] != (steps[h] == 0)[None, :])
            pairs[g, h] = pairs[g, h] + broken if (g, h) in pairs else broken
        return replace(tables, pairs=pairs)


def emptied(groups: Groups, scores: Scores, budget: Budget, costs: Mapping[str, WidthCost], unit: str) -> Scores:
    """What is lost where a group has no channel left, shape (groups,), in the unit of the losses of `blocks_to_go`."""
    _, means, _ = steps_and_means(groups, scores, budget)
    widths = [np.array([0, group.width], np.int64) for group in groups.groups]
    losses = losses_at(groups, means, widths, costs[budget.limits], unit)
    return np.array([values[0] for values in losses])


def blocks_to_go(
    groups: Groups,
    scores: Scores,
    budget: Budget,
    costs: Mapping[str, WidthCost],
    unit: str,
    candidates: Sequence[Candidate],
) -> tuple[str, ...]:
    """The blocks without which, and with the best widths of all else, least is lost within a limit.

    Args:
        groups: from `couple`.
        scores: importance of every channel, shape (channel_count,).
        budget: a limit, with its alignment and floors.
        costs: the costs that are limited, as functions of the widths; 0 for a layer without channels.
        unit: of the scores, see `allocate`.
        candidates: the blocks that may go.

    Returns:
        Their paths; none where widths alone lose less, or where no widths meet the limit.
    """
    limited = costs[budget.limits]
    steps, means, _ = steps_and_means(groups, scores, budget)
    losses = losses_at(groups, means, steps, limited, unit)
    links = []
    for candidate in candidates:
        links += list(pairwise(candidate.groups))
        for place, g in enumerate(candidate.groups):
            steps[g] = np.concatenate([[0], steps[g]])
            losses[g] = np.concatenate([[0.0 if place else candidate.loss], losses[g]])
    full = np.array([step[-1] for step in steps], np.int64)
    cost = TogetherCost(limited, tuple(links), _APART * limited(full))
    found = within(losses, steps, cost, budget.allowed(cost(full)))
    if found is None:
        return ()
    return tuple(candidate.module for candidate in candidates if found.widths[candidate.groups[0]] == 0)
