"""Reads and writes at positions that a tensor gives: along other axes than the channels these pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Ref, Spec
from channelcut.core.reasons import INDEXED, WRITTEN_OVER
from channelcut.ops.along import resized, touches
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.pointwise import combined
from channelcut.ops.registry import rule


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
    ids, index = call.ids("self"), call.ids("index")
    if touches(call, ids, [call["dim"]], "self") or touches(call, index, range(index.dim()), "index"):
        return _pinned(call, ids, index)
    return resized(ids, [call["dim"]], call.shape)


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
    if not places or touches(call, ids, places, "self"):
        return None
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
    masks = [(axis, ref) for axis, ref in enumerate(_given(call)) if ref is not None]
    value = call.graph.nodes[ref.index].value if isinstance(ref := _argument(call, "values", 2), Ref) else None
    if len(masks) != 1 or not isinstance(value, Spec) or math.prod(value.shape) != 1 or not _is_mask(call, masks[0][1]):
        return None
    axis, _ = masks[0]
    ids, mask = call.ids("self"), call.activation(call["indices"][axis])
    mask = call.reshaped(mask, *mask.shape, *(1,) * (ids.dim() - axis - mask.dim()))
    return combined(call, [ids, mask, call["values"]])


def _argument(call: Call, name: str, position: int) -> Any:
    """An argument as the graph has it."""
    args, kwargs = call.node.args, call.node.kwargs
    return args[position] if len(args) > position else kwargs.get(name)


def _given(call: Call) -> Sequence[Ref | None]:
    """The indices as the graph has them."""
    return _argument(call, "indices", 1)  # type: ignore[no-any-return]


def _is_mask(call: Call, ref: Ref) -> bool:
    spec = call.graph.nodes[ref.index].value
    return isinstance(spec, Spec) and spec.dtype == torch.bool


def _places(call: Call) -> list[int] | None:
    """The axes that tensors index, a mask several at once; None where such a tensor has channels."""
    axes: list[int] = []
    axis = 0
    for number, (index, ref) in enumerate(zip(call["indices"], _given(call), strict=True)):
        count = 1
        if index is not None and ref is not None:
            if isinstance(index, State) and not _is_mask(call, ref):  # a table of positions has no channels
                call.fix(index, INDEXED)
                ids = I.zeros(index.shape)
            else:
                ids = call.activation(index)
            if call.graph.nodes[ref.index].value.dtype == torch.uint8 or touches(
                call, ids, range(ids.dim()), f"index {number}"
            ):
                return None
            count = ids.dim() if _is_mask(call, ref) else 1
            axes += range(axis, axis + count)
        axis += count
    return axes


def _without(call: Call, ids: Tensor, places: Sequence[int]) -> Tensor:
    """The ids with the indexed axes replaced by as many axes of extent 1 as the indices have.

    These lie where the first of adjacent axes was, else at the front.
    """
    adjacent = list(places) == list(range(places[0], places[0] + len(places)))
    pairs = zip(call["indices"], _given(call), strict=True)
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
