"""Operators that only change the shape, and the shape itself, which is a constant here."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from channelcut.onnx_in.builder import Origin, Value
from channelcut.onnx_in.registry import Call, operator
from channelcut.onnx_in.reshape import blocks


def reshaped(call: Call, source: Value, shape: Sequence[int], inferred: int | None = None) -> Value:
    """`source` in another shape, without fixed extents where the shapes allow it; see `reshape.blocks`.

    A reshape that undoes the one before it gives back what that one started from.
    """
    target = tuple(shape)
    if target == source.shape:
        return source
    origin = source.origin
    if origin is not None and origin.kind == "reshape" and origin.source.shape == target:
        return origin.source
    found = blocks(source.shape, target, inferred)
    if found is None or source.node is None:
        result = call.emit(torch.reshape, source, target)
    else:
        result = source
        for block in reversed(found):  # so that the axes to the left keep their numbers
            if len(block.old) > 1:
                result = call.emit(torch.flatten, result, block.start, block.start + len(block.old) - 1)
            if len(block.new) > 1:
                result = call.emit(torch.unflatten, result, block.start, block.target())
    result.origin = Origin("reshape", source)
    return result


@operator("Reshape")
def reshape(call: Call) -> Value:
    """0 copies an extent (unless allowzero), -1 is what is left."""
    source = call[0]
    wanted = [int(v) for v in call.numbers("shape", 1) or []]
    if not call.attribute("allowzero", 0):
        wanted = [source.shape[axis] if extent == 0 else extent for axis, extent in enumerate(wanted)]
    inferred = wanted.index(-1) if -1 in wanted else None
    if inferred is not None:
        wanted[inferred] = prod(source.shape) // max(1, -prod(wanted))
    return reshaped(call, source, wanted, inferred)


@operator("Flatten")
def flatten(call: Call) -> Value:
    """To a matrix, cut at `axis`."""
    source = call[0]
    axis = int(call.attribute("axis", 1))
    axis = axis + len(source.shape) if axis < 0 else axis
    return reshaped(call, source, (prod(source.shape[:axis]), prod(source.shape[axis:])))


@operator("Squeeze")
def squeeze(call: Call) -> Value:
    """Axes of extent 1 go: those named, or all."""
    source = call[0]
    axes = call.numbers("axes", 1)
    if axes is None:
        axes = [axis for axis, extent in enumerate(source.shape) if extent == 1]
    axes = sorted(int(axis) % max(1, len(source.shape)) for axis in axes)
    return call.emit(torch.squeeze, source, tuple(axes)) if axes else source


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Value:
    """New axes of extent 1, numbered as in the result."""
    value = call[0]
    axes = [int(axis) for axis in call.numbers("axes", 1) or []]
    rank = len(value.shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = call.emit(torch.unsqueeze, value, axis)
    return value


@operator("Transpose")
def transpose(call: Call) -> Value:
    """Reverses the axes unless told their order."""
    source = call[0]
    order = tuple(call.numbers("perm") or reversed(range(len(source.shape))))
    result = call.emit(torch.permute, source, order)
    result.origin = Origin("permute", source, order)
    return result


@operator("Expand")
def expand(call: Call) -> Value:
    """Broadcast with a shape; an axis that does not grow is written as -1."""
    source = call[0]
    wanted = tuple(int(v) for v in call.numbers("shape", 1) or [])
    shape = tuple(np.broadcast_shapes(source.shape, wanted))
    if shape == source.shape:
        return source
    old = (0,) * (len(shape) - len(source.shape)) + source.shape
    return call.emit(torch.Tensor.expand, source, tuple(-1 if a == b else b for a, b in zip(old, shape, strict=True)))


@operator("Tile")
def tile(call: Call) -> Value:
    """Repeat along every axis."""
    return call.emit(torch.tile, call[0], tuple(int(v) for v in call.numbers("repeats", 1) or []))


@operator("Shape")
def shape_of(call: Call) -> Value:
    """The shape, or the part of it from `start` to `end`, as a constant."""
    shape = call[0].shape
    part = slice(call.attribute("start", 0), call.attribute("end"))
    return call.constant(torch.tensor(shape[part], dtype=torch.int64))


@operator("Size")
def size_of(call: Call) -> Value:
    """The number of elements, as a constant."""
    return call.constant(torch.tensor(prod(call[0].shape)))
