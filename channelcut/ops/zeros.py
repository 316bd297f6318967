"""Zero that stands where a branch was: what makes it, what keeps it, and which sums it leaves as they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from torch import nn

from channelcut.core.graph import Graph, Node, Ref, named_outputs
from channelcut.core.schema import bound_arguments
from channelcut.ops.registry import op
from channelcut.ops.writes import written

_PASSING = ("stays", "moves", "by a number")  # of what is proportional to one value, nothing is made of nothing


def zero_module() -> nn.Module:
    """A module of torch's own that gives zeros of its input's shape and type, whatever numbers or infinities it holds.

    NaN stays NaN. Another function of torch would do as well (`nn.Threshold` with an infinite threshold), but torch's
    older ONNX exporter refuses that one.
    """
    return nn.Hardshrink(math.inf)


def makes_zero(node: Node) -> bool:
    """Whether a step is that of `zero_module`."""
    if node.name != "aten.hardshrink" or node.target is None:
        return False
    return bool(bound_arguments(node.target, node.args, dict(node.kwargs)).get("lambd") == math.inf)


def keeps_zero(graph: Graph, node: Node) -> bool:
    """Whether a step of one value gives zero for zero, as where it moves elements or multiplies them with weights."""
    read = {ref.index for ref in node.inputs if not _is_weight(graph, ref.index)}
    known = op(node.name)
    if len(read) != 1 or (len(node.inputs) > 1 and not known.scales):
        return False
    if known.proportional == "stays" and node.value != graph.nodes[read.pop()].value:
        return False  # it pools, or makes an image larger
    return known.proportional in _PASSING or known.layout is not None


def _is_weight(graph: Graph, index: int) -> bool:
    """Whether a value is a parameter or a buffer, as it is or in another shape."""
    node = graph.nodes[index]
    while node.kind == "call" and len(node.inputs) == 1 and op(node.name).proportional in ("stays", "moves"):
        node = graph.nodes[node.inputs[0].index]
    return node.kind not in ("call", "input")


def added_to(node: Node, current: int) -> tuple[int, int] | None:
    """Of a step that adds a value to another: which operand it is, and the node of the other; None for other steps."""
    if not op(node.name).sums or node.target is None:
        return None
    operands = [value for value in node.args[:2] if isinstance(value, Ref)]
    if len(operands) != 2 or bound_arguments(node.target, node.args, dict(node.kwargs)).get("alpha", 1) != 1:
        return None
    places = [place for place, ref in enumerate(operands) if ref.index == current]
    return (places[0], operands[1 - places[0]].index) if len(places) == 1 else None


def without_zeros(graph: Graph) -> dict[int, int | None]:
    """The steps that a file of the forward lacks: what is zero, with None, and sums that equal an operand, with it."""
    found: dict[int, int | None] = {}
    for node in graph.nodes:
        if node.kind != "call":
            continue
        zeros = [ref.index for ref in node.inputs if found.get(ref.index, 0) is None]
        if makes_zero(node) or (zeros and keeps_zero(graph, node)):
            found[node.index] = None
        elif len(zeros) == 1 and (added := added_to(node, zeros[0])) and graph.nodes[added[1]].value == node.value:
            found[node.index] = added[1]
    return found


def needed(graph: Graph, outputs: Collection[int], zeros: Mapping[int, int | None]) -> set[int]:
    """The nodes that some nodes are computed from, and these; of a step in `zeros` what it equals, if anything."""
    found = set(outputs)
    for node in reversed(graph.nodes):
        if node.index in found or found & written(graph.nodes, node):
            equal = zeros.get(node.index)
            read = {ref.index for ref in node.inputs} if node.index not in zeros else set()
            found |= {node.index, *read} | (set() if equal is None else {equal})
    return found


def idle(graph: Graph) -> set[str]:
    """The parameters and buffers that only zeros are made of, such as those of a norm before a branch that went."""
    zeros = without_zeros(graph)
    if not zeros:
        return set()
    found = needed(graph, {index for _, index in named_outputs(graph)}, zeros)
    read = {ref.index for node in graph.nodes for ref in node.inputs} - found
    return {graph.nodes[index].name for index in read if graph.nodes[index].kind == "state"}
