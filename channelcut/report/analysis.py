"""`analysis_data`: all that an analysis knows, as plain data; what `channelcut analyze` prints is a part of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from channelcut.allocation import Budget, least_widths
from channelcut.core.groups import Follower, Groups
from channelcut.cost import BilinearCost, macs_cost, params_cost
from channelcut.cost.bilinear import full_widths
from channelcut.report.collect import findings, pins, slots
from channelcut.report.graph import graph_data

NO_FLOORS = Budget(macs=1.0, min_keep=0.0)


def analysis_data(model: nn.Module, groups: Groups, floors: Budget = NO_FLOORS) -> dict[str, Any]:
    """Groups, pins, followers, slots and the coupled graph, with what could remain at the least.

    `macs` and `params` of a group are what hangs on it: what would go if all of its channels went, and nothing else.
    `least_macs` and `least_params` are the shares that are left when every group has the least width that a budget may
    reach: a multiple of the alignment that is not below the floors.
    """
    costs = {
        "macs": macs_cost(groups),
        "params": params_cost(groups, {n: p.numel() for n, p in model.named_parameters()}),
    }
    full = full_widths(groups.groups)
    least = least_widths(groups, floors)
    hanging = {name: _hanging(cost, len(full), full) for name, cost in costs.items()}
    return {
        "trace": trace_data(groups),
        "totals": {
            "removable_channels": int(sum(len(g.channels) for g in groups.groups)),
            **{name: cost(full) for name, cost in costs.items()},
            "floors": {name: getattr(floors, name) for name in ("align", "min_keep", "min_channels")},
            **{f"least_{name}": cost(least) / cost(full) if cost(full) else 1.0 for name, cost in costs.items()},
        },
        "groups": [
            {
                "name": g.name,
                "lanes": len(g.lanes),
                "width": g.width,
                "widths": g.widths.tolist() if g.table else None,
                "least": int(least[g.index]),
                "slots": len(g.slots),
                "channels": len(g.channels),
            }
            | {name: found[g.index] for name, found in hanging.items()}
            for g in groups.groups
        ],
        "reasons": reasons(groups),
        "pins": pins(groups),
        "findings": findings(groups),
        "followers": [follower(f, groups) for f in groups.followers],
        "slots": slots(groups),
        "graph": graph_data(groups),
    }


def _hanging(cost: BilinearCost, count: int, full: np.ndarray[Any, np.dtype[np.int64]]) -> list[float]:
    whole = cost(full)
    found = []
    for group in range(count):
        without = full.copy()
        without[group] = 0
        found.append(whole - cost(without))
    return found


def trace_data(groups: Groups) -> dict[str, Any]:
    """The tracer, the number of ops, the entries, and the tensors that only training mode reads, or nothing does.

    Only tensors with slots are known here; none may also mean that the forward does not run in training mode alone.
    """
    graph = groups.graph
    read = {graph.nodes[ref.index].name for node in graph.nodes for ref in node.inputs}
    return {
        "tracer": graph.front_end,
        "ops": len(graph.calls),
        "outputs": list(graph.outputs),
        "entries": list(graph.entries),
        "unused": list(groups.unused),
        "uncounted": groups.uncounted_words(),
        "training_only": sorted({slot.tensor for slot in groups.slots} - read),
    }


def reasons(groups: Groups) -> list[dict[str, Any]]:
    """The pins by reason, the one that holds most channels first; a channel counts once for a reason."""
    found: dict[str, list[int]] = {}
    for i, pin in enumerate(groups.pins):
        found.setdefault(pin.reason, []).append(i)
    rows = [
        {
            "reason": reason,
            "remedies": list(dict.fromkeys(groups.pins[i].remedy for i in members if groups.pins[i].remedy)),
            "channels": len(set().union(*(groups.pins[i].channels for i in members))),
            "pins": members,
        }
        for reason, members in found.items()
    ]
    return sorted(rows, key=lambda row: -int(row["channels"]))  # type: ignore[call-overload]


def follower(found: Follower, groups: Groups) -> dict[str, Any]:
    """A number that a module keeps: value = constant + Σ coefficient · kept share of a group."""
    terms = [{"group": g, "name": groups.groups[g].name, "coefficient": c} for g, c in found.terms]
    value = found.constant + sum(c for _, c in found.terms)
    return {
        "module": found.module,
        "attribute": found.attribute,
        "value": value,
        "constant": found.constant,
        "terms": terms,
    }
