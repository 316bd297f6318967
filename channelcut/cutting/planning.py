"""`make_plan`: from kept channels to kept positions of every tensor, and the attributes that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from channelcut.core.groups import Group, Groups
from channelcut.core.plan import Cost, GroupPlan, Plan
from channelcut.core.record import origin
from channelcut.core.tensors import architecture_fingerprint, kept_indices, kept_positions
from channelcut.core.unused import sizes
from channelcut.cost.bilinear import full_widths
from channelcut.cost.protocol import WidthCost
from channelcut.ops.refresh import attributes


def make_plan(
    model: nn.Module,
    groups: Groups,
    kept: NDArray[np.bool_],
    costs: Mapping[str, WidthCost],
    options: Mapping[str, Any] | None = None,
    dropped: tuple[str, ...] = (),
    zeroed: tuple[str, ...] = (),
) -> Plan:
    """Describe the cut that keeps the channels marked in `kept`, shape (channel_count,), and drops whole modules.

    Those of them in `zeroed` give zeros.
    """
    positions = kept_positions(groups, kept)
    widths = np.array([g.kept_width(kept) for g in groups.groups], dtype=np.int64)
    full = full_widths(groups.groups)
    cost = {
        when: Cost(costs["macs"](at), round(costs["params"](at))) for when, at in (("before", full), ("after", widths))
    }
    _, gone = sizes(model, dropped, groups.undeployed)
    weights, changes = origin(model)
    return Plan(
        fingerprint=architecture_fingerprint(model),
        weights=weights,
        kept=positions,
        attributes=attributes(model, groups, kept, positions),
        indices=kept_indices(groups, kept),
        groups=tuple(
            GroupPlan(g.name, len(g.lanes), g.width, int(w), _lane_counts(g, int(w)))
            for g, w in zip(groups.groups, widths, strict=True)
        ),
        before=cost["before"],
        after=replace(cost["after"], params=cost["after"].params - gone),
        options=dict(options or {}),
        dropped=dropped,
        zeroed=zeroed,
        changes=changes,
    )


def _lane_counts(group: Group, width: int) -> tuple[tuple[int, int], ...]:
    """How many channels each lane has before and after, where lanes keep no equal shares."""
    lengths = (len(lane) for lane in group.lanes)
    return tuple(zip(lengths, group.counts(width), strict=True)) if group.table else ()
