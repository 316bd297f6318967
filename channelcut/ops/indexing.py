"""Reads and writes at positions that a tensor gives: along other axes than the channels these pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Graph, Node, Ref, Spec, specs
from channelcut.core.groups import Role
from channelcut.core.reasons import INDEXED, PICKED, WRITTEN_OVER
from channelcut.core.schema import bound_arguments
from channelcut.ops.along import resized, touches
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.pointwise import combined
from channelcut.ops.registry import op, rule


def _pinned(call: Call, *values: Any) -> Any:
    for value in values:
        call.pin_value(value, INDEXED)
    return call.fixed()


def _same_count(call: Call, ids: Tensor, axis: int, shape: Sequence[int]) -> bool:
    """Whether a value is read along all of the axes that channels lie along: of fewer, the first ones are meant."""
    varying = [a for a in I.varying_axes(ids) if a != axis]
    return call.decide("all positions beside", all(ids.shape[a] == shape[a] for a in varying))


@rule("aten.index_select")
def select_rows(call: Call) -> Any:
    """Positions along one axis."""
    ids, axis = call.ids("self"), call["dim"]
    if touches(call, ids, [axis], "self"):
        found = _picked(call, ids, axis % ids.dim(), call["index"], _refs(call.node)["index"])
        return _pinned(call, ids, call["index"]) if found is None else found
    index = _values(call, call["index"])
    if touches(call, index, range(index.dim()), "index"):
        return _pinned(call, ids, index)
    return resized(ids, [axis], call.shape)


def _values(call: Call, index: Any) -> Tensor:
    """The ids of positions; those in a parameter or buffer all stay."""
    if not isinstance(index, State):
        return index  # type: ignore[no-any-return]
    call.fix(index, INDEXED)
    return I.zeros(index.shape)


def _picked(call: Call, ids: Tensor, axis: int, index: Any, given: Any) -> Tensor | None:
    """Channels that the values of a parameter or buffer pick; None where these have another use, or cannot be seen.

    A position goes with the channel that it picks. Where a channel is picked so often, or so unevenly, that none could
    go, positions go by themselves and what they pick stays.
    """
    line = call.line_of(ids, axis, "picked from")
    if line is None or not isinstance(index, State) or not isinstance(given, Ref):
        return None
    if not call.decide("positions alone", _holds_positions(call.graph, given.index)):
        return None
    picked = line[call.positions(index, line)]
    if call.host.goes_alone(index.stored[0]) and call.decide("channels are picked", bool(picked.any())):
        call.pin(picked, PICKED)
        return call.along(call.slot(index, 0, None, Role.PARAM), axis)
    return call.along(call.slot(index, 0, picked, Role.PARAM), axis)


def _holds_positions(graph: Graph, index: int) -> bool:
    """Whether a value is a tensor of whole numbers as it is stored, which is read for positions along one line only."""
    while graph.nodes[index].kind == "call" and graph.nodes[index].name in _AS_THEY_ARE:
        index = graph.nodes[index].inputs[0].index
    same, extents = {index}, set()
    for node in graph.calls:
        if same.isdisjoint(ref.index for ref in node.inputs) or op(node.name).checked:
            continue
        if node.name in _AS_THEY_ARE and all(spec.dtype in _WHOLE for spec in specs(node.value)):
            same.add(node.index)
        elif node.name in _PICKS and _refs(node)["self"].index not in same:
            extents.add(_picked_extent(graph, node))
        else:
            return False
    return graph.nodes[index].name in graph.integers and len(extents) == 1


def _picked_extent(graph: Graph, node: Node) -> int | None:
    """The extent of the one axis along which a node picks."""
    given = _refs(node)
    shape = specs(graph.nodes[given["self"].index].value)[0].shape
    axes = [given["dim"]] if "dim" in given else [a for a, index in enumerate(given["indices"]) if index is not None]
    return shape[axes[0]] if len(axes) == 1 else None


def _refs(node: Node) -> dict[str, Any]:
    """The arguments of a node by name, as they stand in the graph."""
    return bound_arguments(node.target, node.args, node.kwargs)


_AS_THEY_ARE = frozenset(f"aten.{name}" for name in "_to_copy to clone alias detach contiguous lift_fresh_copy".split())
_PICKS = ("aten.index_select", "aten.index", "aten._unsafe_index")
_WHOLE = (torch.int16, torch.int32, torch.int64)


@rule("aten.gather", "aten.take_along_dim")
def gather(call: Call) -> Any:
    """For every element a position along one axis."""
    ids, index = call.ids("self"), call.activation(call.get("index", call.get("indices")))
    axis = call.get("dim")
    moved = axis is None or touches(call, ids, [axis], "self") or touches(call, index, [axis], "index")
    if moved or not _same_count(call, ids, axis % ids.dim(), call.shape):
        return _pinned(call, ids, index)
    return call.spread(call.bind(resized(ids, [axis], call.shape), index, INDEXED))


@rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def scatter(call: Call) -> Any:
    """For every element of a source a position along one axis."""
    ids, index, axis = call.ids("self"), call.ids("index"), call["dim"]
    source = call.get("src")
    parts = {"self": ids, "index": index}
    if isinstance(source, (Tensor, State)):
        parts["source"] = call.activation(source)
    moved = any(touches(call, part, [axis], name) for name, part in parts.items())
    if moved or not _same_count(call, ids, axis % ids.dim(), index.shape):
        return _pinned(call, *parts.values())
    result = resized(ids, [axis], [1 if a == axis % ids.dim() else e for a, e in enumerate(ids.shape)])
    for name, part in parts.items():
        if name != "self":
            small = part.narrow(axis, 0, 1)
            for a in range(small.dim()):  # a source may be longer than the index
                small = small if small.shape[a] == result.shape[a] else small.narrow(a, 0, min(small.shape[a], 1))
            result = call.bind(result, small, WRITTEN_OVER)
    return call.spread(result)


@rule("aten.index_add", "aten.index_copy", "aten.index_fill", "aten.index_reduce")
def write_rows(call: Call) -> Any:
    """Positions along one axis are written."""
    ids, index, axis = call.ids("self"), call.ids("index"), call["dim"]
    source = call.get("source")
    written = call.activation(source) if isinstance(source, (Tensor, State)) else None
    moved = touches(call, ids, [axis], "self") or touches(call, index, range(index.dim()), "index")
    if moved or (written is not None and touches(call, written, [axis], "source")):
        return _pinned(call, ids, index, written)
    small = ids.narrow(axis, 0, 1)
    if written is not None:
        small = call.bind(small, written.narrow(axis, 0, 1), WRITTEN_OVER)
    return call.spread(small)


def index_beside(call: Call) -> Any:
    """Elements at positions that tensors give for axes without channels, read or written; None along channels."""
    ids, places = call.ids("self"), _places(call)
    if not places:
        return None
    if touches(call, ids, places, "self"):
        if len(places) > 1 or "values" in call.arguments:
            return None
        given, index = _refs(call.node)["indices"][places[0]], call["indices"][places[0]]
        return _picked(call, ids, places[0], index, given)
    for index in call["indices"]:  # a mask is one index of several axes
        if index is not None:
            _values(call, index)
    part = _without(call, ids, places)
    if "values" not in call.arguments:
        return call.spread(part)
    values = call.ids("values")
    if values.dim() > part.dim() or not call.decide("written beside", _fits(values, part)):
        return None
    call.bind(part, values, WRITTEN_OVER)
    return ids


def _fits(values: Tensor, part: Tensor) -> bool:
    """Whether values lie along the axes that are left as they do: along the written positions they do not vary."""
    pairs = zip(reversed(values.shape), reversed(part.shape), strict=False)
    return all(1 in (a, b) or a == b for a, b in pairs)


def masked_write(call: Call) -> Any:
    """One value wherever a mask holds, `y[y < 0] = 0`, is element by element; None for anything else."""
    masks = [(axis, ref) for axis, ref in enumerate(_refs(call.node)["indices"]) if ref is not None]
    value = call.graph.nodes[ref.index].value if isinstance(ref := _refs(call.node)["values"], Ref) else None
    if len(masks) != 1 or not isinstance(value, Spec) or math.prod(value.shape) != 1 or not _is_mask(call, masks[0][1]):
        return None
    axis, _ = masks[0]
    ids, mask = call.ids("self"), call.activation(call["indices"][axis])
    mask = call.reshaped(mask, *mask.shape, *(1,) * (ids.dim() - axis - mask.dim()))
    return combined(call, [ids, mask, call["values"]])


def _is_mask(call: Call, ref: Ref) -> bool:
    spec = call.graph.nodes[ref.index].value
    return isinstance(spec, Spec) and spec.dtype == torch.bool


def _places(call: Call) -> list[int] | None:
    """The axes that tensors index, a mask several at once; None where such a tensor has channels."""
    axes: list[int] = []
    axis = 0
    for number, (index, ref) in enumerate(zip(call["indices"], _refs(call.node)["indices"], strict=True)):
        count = 1
        if index is not None:
            spec = call.graph.nodes[ref.index].value
            varies = isinstance(index, Tensor) and touches(call, index, range(index.dim()), f"index {number}")
            if varies or spec.dtype == torch.uint8:
                return None
            count = len(spec.shape) if spec.dtype == torch.bool else 1
            axes += range(axis, axis + count)
        axis += count
    return axes


def _without(call: Call, ids: Tensor, places: Sequence[int]) -> Tensor:
    """The ids with the indexed axes replaced by as many axes of extent 1 as the indices have.

    These lie where the first of adjacent axes was, else at the front.
    """
    adjacent = list(places) == list(range(places[0], places[0] + len(places)))
    pairs = zip(call["indices"], _refs(call.node)["indices"], strict=True)
    count = max(1 if _is_mask(call, ref) else len(index.shape) for index, ref in pairs if ref is not None)
    for axis in reversed(places):
        ids = ids.select(axis, 0)
    for _ in range(count):
        ids = ids.unsqueeze(places[0] if adjacent else 0)
    return ids


@rule("aten.masked_scatter", "aten.take", "aten.put", "aten.affine_grid_generator", "aten.searchsorted")
def anywhere(call: Call) -> Any:
    """Elements chosen wherever they lie, and positions made of values."""
    return _pinned(call, *(value for value in call.arguments.values() if isinstance(value, (Tensor, State))))
