"""A measured cost, set right by one network that was really cut: half of every group, timed beside the uncut one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from channelcut.allocation import admissible_widths
from channelcut.allocation.steps import width_alignment
from channelcut.bench.layers.clock import LayerClock, median_ms
from channelcut.core.errors import ChannelcutError
from channelcut.core.groups import Groups
from channelcut.cost import network_costs
from channelcut.cost.measured import MeasuredCost
from channelcut.cutting import cut, make_plan


def halves(groups: Groups, step: int) -> NDArray[np.int64]:
    """About half of every group, in multiples of the step, shape (groups,)."""
    found = []
    for group in groups.groups:
        widths = admissible_widths(group.widths, width_alignment(groups, group, step))
        found.append(int(widths[np.argmin(np.abs(widths - group.width / 2))]))
    return np.array(found, np.int64)


def narrowed(model: nn.Module, groups: Groups, widths: NDArray[np.int64]) -> nn.Module:
    """A copy of the network with the first channels of every lane; its times are those of any others."""
    kept = groups.group_of() < 0
    for group, width in zip(groups.groups, widths, strict=True):
        for lane, count in zip(group.lanes, group.counts(int(width)), strict=True):
            kept[lane[:count]] = True
    return cut(model, make_plan(model, groups, kept, network_costs(model, groups)))


def set_right(
    cost: MeasuredCost,
    groups: Groups,
    write: Callable[[NDArray[np.int64], Path], object],
    whole: Path,
    clock: LayerClock,
    runs: int,
) -> MeasuredCost:
    """The cost by which a network of half the width takes what it was measured to take.

    Args:
        cost: of the uncut network.
        groups: its coupling.
        write: called as write(widths, path), writes the deployed file of a network of these widths.
        whole: the file of the uncut network; the other one is written beside it.
        clock: what times both.
        runs: how often each is run.

    Returns:
        The same cost where no channel can go, or where the network of half the width cannot be written or run.
    """
    widths = halves(groups, cost.step)
    if not cost.layers or (widths == cost.full_widths).all():
        return cost
    half = whole.with_name("half.onnx")
    try:
        write(widths, half)
        ms, beside = median_ms(clock.network(half), clock.network(whole), runs)
    except (ChannelcutError, RuntimeError):
        return cost  # a plan's own cut says what is wrong with it
    return cost.scaled(widths, cost.full_ms * ms / beside)
