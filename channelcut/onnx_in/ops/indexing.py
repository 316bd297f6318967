"""Elements chosen by positions: gather, scatter, top-k."""

from __future__ import annotations

import operator as op
from itertools import pairwise

import torch

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.ops.movement import sliced
from channelcut.onnx_in.registry import Call, operator


@operator("Gather")
def gather(call: Call) -> Value:
    """One constant position is a select, evenly spaced ones a slice, others an index."""
    source, index = call[0], call[1]
    axis = call.axis(source, 0)
    extent = source.shape[axis]
    if index.node is not None or source.node is None:
        return call.emit(op.getitem, source, (*[slice(None)] * axis, index))
    positions = [int(v) % extent if v < 0 else int(v) for v in index.tensor.reshape(-1).tolist()]
    if len(index.shape) == 0:
        half = _shuffled_half(source, axis)
        if half is not None:
            whole, groups = half
            return call.emit(torch.select, call.emit(torch.unflatten, whole, 1, (-1, groups)), 2, positions[0])
        return call.emit(torch.select, source, axis, positions[0])
    steps = {b - a for a, b in pairwise(positions)} or {1}
    if len(index.shape) == 1 and positions and len(steps) == 1 and (step := steps.pop()) > 0:
        end = positions[-1] + 1
        part = slice(positions[0] or None, end if end < extent else None, None if step == 1 else step)
        return sliced(call, source, [*[slice(None)] * axis, part])
    return call.emit(op.getitem, source, (*[slice(None)] * axis, call.constant(index.tensor)))


def _shuffled_half(source: Value, axis: int) -> tuple[Value, int] | None:
    """The tensor and the number of groups, where `source[k]` is every k-th channel of a tensor.

    ShuffleNet writes that as reshape (C/g, g, H·W), transpose (g, C/g, H·W), reshape (g, 1, C/g, H, W): with a batch
    of one it is the same as taking the channels k, k + g, k + 2g..., which works for any batch and any C.
    """
    outer = source.origin
    turned = outer.source.origin if outer is not None and outer.kind == "reshape" else None
    inner = turned.source.origin if turned is not None and turned.order == (1, 0, 2) else None
    if axis != 0 or turned is None or inner is None or inner.kind != "reshape":
        return None
    whole = inner.source.shape
    if len(whole) < 3 or whole[0] != 1:
        return None
    channels, groups, _ = turned.source.shape
    if channels * groups != whole[1] or source.shape != (groups, 1, channels, *whole[2:]):
        return None
    return inner.source, groups


@operator("GatherElements")
def gather_elements(call: Call) -> Value:
    """One position for every element of the result."""
    source = call[0]
    axis = call.axis(source, 0)
    return call.emit(torch.gather, source, axis, _wrapped(call, call[1], source.shape[axis]))


@operator("GatherND")
def gather_nd(call: Call) -> Value:
    """Positions along the first axes in the last axis of the indices."""
    if call.attribute("batch_dims", 0):
        call.refuse("has batch_dims, which cannot be imported")
    index = call[1]
    parts = call.builder.items(call.emit(torch.unbind, index, -1), index.shape[-1])
    return call.emit(op.getitem, call[0], tuple(parts))


@operator("ScatterND")
def scatter_nd(call: Call) -> Value:
    """Elements or slices put, or added, at positions along the first axes."""
    reduction = call.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        call.refuse(f"has the reduction {reduction!r}; 'none' and 'add' can be imported")
    index = call[1]
    parts = call.builder.items(call.emit(torch.unbind, index, -1), index.shape[-1])
    return call.emit(torch.index_put, call[0], tuple(parts), call[2], reduction == "add")


@operator("ScatterElements")
def scatter_elements(call: Call) -> Value:
    """One position for every element of the updates."""
    reduction = call.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        call.refuse(f"has the reduction {reduction!r}; 'none' and 'add' can be imported")
    source = call[0]
    axis = call.axis(source, 0)
    index = _wrapped(call, call[1], source.shape[axis])
    return call.emit(torch.scatter if reduction == "none" else torch.scatter_add, source, axis, index, call[2])


def _wrapped(call: Call, index: Value, extent: int) -> Value:
    """Positions from the front; torch's gather knows no negative ones."""
    if index.node is None:
        tensor = index.tensor.to(torch.int64)
        return call.constant(torch.where(tensor < 0, tensor + extent, tensor))
    return call.emit(torch.remainder, index, extent)


@operator("TopK")
def top_k(call: Call) -> list[Value]:
    """The k largest or smallest and their positions; k is a constant."""
    count = int((call.numbers("k", 1) or [1])[0])
    source = call[0]
    found = call.emit(
        torch.topk, source, count, call.axis(source, -1), bool(call.attribute("largest", 1)),
        bool(call.attribute("sorted", 1)),
    )  # fmt: skip
    return call.builder.items(found, 2)


@operator("ArgMax", "ArgMin")
def arg_max(call: Call) -> Value:
    """The position of the largest or smallest element, the first of several."""
    if call.attribute("select_last_index", 0):
        call.refuse("asks for the last of several equal elements")
    function = torch.argmax if call.kind == "ArgMax" else torch.argmin
    source = call[0]
    return call.emit(function, source, call.axis(source, 0), bool(call.attribute("keepdims", 1)))


@operator("Einsum")
def einsum(call: Call) -> Value:
    """Sums of products, by their equation."""
    return call.emit(
        torch.einsum, call.attribute("equation").replace(" ", ""), *[v for v in call.inputs if v is not None]
    )
