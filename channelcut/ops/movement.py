"""Data movement: the rule is the op itself, run on the ids.

What has to be added is that the result stays a rectangle when channels go: where the ids come to vary along several
axes, only one of them may lose elements, and the slabs along the others are bound. Which one is decided at the end,
because a later pick of fixed positions along an axis says that this axis is not the one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.graph import Extent
from channelcut.core.groups import Role
from channelcut.core.reasons import (
    ALONG_SPACE,
    COMPUTED_TABLE,
    CONCATENATED_FIXED,
    HARD_CODED_POSITION,
    ONE_FOR_ALL,
    STACKED_FIXED,
    STRIDES,
    UNEQUAL_PIECES,
    WRITTEN_OVER,
)
from channelcut.ops import shapes
from channelcut.ops.call import Call
from channelcut.ops.host import Bound, State
from channelcut.ops.layers import repeats
from channelcut.ops.registry import know, rule


@rule(
    "aten.view",
    "aten._unsafe_view",
    "aten.reshape",
    "aten.flatten",
    "aten.unflatten",
    "aten.view_as",
    "aten.reshape_as",
    "aten._reshape_alias",
    "aten.ravel",
)
def reshape(call: Call) -> Tensor:
    """A new shape over the same elements; heads and shuffles appear here."""
    ids = I.compress(call.reshaped(call.ids("self"), *call.shape))
    varying = I.varying_axes(ids)
    last = max((axis for axis in varying if call.follows(axis)), default=len(call.shape))
    for axis in varying:
        if axis > last:
            # view(n, c // 2, 2, h, w), view(n, -1, 4, 4): the axes behind the one that follows are written out, so
            # that one loses elements, in whole rows.
            ids = call.bind_along(ids, axis)
    return call.rectangle(ids)


for _name in ("view", "_unsafe_view", "_reshape_alias", "reshape"):
    know(f"aten.{_name}", layout="reshape")
know("aten.view", "aten.reshape", sizes="shape")
know("aten.unflatten", sizes="axis")


@rule("aten.as_strided")
def restride(call: Call) -> Tensor:
    """New strides over the same elements, which adaptive pooling to 1×1 gives to memory with channels last.

    Without an axis after the channels every layout of (N, C, 1, ...) holds them in one order; any other is pinned.
    """
    ids = call.ids("self")
    if (
        tuple(ids.shape) == call.shape
        and all(extent == 1 for extent in ids.shape[2:])
        and not call.get("storage_offset")
    ):
        return ids
    call.pin(ids, STRIDES)
    return call.fixed()  # type: ignore[no-any-return]


@rule(
    "aten.transpose", "aten.permute", "aten.t", "aten.movedim", "aten.swapaxes", "aten.swapdims", "aten.numpy_T",
    "aten.mT", "aten.adjoint", "aten.unsqueeze", "aten.squeeze", "aten.tile",
    "aten.repeat_interleave", "aten.flip", "aten.fliplr", "aten.flipud", "aten.pixel_unshuffle",
    "aten.alias", "aten.moveaxis", "aten.mH", "aten.matrix_H", "aten.atleast_1d",
    "aten.atleast_2d", "aten.atleast_3d",
)  # fmt: skip
def rearrange(call: Call) -> Any:
    """Elements move or repeat as wholes."""
    return call.moved()


know("aten.alias", layout="copy")


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.repeat")
def spread(call: Call) -> Any:
    """Elements repeat as wholes; those that are repeated as often as there are channels elsewhere go with these."""
    ids = call.ids("self")
    before = len(call.shape) - ids.dim()
    for axis in range(len(call.shape)):
        if axis < before or ids.shape[axis - before] == 1:
            line = _repeated_along(call, axis)
            if line is not None:
                call.pin(ids, ONE_FOR_ALL)
                return call.along(line, axis)
    return call.moved()


def _repeated_along(call: Call, axis: int) -> Tensor | None:
    """The channels that an element is repeated for, along an axis of the output."""
    extents = [source for origin in call.origins(axis) for source in origin.sources() if isinstance(source, Extent)]
    if call.decide(f"a width along {axis}", any(call.host.varies(extent.node, extent.axis) for extent in extents)):
        return call.mint(call.shape[axis])
    if "other" not in call.arguments:
        return None
    other = call.ids("other")
    found = I.line(other, axis)
    varies = call.decide(f"another varies along {axis}", found is not None and axis in I.varying_axes(other))
    return found if varies else None


know("aten.expand", "aten.broadcast_to", sizes="broadcast")
know("aten.expand_as", sizes="like")
know("aten.repeat", sizes="repeats")


@rule("aten.pixel_shuffle")
def pixel_shuffle(call: Call) -> Tensor:
    """C·r² channels to C of r times the resolution: the r² of one output channel go together."""
    ids = call.moved()
    for axis in (ids.dim() - 1, ids.dim() - 2):  # the two axes of positions that r and r came to lie on
        call.bind_along(ids, axis)
    return I.compact(ids.narrow(-1, 0, 1).narrow(-2, 0, 1)).expand(ids.shape)


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(call: Call) -> Any:
    """(groups, C/groups) read column by column: every group keeps the same share."""
    ids = call.ids("self")
    call.rectangle(call.reshaped(ids, ids.shape[0], call["groups"], -1, *ids.shape[2:]))
    return call.moved()


@rule("aten.roll")
def roll(call: Call) -> Tensor:
    """A shift along positions; along channels its distance is hard-coded."""
    ids = call.ids("self")
    axes = [axis % ids.dim() for axis in call["dims"]] or list(range(ids.dim()))
    if set(axes) & set(I.varying_axes(ids)):
        call.pin(ids, HARD_CODED_POSITION)
    return ids


@rule(
    "aten.chunk",
    "aten.split",
    "aten.split_with_sizes",
    "aten.tensor_split",
    "aten.unsafe_split",
    "aten.unsafe_chunk",
    "aten.unsafe_split_with_sizes",
)
def split(call: Call) -> tuple[Tensor, ...]:
    """Pieces along an axis; equal pieces of channels must stay equal in number, not in position."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    sizes = [spec.shape[axis] for spec in call.node.value]
    pieces = tuple(I.compress(piece) for piece in call.divided(ids, sizes, axis))
    if axis not in I.varying_axes(ids):
        return pieces
    call.host.divide(call, axis, [line for piece in pieces if (line := I.line(piece, axis)) is not None])
    # Where the forward's numbers are not seen, equal sizes may be one number: x.split([x.shape[1] // 4] * 4, 1).
    by_count = not call.name.endswith("split_with_sizes") or not call.sees_numbers
    if by_count and len(set(sizes)) == 1 and len(sizes) > 1:
        call.bind_equal(pieces, axis)
    elif call.name in ("aten.chunk", "aten.tensor_split", "aten.unsafe_chunk") and len(set(sizes)) > 1:
        call.pin(ids, UNEQUAL_PIECES)
    for piece in pieces:
        call.rectangle(piece)
    return pieces


know("aten.split", "aten.split_with_sizes", "aten.unsafe_split", sizes="pieces")
know("aten.chunk", "aten.tensor_split", "aten.unsafe_chunk", sizes="sections")


@rule("aten.unbind", "aten.select")
def pick(call: Call) -> Any:
    """One position along an axis: a row of a rectangle, or else that axis loses nothing."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    varying = I.varying_axes(ids)
    if axis in varying and len(varying) > 1 and axis != varying[-1] and call.sees_numbers:
        call.rectangle(ids)
    elif axis in varying and len(varying) > 1:
        call.bind_along(ids, axis)
    elif axis in varying:
        call.pin(ids, HARD_CODED_POSITION)
    return call.moved()


@rule("aten.slice", "aten.narrow")
def slice_positions(call: Call) -> Tensor:
    """Consecutive positions: along the channels each bound must stay where it is among them, or move with them."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    varying = I.varying_axes(ids)
    result = call.host.slice(call, ids, axis)
    if axis not in varying or call.shape == tuple(ids.shape):
        return result
    line = I.line(ids, axis)
    if line is None or call.name != "aten.slice" or call["step"] != 1:
        if len(varying) > 1:
            call.bind_along(ids, axis)
        else:
            call.pin(ids, HARD_CODED_POSITION)
        return result
    extent = len(line)
    # A bound at the start or the end of the channels moves with them by itself.
    for role, given in ((Bound.START, call["start"]), (Bound.STOP, call["end"])):
        if given is not None and given % extent > 0 and abs(given) < extent:
            call.slice_bound(role, line, given % extent, 1 if given > 0 else -1)
    return result


know("aten.narrow", sizes="narrow")


@rule("aten.cat", "aten.concat", "aten.concatenate", shape=shapes.cat)
def cat(call: Call) -> Tensor:
    """Pieces one after the other; pieces of different channels along another axis are bound."""
    shape = call.shape
    pieces = [call.activation(piece) for piece in call["tensors"]]
    pieces = [piece for piece in pieces if piece.dim() == len(shape) and piece.numel()]
    if not pieces:
        return I.zeros(shape)
    axis = call["dim"] % len(shape)
    # A check may have one channel left of many, or channels that have become one.
    found = {a for piece in pieces for a in I.varying_axes(piece)}
    varying = {a for a in range(len(shape)) if call.decide(f"channels vary along {a}", a in found)}
    if axis in varying and len(varying) > 1:  # such as head views of several layers: rows, or parts of rows
        still = [a for a in range(len(shape)) if a != axis and a not in varying]
        small = [ids for piece in pieces if (ids := I.drop(piece, still)) is not None]
        return call.rectangle(I.compress(call.spread(call.joined(small, axis))))
    if varying - {axis}:
        first = pieces[0].narrow(axis, 0, 1)
        for piece in pieces:
            for position in range(piece.shape[axis] if axis in I.varying_axes(piece) else 1):
                row = call.spread(piece.narrow(axis, position, 1), first.shape)
                call.bind(first, row, CONCATENATED_FIXED)
        return call.spread(first)
    narrowed = [I.plane(piece, [axis]) for piece in pieces]
    return call.along(call.joined([ids for ids in narrowed if ids is not None], 0), axis)


@rule("aten.hstack", "aten.vstack", "aten.row_stack", "aten.dstack")
def joined_by_name(call: Call) -> Tensor:
    """The same along the second, the first or the third axis, of pieces that get it where they lack it."""
    pieces = [call.activation(piece) for piece in call["tensors"]]
    axis = {"aten.hstack": min(1, len(call.shape) - 1), "aten.dstack": 2}.get(call.name, 0)
    pieces = [piece.unsqueeze(0) if piece.dim() == 1 < len(call.shape) else piece for piece in pieces]
    pieces = [piece.unsqueeze(-1) if piece.dim() == 2 < len(call.shape) else piece for piece in pieces]
    return cat(replace(call, arguments={"tensors": pieces, "dim": axis}))  # type: ignore[no-any-return]


@rule("aten.broadcast_tensors")
def broadcast_together(call: Call) -> tuple[Tensor, ...]:
    """Each value in the shape that all have together."""
    pieces = [call.activation(piece) for piece in call["tensors"]]
    return tuple(call.spread(piece, spec.shape) for piece, spec in zip(pieces, call.node.value, strict=True))


@rule("aten.stack", "aten._stack")
def stack(call: Call) -> Tensor:
    """A new axis; the stacked tensors lose the same channels."""
    axis = call["dim"] % len(call.shape)
    pieces = [call.activation(piece) for piece in call["tensors"]]
    for piece in pieces[1:]:
        call.bind(pieces[0], piece, STACKED_FIXED)
    return call.spread(pieces[0].unsqueeze(axis))


@rule("getitem")
def getitem(call: Call) -> Any:
    """One of several outputs."""
    return call["self"][call["index"]]


@rule("aten.im2col")
def im2col(call: Call) -> Tensor:
    """(N, C, H, W) to (N, C·kH·kW, L): each channel becomes kH·kW consecutive rows."""
    ids = call.line("self", -3)
    if ids is None:
        call.pin(call.ids("self"), ALONG_SPACE)
        return I.zeros(call.shape)
    kernel: Sequence[int] = call["kernel_size"]
    return call.along(ids.repeat_interleave(kernel[0] * kernel[1]), len(call.shape) - 2)


@rule("aten.col2im")
def col2im(call: Call) -> Tensor:
    """(N, C·kH·kW, L) to (N, C, H, W): the kH·kW rows of a channel are added up, so they go together."""
    ids = call.ids("self")
    rows = call.line_of(ids, -2)
    if rows is None:
        call.pin(ids, ALONG_SPACE)
        return I.zeros(call.shape)
    window = call.reshaped(rows, -1, math.prod(call["kernel_size"]))
    call.bind_along(window, 1)
    return call.along(window[:, 0], len(call.shape) - 3)


@rule("aten.unfold")
def windows(call: Call) -> Tensor:
    """Windows along an axis of positions; along the channels their size and distance are hard-coded."""
    ids = call.ids("self")
    if call["dimension"] % ids.dim() in I.varying_axes(ids):
        call.pin(ids, HARD_CODED_POSITION)
        return I.zeros(call.shape)
    return ids.unfold(call["dimension"], call["size"], call["step"])


@rule("aten.embedding", layers={nn.Embedding: repeats({"embedding_dim": ("weight", 1)})})
def embedding(call: Call) -> Tensor:
    """Rows of a table (entries, C): its columns are channels."""
    table = call["weight"]
    if not isinstance(table, State):
        call.pin(call.ids("weight"), COMPUTED_TABLE)
        return I.zeros(call.shape)
    return call.along(call.slot(table, 1, None, Role.OUT), len(call.shape) - 1)


@rule("aten.slice_scatter", "aten.select_scatter")
def scatter_back(call: Call) -> Tensor:
    """A write into a part of a value, as a functional op: what is written over and what is written live together."""
    ids, written = call.ids("self"), call.ids("src")
    axis = call["dim"] % ids.dim()
    if call.name == "aten.select_scatter":
        target = ids.select(axis, call["index"])
    else:
        target = ids[(slice(None),) * axis + (slice(call["start"], call["end"], call["step"]),)]
    if axis in I.varying_axes(ids):
        call.pin(ids, HARD_CODED_POSITION)
    call.bind(target, written, WRITTEN_OVER)
    return ids
