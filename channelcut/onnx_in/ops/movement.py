"""Operators that join, cut, pad and rearrange elements."""

from __future__ import annotations

from math import gcd

import torch
import torch.nn.functional as F

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.ops.windows import padding, setting, symmetric
from channelcut.onnx_in.registry import Call, operator

# Below this a common divisor of the lengths of a split is a coincidence, and above that many parts it is no pattern.
COMMON_WIDTH, COMMON_PARTS = 8, 8
PADDINGS = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Concat")
def concat(call: Call) -> Value:
    """Pieces one after the other; empty ones are left out."""
    pieces = [value for value in call.inputs if value is not None]
    axis = call.axis(pieces[0])
    full = [piece for piece in pieces if piece.shape[axis]] or pieces[:1]
    return full[0] if len(full) == 1 else call.emit(torch.cat, full, axis)


@operator("Split")
def split(call: Call) -> list[Value]:
    """Equal pieces as `chunk`, whose pieces may shrink.

    Pieces that are small multiples of one width, such as query, key and value of widths d, d and 2d, are joined from
    such equal pieces; any others are cut by their lengths, which fixes them.
    """
    source = call[0]
    axis = call.axis(source, 0)
    sizes = [int(v) for v in call.numbers("split", 1) or []]
    count = len(sizes) or int(call.attribute("num_outputs", len(call.node.output)))
    extent = source.shape[axis]
    if not sizes:
        size = -(-extent // count)
        sizes = [max(0, min(size, extent - start)) for start in range(0, size * count, size)]
    if count == 1:
        return [source]
    if len(set(sizes)) == 1:
        return call.builder.items(call.emit(torch.chunk, source, count, axis), count)
    part = gcd(*sizes)
    if part < COMMON_WIDTH or extent // part > COMMON_PARTS:
        return call.builder.items(call.emit(torch.split, source, tuple(sizes), axis), count)
    if source.origin is not None:
        return _within_heads(call, source, axis, [size // part for size in sizes])
    parts = iter(call.builder.items(call.emit(torch.chunk, source, extent // part, axis), extent // part))
    groups = [[next(parts) for _ in range(size // part)] for size in sizes]
    return [group[0] if len(group) == 1 else call.emit(torch.cat, group, axis) for group in groups]


def _within_heads(call: Call, source: Value, axis: int, counts: list[int]) -> list[Value]:
    """Pieces of so many equal parts each, of an axis that a reshape has split off: the same parts in every head."""
    apart = call.emit(torch.unflatten, source, axis, (sum(counts), -1))
    pieces, start = [], 0
    for count in counts:
        index = [slice(None)] * axis + [slice(start or None, start + count if start + count < sum(counts) else None)]
        pieces.append(call.emit(torch.flatten, sliced(call, apart, index), axis, axis + 1))
        start += count
    return pieces


@operator("Slice")
def slicing(call: Call) -> Value:
    """Parts of axes; a negative step turns the axis round first. An end at the axis's end is left open."""
    value = call[0]
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes, steps = call.numbers("axes", 3) or range(len(starts)), call.numbers("steps", 4) or [1] * len(starts)
    index = [slice(None)] * len(value.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = int(axis) % len(value.shape)
        extent = value.shape[place]
        if step < 0:
            value = call.emit(torch.flip, value, (place,))
            first, last, _ = slice(int(start), int(end) if end >= -extent else None, int(step)).indices(extent)
            first, last = extent - 1 - first, extent - 1 - last
        else:
            first, last, _ = slice(int(start), int(end), int(step)).indices(extent)
        part = slice(first or None, None if last >= extent else max(first, last), None if abs(step) == 1 else abs(step))
        index[place] = part
    return sliced(call, value, index)


def sliced(call: Call, value: Value, index: list[slice]) -> Value:
    """`value[index]`, with one slice for every axis."""
    import operator as op

    while index and index[-1] == slice(None):
        index = index[:-1]
    return call.emit(op.getitem, value, tuple(index)) if index else value


@operator("Pad")
def pad(call: Call) -> Value:
    """Before and after every axis; negative amounts crop."""
    source = call[0]
    rank = len(source.shape)
    amounts = [int(v) for v in call.numbers("pads", 1) or []]
    axes = [int(a) % rank for a in (call.numbers("axes", 3) if call.get(3) is not None else None) or range(rank)]
    mode = call.attribute("mode", "constant")
    fill = call.numbers("value", 2)
    flat = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        place = 2 * (rank - 1 - axis)
        flat[place : place + 2] = amounts[position], amounts[position + len(axes)]
    while flat and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if not flat:
        return source
    if mode not in PADDINGS:
        call.refuse(f"pads in the mode {mode!r}; known are {', '.join(PADDINGS)}")
    if mode == "constant":
        return call.emit(F.pad, source, flat, "constant", fill[0] if fill else 0)
    return call.emit(F.pad, source, flat, PADDINGS[mode])


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Value:
    """CRD is torch's pixel shuffle; DCR has the positions outside and the channels inside."""
    source, size = call[0], int(call.attribute("blocksize"))
    if call.attribute("mode", "DCR") == "CRD":
        return call.emit(F.pixel_shuffle, source, size)
    apart = call.emit(torch.unflatten, source, 1, (size, size, -1))
    turned = call.emit(torch.permute, apart, (0, 3, 4, 1, 5, 2))
    return call.emit(torch.flatten, call.emit(torch.flatten, turned, 4, 5), 2, 3)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Value:
    """The inverse of depth to space in the order DCR."""
    source, size = call[0], int(call.attribute("blocksize"))
    apart = call.emit(torch.unflatten, call.emit(torch.unflatten, source, 3, (-1, size)), 2, (-1, size))
    return call.emit(torch.flatten, call.emit(torch.permute, apart, (0, 3, 5, 1, 2, 4)), 1, 3)


@operator("Col2Im")
def columns_to_image(call: Call) -> Value:
    """(N, C·kH·kW, L) to (N, C, H, W): overlapping windows are added up, which torch calls fold."""
    size, kernel = call.numbers("image_shape", 1) or [], call.numbers("block_shape", 2) or []
    pads = padding(call, call[0], kernel)
    if len(kernel) != 2 or not symmetric(pads):
        call.refuse("adds up other windows than two-dimensional ones with equal pads on both sides")
    strides, dilations = setting(call, "strides", 2), setting(call, "dilations", 2)
    return call.emit(F.fold, call[0], tuple(size), tuple(kernel), dilations, [before for before, _ in pads], strides)


@operator("Identity", "Dropout")
def identity(call: Call) -> Value:
    """The input itself: dropout does nothing in evaluation."""
    if any(call.node.output[1:]):
        call.refuse("gives its mask as an output")
    return call[0]


@operator("Trilu")
def triangle(call: Call) -> Value:
    """The upper or lower triangle."""
    offset = call.tensor(1)
    function = torch.triu if call.attribute("upper", 1) else torch.tril
    return call.emit(function, call[0], 0 if offset is None else int(offset))


@operator("CumSum")
def cumulative_sum(call: Call) -> Value:
    """Running sums, from either end, with or without the element itself."""
    source = call[0]
    axis = int((call.numbers("axis", 1) or [0])[0]) % len(source.shape)
    turned = call.emit(torch.flip, source, (axis,)) if call.attribute("reverse", 0) else source
    total = call.emit(torch.cumsum, turned, axis)
    if call.attribute("exclusive", 0):
        total = call.emit(torch.sub, total, turned)
    return call.emit(torch.flip, total, (axis,)) if call.attribute("reverse", 0) else total


@operator("Range")
def arange(call: Call) -> Value:
    """A constant sequence."""
    start, limit, step = ((call.numbers("", position) or [0])[0] for position in range(3))
    return call.constant(torch.arange(start, limit, step, dtype=call[0].tensor.dtype))


@operator("ConstantOfShape")
def filled(call: Call) -> Value:
    """A constant of one value; float32 zeros by default."""
    from channelcut.onnx_in.reader import tensor_of

    shape = [int(v) for v in call.numbers("", 0) or []]
    proto = call.attribute("value")
    value = torch.zeros(()) if proto is None else tensor_of(proto, call.builder.model.path).reshape(())
    return call.constant(value.expand(shape).clone())


@operator("Constant")
def constant(call: Call) -> Value:
    """A tensor or numbers in the graph."""
    from channelcut.onnx_in.reader import tensor_of

    for name, dtype in (
        ("float", torch.float32),
        ("floats", torch.float32),
        ("int", torch.int64),
        ("ints", torch.int64),
    ):
        value = call.attribute(f"value_{name}")
        if value is not None:
            return call.constant(torch.tensor(value, dtype=dtype))
    proto = call.attribute("value")
    if proto is None:
        call.refuse("holds text or a sparse tensor")
    return call.constant(tensor_of(proto, call.builder.model.path))
