"""Means over channels, and the weights that read them: what has to shrink where a mean is of fewer channels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.graph import Graph, Node, Ref, refs, specs
from channelcut.core.groups import Groups
from channelcut.core.ids import compact, varying_axes
from channelcut.core.schema import bound_arguments
from channelcut.ops.registry import op

Reader = tuple[str, int, slice]
"""A weight, its input axis, and the columns along it."""

# Ops that give s · f(x) for s · x where s > 0, and leave every channel where it is.
_PROPORTIONAL = {
    "aten.relu", "aten.relu_", "aten.leaky_relu", "aten.leaky_relu_", "aten.abs", "aten.neg", "aten.dropout",
    "aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten._to_copy", "aten.to", "aten.avg_pool2d",
    "aten.max_pool2d", "aten.adaptive_avg_pool2d", "aten._adaptive_avg_pool2d", "aten.upsample_nearest2d",
    "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.reflection_pad2d", "aten.replication_pad2d",
}  # fmt: skip
# The same, which may put a channel on another axis.
_MOVES = {
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.squeeze", "aten.unsqueeze", "aten.flatten", "aten.expand",
    "aten.permute", "aten.transpose", "aten.t",
}  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A mean over channels that some were removed from: its node, how many elements it is of, and was of."""

    node: int
    kept: int
    total: int


def cut_means(groups: Groups, kept: NDArray[np.bool_]) -> list[Mean]:
    """The means that lose channels, shape of `kept`: (channel_count,)."""
    found = []
    for node in groups.graph.calls:
        read = refs(node.args[:1]) if node.name == "aten.mean" else []
        ids = groups.channels_of(read[0].index) if read else None
        if not isinstance(ids, Tensor) or varying_axes(groups.channels_of(node.index)):
            continue
        mask = kept[compact(ids).numpy()]
        if not mask.all():
            found.append(Mean(node.index, int(mask.sum()), mask.size))
    return found


def readers_of(graph: Graph, index: int) -> list[Reader] | None:
    """The weights that alone decide what a value does; None where anything else reads it as well."""
    uses = Counter(ref.index for node in graph.nodes for ref in node.inputs)
    pending: list[tuple[int, tuple[int, int, int] | None]] = [(index, None)]
    found: list[Reader] = []
    while pending:
        value, columns = pending.pop()
        for node in graph.nodes:
            if value not in {ref.index for ref in node.inputs}:
                continue
            reader = _reader(graph, node, value, columns, uses)
            if reader is not None:
                found.append(reader)
                continue
            moved = _moved(graph, node, value, columns)
            if moved is None:
                return None
            pending.append(moved)
    return found


def _moved(
    graph: Graph, node: Node, value: int, columns: tuple[int, int, int] | None
) -> tuple[int, tuple[int, int, int] | None] | None:
    """Where the value goes in what a proportional op gives; None for any other op."""
    if node.kind != "call":
        return None
    if node.name == "aten.cat" and columns is None:
        parts = refs(node.args[0])
        if [ref.index for ref in parts].count(value) != 1:
            return None
        shapes = [specs(graph.nodes[ref.index].value)[0].shape for ref in parts]
        axis = int(bound_arguments(node.target, node.args, node.kwargs).get("dim", 0)) % len(shapes[0])
        place = [ref.index for ref in parts].index(value)
        start = sum(shape[axis] for shape in shapes[:place])
        return node.index, (axis, start, start + shapes[place][axis])
    first = node.args[0] if node.args else None
    alone = isinstance(first, Ref) and first.index == value and len(node.inputs) == 1
    if alone and (node.name in _PROPORTIONAL or (node.name in _MOVES and columns is None) or _by_number(node)):
        return node.index, columns
    return None


def _by_number(node: Node) -> bool:
    """Whether a node multiplies or divides by a number."""
    return node.name in ("aten.mul", "aten.div") and len(node.args) == 2 and isinstance(node.args[1], (int, float))


def _reader(
    graph: Graph, node: Node, value: int, columns: tuple[int, int, int] | None, uses: Counter[int]
) -> Reader | None:
    """The weight by which a layer reads a value, where that layer alone has it."""
    kind = op(node.name).convolves
    if node.kind != "call" or (kind is None and node.name not in ("aten.linear", "aten.addmm", "aten.mm")):
        return None
    given = bound_arguments(node.target, node.args, node.kwargs)
    names = ("input", "weight") if "weight" in given else ("mat1", "mat2") if "mat1" in given else ("self", "mat2")
    read, weight = given.get(names[0]), given.get(names[1])
    if not isinstance(read, Ref) or read.index != value or not isinstance(weight, Ref) or uses[weight.index] != 1:
        return None
    state = graph.nodes[weight.index]
    if state.name == "aten.t" and isinstance(state.args[0], Ref) and uses[state.args[0].index] == 1:
        state = graph.nodes[state.args[0].index]
    elif names[1] == "mat2":
        return None
    shape = specs(state.value)[0].shape
    if state.kind != "state" or len(shape) < 2 or given.get("groups", 1) != 1:
        return None
    transposed = kind == "transposed" or (kind == "either" and given["transposed"])
    dims = len(specs(graph.nodes[value].value)[0].shape)
    channels = dims - 1 if kind is None else dims - len(shape) + 1
    if columns is not None and columns[0] != channels:
        return None
    axis = 0 if transposed else 1
    return state.name, axis, slice(None) if columns is None else slice(columns[1], columns[2])
