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
        read = refs(node.args[:1]) if op(node.name).averages else []
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
    how = op(node.name).proportional
    if node.kind != "call" or how is None:
        return None
    if how == "joins":
        return _joined(graph, node, value) if columns is None else None
    first = node.args[0] if node.args else None
    alone = isinstance(first, Ref) and first.index == value and len(node.inputs) == 1
    by_number = how != "by a number" or (len(node.args) == 2 and isinstance(node.args[1], (int, float)))
    return (node.index, columns) if alone and by_number and (how != "moves" or columns is None) else None


def _joined(graph: Graph, node: Node, value: int) -> tuple[int, tuple[int, int, int] | None] | None:
    """The columns of a concatenation that are the value's; None where it is there twice."""
    parts = refs(node.args[0])
    if [ref.index for ref in parts].count(value) != 1:
        return None
    shapes = [specs(graph.nodes[ref.index].value)[0].shape for ref in parts]
    axis = int(bound_arguments(node.target, node.args, node.kwargs).get("dim", 0)) % len(shapes[0])
    place = [ref.index for ref in parts].index(value)
    start = sum(shape[axis] for shape in shapes[:place])
    return node.index, (axis, start, start + shapes[place][axis])


def _reader(
    graph: Graph, node: Node, value: int, columns: tuple[int, int, int] | None, uses: Counter[int]
) -> Reader | None:
    """The weight by which a layer reads a value, where that layer alone has it."""
    kind = op(node.name).convolves
    if node.kind != "call" or (kind is None and not op(node.name).affine):
        return None
    given = bound_arguments(node.target, node.args, node.kwargs)
    names = ("input", "weight") if "weight" in given else ("mat1", "mat2") if "mat1" in given else ("self", "mat2")
    read, weight = given.get(names[0]), given.get(names[1])
    if not isinstance(read, Ref) or read.index != value or not isinstance(weight, Ref) or uses[weight.index] != 1:
        return None
    state = graph.nodes[weight.index]
    if names[1] == "mat2":  # (I, O), which is the transposed weight (O, I)
        before = refs(state.args)
        if len(before) != 1 or uses[before[0].index] != 1:
            return None
        matrix, state = state, graph.nodes[before[0].index]
        if specs(matrix.value)[0].shape != specs(state.value)[0].shape[::-1]:
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
