"""What each width of a group loses: from the scores of channels to the tables of a program.

A group at width w has lost the steps w, w + 1, ... of its channels in descending order of importance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from channelcut.core.groups import Group, Groups, Role
from channelcut.cost.protocol import WidthCost

Values = NDArray[np.float64]
Widths = NDArray[np.int64]
_LATE = 0.25
_READERS = (Role.IN, Role.DEPTHWISE, Role.GROUP)


def losses_at(
    groups: Groups, means: Sequence[Values], steps: Sequence[Widths], cost: WidthCost, unit: str
) -> list[Values]:
    """What is lost where group g has its i-th width, losses[g][i].

    It is Σ worth[k] · (width / (k + 1)) ** late over the removed steps k. Scores are of one channel by itself; of those
    of a group the later ones lose more, because what is left has to make up for what is gone. It also keeps the optimum
    from extremes: the savings of a layer are a product, so that without it every second layer of a chain goes first.

    worth[k] is a `loss` itself, and `late` one. `relative` and `density` say which channel goes before which, not how
    much is lost: their worth is score[k] times what a step of the group costs in the uncut network, and `late` a
    quarter. At a multiplier of the budget, what goes is then about what scores below a threshold, all groups together.
    A sum of the scores alone takes those that cost most and leaves all others. Top-1 as cut on 1,000 training images of
    CIFAR-10 by l2, mean of 1/2.1, 0.6 and 0.7 of the MACs at align 1 and 8: ResNet-56 .694 with a quarter, .680 with a
    half, .664 with one, .680 by a threshold on scores alone; ResNet-20 at 0.6, align 1, .32 by the sum of scores alone,
    .46 by a threshold.

    Args:
        groups: from `couple`.
        means: of each group the mean score of each step, in descending order, shape (width,).
        steps: the admissible widths of each group, ascending.
        cost: of the network, as a function of the widths.
        unit: of the scores, see `allocate`.
    """
    weighed = [mean * _weight(groups, group, unit) for mean, group in zip(means, groups.groups, strict=True)]
    late = 1.0 if unit == "loss" else _LATE
    weighed = [mean * (len(mean) / np.arange(1, len(mean) + 1)) ** late for mean in weighed]
    if unit != "loss":
        weighed = [mean * price for mean, price in zip(weighed, _prices(steps, cost), strict=True)]
    return [np.append(np.cumsum(w[::-1])[::-1], 0.0)[step] for w, step in zip(weighed, steps, strict=True)]


def _prices(steps: Sequence[Widths], cost: WidthCost) -> Values:
    """What a step of each group costs in the uncut network, as a part of the mean over groups; never nothing."""
    full = np.array([step[-1] for step in steps], dtype=np.int64)
    whole, found = cost(full), np.zeros(len(steps))
    for g, step in enumerate(steps):
        least = full.copy()
        least[g] = step[0]
        found[g] = (whole - cost(least)) / max(1, step[-1] - step[0])
    mean = float(np.abs(found).mean()) or 1.0
    prices: Values = np.maximum(found / mean, 1e-6)
    return prices


def _weight(groups: Groups, group: Group, unit: str) -> float:
    """What the mean score of a step counts beside those of other groups.

    A loss is summed over all channels that go with the step; the layers that read them are in it already.
    """
    if unit == "loss":
        return len(group.channels) / group.width
    return 1 if unit == "density" else _consumers(groups, group)


def _consumers(groups: Groups, group: Group) -> int:
    """How many layers read a group's channels: the damage of a removed channel adds up over them.

    Without this a residual stream, read by every block, ranks with the inside of one block, and a ResNet-20 at 70 % of
    its MACs drops to 21 % top-1 on CIFAR-10 instead of 68 % (as cut, l2, align 8, first 1,000 test images).
    """
    return max(1, sum(groups.slots[index].role in _READERS for index in group.slots))
