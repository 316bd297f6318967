"""The coupled graph as plain data: the layers of the forward, what their channels belong to, and what feeds what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channelcut.core.graph import Graph, Node
from channelcut.core.groups import Groups, Slot
from channelcut.core.plan import Plan

_OUTPUT_ROLES = ("out", "depthwise", "group")


def graph_data(groups: Groups, plan: Plan | None = None) -> dict[str, Any]:
    """The layers in execution order, the edges between them, and the groups by index.

    A layer is a call that reads a weight with output channels. `depth` is the longest chain of layers before it.
    `parts` splits the output channels by group (None: they stay), `before` and `after` count them; without a plan
    `after` is None. An edge says that the output of one layer reaches the next without passing another.
    """
    outputs = _outputs(groups)
    owner = groups.group_of()
    nodes: list[dict[str, Any]] = []
    edges: list[dict[str, int]] = []
    for node, weight, sources in _layers(groups.graph, outputs):
        depth = 1 + max((int(nodes[source]["depth"]) for source in sources), default=-1)
        edges += [{"from": source, "to": len(nodes)} for source in sorted(sources)]
        slot = outputs[weight]
        nodes.append({**_described(node, weight, depth), **_channels(slot, owner, plan), "pins": _pins(slot, groups)})
    return {"nodes": nodes, "edges": edges, "groups": _groups(groups, plan)}


def _outputs(groups: Groups) -> dict[str, Slot]:
    """The slot of the output channels of every weight."""
    found: dict[str, Slot] = {}
    for role in _OUTPUT_ROLES:  # a grouped transposed convolution has two of them: `out` is the better one
        for slot in groups.slots:
            if slot.role == role:
                found.setdefault(slot.tensor, slot)
    return found


def _layers(graph: Graph, outputs: Mapping[str, Slot]) -> Iterator[tuple[Node, str, set[int]]]:
    """Every layer with its weight, and the numbers of the layers that feed it."""
    states: dict[int, frozenset[str] | None] = {}  # of what is computed from parameters alone, such as a transpose
    sources: dict[int, set[int]] = {}
    count = 0
    for node in graph.nodes:
        read = [ref.index for ref in node.inputs]
        states[node.index] = _states(node, [states[index] for index in read])
        sources[node.index] = set().union(*(sources[index] for index in read))
        weights = [name for index in read for name in sorted(states[index] or ()) if name in outputs]
        if node.kind == "call" and states[node.index] is None and weights:
            yield node, weights[0], sources[node.index]
            sources[node.index] = {count}
            count += 1


def _states(node: Node, read: list[frozenset[str] | None]) -> frozenset[str] | None:
    """The parameters that a value is computed from; None where an input of the network has a part in it."""
    if node.kind == "state":
        return frozenset((node.name,))
    if node.kind == "input" or any(names is None for names in read):
        return None
    return frozenset[str]().union(*(names for names in read if names is not None))


def _described(node: Node, weight: str, depth: int) -> dict[str, Any]:
    name = weight.split(".parametrizations.", maxsplit=1)[0].removesuffix(".weight")
    return {"name": name, "op": node.name, "module": node.site.module, "source": node.site.source, "depth": depth}


def _channels(slot: Slot, owner: NDArray[np.int64], plan: Plan | None) -> dict[str, Any]:
    """The output channels by group, the largest group first in `group`."""
    of = owner[slot.channels]
    kept = np.ones(len(of), dtype=bool)
    positions = plan.kept.get(slot.tensor, {}).get(slot.axis) if plan is not None else None
    if positions is not None:
        kept[:] = False
        kept[list(positions)] = True
    elif plan is not None and plan.drops(slot.tensor):
        kept[:] = False
    after = None if plan is None else int(kept.sum())
    parts = [
        {
            "group": int(group) if group >= 0 else None,
            "before": int((of == group).sum()),
            "after": None if plan is None else int(kept[of == group].sum()),
        }
        for group in sorted(set(of.tolist()), key=lambda g: (g < 0, g))
    ]
    largest = max(parts, key=lambda part: part["before"] or 0, default={"group": None})
    return {"group": largest["group"], "before": len(of), "after": after, "parts": parts}


def _pins(slot: Slot, groups: Groups) -> list[str]:
    """Why some of these channels stay, each reason once."""
    held = slot.channels[slot.channels > 0]
    return list(dict.fromkeys(pin.reason for pin in groups.pins if np.isin(held, pin.channels).any()))


def _groups(groups: Groups, plan: Plan | None) -> list[dict[str, Any]]:
    channels = [len(group.channels) for group in groups.groups]
    kept: list[int | None] = [None] * len(channels)
    if plan is not None:
        kept = [
            sum(after for _, after in g.counts) if g.counts else c * g.kept // g.width
            for c, g in zip(channels, plan.groups, strict=True)
        ]
    return [
        {"name": group.name, "channels": before, "kept": after}
        for group, before, after in zip(groups.groups, channels, kept, strict=True)
    ]
