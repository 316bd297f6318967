"""`collect`: what a pruning run knows, as the data of `report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from channelcut.core.graph import Ref
from channelcut.core.groups import Groups, Role
from channelcut.core.plan import Plan
from channelcut.core.result import PruneResult
from channelcut.report.graph import graph_data


def collect(model: nn.Module, result: PruneResult, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about the plan, the proof and the pins; exports, engines and times are added by the caller."""
    plan, groups = result.plan, result.groups
    recorded = dict(plan.options)
    return {
        "format": 1,
        "model": recorded.pop("model", type(model).__name__),
        "weights": recorded.pop("weights", ""),
        "input": str(recorded.pop("input")).split(", ") if "input" in recorded else [],
        "options": recorded,
        "dropped": list(plan.dropped),
        "cost": {"before": vars(plan.before), "after": vars(plan.after)},
        "groups": [
            {**vars(group), **dict(zip(("before", "after"), group.channels, strict=True))} for group in plan.groups
        ],
        "layers": layers(groups, plan),
        "pins": pins(groups),
        "findings": findings(groups),
        "slots": slots(groups),
        "graph": graph_data(groups, plan),
        "proof": result.proof.to_dict(),
        "recalibration": vars(result.recalibration) if result.recalibration else None,
        "recovery": vars(result.recovery) if result.recovery else None,
        "compensation": result.compensation.to_dict() if result.compensation else None,
        "rescaling": vars(result.rescaling) if result.rescaling else None,
        "environment": dict(environment),
    }


def pins(groups: Groups) -> list[dict[str, Any]]:
    """Each pin with the number of channels it holds."""
    return [
        {
            "reason": p.reason,
            "op": p.op,
            "module": p.module,
            "source": p.source,
            "remedy": p.remedy,
            "channels": len(p.channels),
        }
        for p in groups.pins
    ]


def findings(groups: Groups) -> list[dict[str, Any]]:
    """What the analysis found out beyond the rules, in order, each with the number of channels that it is about."""
    return [
        {
            "check": f.check,
            "effect": f.effect,
            "reason": f.reason,
            "op": f.site.op,
            "module": f.site.module,
            "source": f.site.source,
            "channels": len(f.channels),
        }
        for f in groups.findings
    ]


def layers(groups: Groups, plan: Plan) -> list[dict[str, Any]]:
    """Output and input channels of every layer with a weight matrix, before and after, in the order they run."""
    roles = {slot.tensor for slot in groups.slots if slot.role in (Role.OUT, Role.IN, Role.DEPTHWISE, Role.GROUP)}
    found = {}
    for node in groups.graph.nodes:
        for ref in [a for a in node.args if isinstance(a, Ref)]:
            name = groups.graph.nodes[ref.index].name
            if groups.graph.nodes[ref.index].kind == "state" and name in roles:
                shape = groups.shapes[name]
                left = (0, 0) if plan.drops(name) else plan.shape(name, shape)
                found[name] = {
                    "name": name.removesuffix(".weight"),
                    "before": list(shape[:2]),
                    "after": list(left[:2]),
                }
    return list(found.values())


def slots(groups: Groups) -> list[dict[str, Any]]:
    """For `explain`: the groups, the pins and the findings of every axis of every tensor."""
    owner = groups.group_of()
    pinned = [pin.channels for pin in groups.pins]
    found = [finding.channels for finding in groups.findings]
    rows = []
    for slot in groups.slots:
        held = np.unique(slot.channels[owner[slot.channels] < 0])
        counts = {int(g): int(n) for g, n in zip(*np.unique(owner[slot.channels], return_counts=True), strict=True)}
        rows.append(
            {
                "tensor": slot.tensor,
                "axis": slot.axis,
                "role": slot.role.value,
                "extent": len(slot.channels),
                "fixed": counts.pop(-1, 0),
                "groups": {str(g): n for g, n in counts.items()},
                "pins": [i for i, channels in enumerate(pinned) if len(held) and np.isin(held, channels).any()],
                "findings": [i for i, channels in enumerate(found) if np.isin(slot.channels, channels).any()],
            }
        )
    return rows
