"""Slices that together tile an axis in equal parts become one `chunk`: its parts may shrink, a slice's may not."""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

import torch
from torch import fx


def slices_to_chunks(module: fx.GraphModule) -> None:
    """Rewrite the module's graph in place; values are unchanged."""
    changed = False
    for node in list(module.graph.nodes):
        by_axis: dict[int, list[tuple[fx.Node, int, int]]] = defaultdict(list)
        for user in node.users:
            piece = _piece(user, node)
            if piece is not None:
                by_axis[piece[0]].append((user, piece[1], piece[2]))
        for axis, pieces in by_axis.items():
            count = _tiles(pieces, node.meta["shape"][axis])
            if count:
                _chunk(module.graph, node, axis, pieces, count)
                changed = True
    if changed:
        module.graph.lint()
        module.recompile()


def _piece(user: fx.Node, source: fx.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a slice with step 1 of `source` along one axis; None for anything else."""
    if user.target is not operator.getitem or user.args[0] is not source or "shape" not in source.meta:
        return None
    index: Any = user.args[1]
    if not isinstance(index, tuple) or not all(isinstance(part, slice) for part in index):
        return None
    cut = [axis for axis, part in enumerate(index) if part != slice(None)]
    if len(cut) != 1 or index[cut[0]].step not in (None, 1):
        return None
    start, end, _ = index[cut[0]].indices(source.meta["shape"][cut[0]])
    return cut[0], start, end


def _tiles(pieces: list[tuple[fx.Node, int, int]], extent: int) -> int:
    """How many equal parts the slices cut the axis into; 0 where they do not, or where a part is missing."""
    bounds = sorted({(start, end) for _, start, end in pieces})
    width = bounds[0][1] - bounds[0][0]
    if width <= 0 or len(bounds) < 2 or len(bounds) * width != extent:
        return 0
    return len(bounds) if bounds == [(i * width, (i + 1) * width) for i in range(len(bounds))] else 0


def _chunk(graph: fx.Graph, node: fx.Node, axis: int, pieces: list[tuple[fx.Node, int, int]], count: int) -> None:
    with graph.inserting_after(node):
        parts = graph.call_function(torch.chunk, (node, count, axis))
    width = node.meta["shape"][axis] // count
    for user, start, _ in pieces:
        user.args = (parts, start // width)
