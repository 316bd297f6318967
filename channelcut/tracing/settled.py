"""The part of a forward whose shapes do not depend on its values.

A detector may end in suppression and thresholds: how many values there are is then decided by the values themselves,
and two networks that compute the same to fifteen digits may still keep different boxes. What follows such an op
cannot be compared step by step, so it is left out of the graph, and everything that it reads counts as an output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from channelcut.core.graph import Arithmetic, Extent, Graph, Node, Ref, Site, refs
from channelcut.core.trees import mapped_only
from channelcut.ops.registry import op
from channelcut.ops.writes import written


def settled(graph: Graph) -> Graph:
    """The graph without the steps whose shapes depend on values.

    What they read is `unsettled`. A graph without such steps is returned as it is.
    """
    if not any(_decides(graph, node) for node in graph.calls):
        return graph
    computed, learned = _dependent(graph, "input"), _dependent(graph, "state")
    loose = _loose(graph, computed & learned)
    if not loose:
        return graph
    read = {
        ref.index
        for node in graph.nodes
        if node.index in loose
        for ref in node.inputs
        if ref.index not in loose and (ref.index in computed or graph.nodes[ref.index].kind == "state")
    }
    return _without(graph, loose, sorted(read))


def _dependent(graph: Graph, kind: str) -> set[int]:
    """The nodes that depend on an `input`, or on a parameter or buffer (`state`), also by what is written into them."""
    found: set[int] = set()
    for node in graph.nodes:
        if node.kind == kind or any(index in found for index in _sources(node)):
            found |= {node.index, *(written(graph.nodes, node) if node.kind == "call" else ())}
    return found


def _loose(graph: Graph, computed: set[int]) -> set[int]:
    """The nodes that depend on how many values there are, also by what is written into them.

    `computed`: those whose values a cut may move, by rounding at least. What the inputs alone decide is the same in
    both networks.
    """
    loose: set[int] = set()
    while True:
        before = len(loose)
        for node in graph.nodes:
            if node.kind == "call" and node.index not in loose:
                decided = _decides(graph, node) and any(index in computed for index in _deciding(node))
                if decided or any(index in loose for index in _sources(node)):
                    filled = {index for index in written(graph.nodes, node) if graph.nodes[index].kind == "call"}
                    loose |= {node.index} | filled
        if len(loose) == before:
            return loose


def _sources(node: Node) -> list[int]:
    return [ref.index for ref in node.inputs]


def _deciding(node: Node) -> list[int]:
    """The nodes whose values decide how many values there are: of a selection by a mask it is the mask alone."""
    by_mask = node.name in ("aten.index", "aten._unsafe_index", "aten.masked_select")
    return [ref.index for ref in refs(node.args[1:2])] if by_mask else _sources(node)


def _decides(graph: Graph, node: Node) -> bool:
    """Whether the shape of a node's value depends on the values that it reads."""
    decides = op(node.name).decides
    return decides is not None and decides(graph, node)


def _without(graph: Graph, loose: set[int], read: list[int]) -> Graph:
    """The steps that lead to the outputs that are left, and to what the others read."""
    last = graph.nodes[-1]
    named = list(zip(graph.outputs or ("",) * len(refs(last.args)), refs(last.args), strict=True))
    outputs = [(name, ref.index) for name, ref in named if ref.index not in loose]
    unsettled = [index for index in read if graph.nodes[index].value is not None]
    needed = _needed(graph, loose, {*unsettled, *(index for _, index in outputs)})
    place: dict[int, int] = {}
    kept: list[Node] = []

    def moved(tree: Any) -> Any:
        return mapped_only(Ref, lambda ref: Ref(place[ref.index]), tree)

    for node in graph.nodes:
        if node.index in needed or node.kind in ("input", "state"):
            place[node.index] = len(kept)
            kept.append(replace(node, index=len(kept), args=moved(node.args), kwargs=moved(dict(node.kwargs))))
    args = ([Ref(place[index]) for _, index in outputs],)
    kept.append(Node(len(kept), "output", "output", None, Site("network output"), None, args))
    uses = [use for use in graph.uses if use.index in place]
    uses = [use for use in uses if all(e.node in place for e in use.origin.sources() if isinstance(e, Extent))]
    end = graph.forward_end
    return replace(
        graph,
        nodes=tuple(kept),
        forward_end=None if end is None else sum(index < end for index in place),
        outputs=tuple(name for name, _ in outputs),
        unsettled=tuple(place[index] for index in unsettled),
        uses=tuple(replace(u, index=place[u.index], origin=_moved_origin(u.origin, place)) for u in uses),
    )


def _needed(graph: Graph, loose: set[int], outputs: set[int]) -> set[int]:
    """The nodes that outputs depend on, writes into them included."""
    needed: set[int] = set()
    for node in reversed(graph.nodes[:-1]):
        inputs = {ref.index for ref in node.inputs}
        filled = any(index in needed or index in outputs for index in written(graph.nodes, node))
        if node.index not in loose and (node.index in outputs or node.index in needed or filled):
            needed |= {node.index} | inputs
    return needed


def _moved_origin(origin: Any, place: dict[int, int]) -> Any:
    """The origin with the nodes' new indexes."""
    if isinstance(origin, Extent):
        return replace(origin, node=place[origin.node])
    if isinstance(origin, Arithmetic):
        return replace(origin, operands=tuple(_moved_origin(part, place) for part in origin.operands))
    return origin
