"""Data movement: the rule is the op itself, run on the ids.

What has to be added is that the result stays a rectangle when channels go: where the ids come to vary along several
axes, only one of them may lose elements, and the slabs along the others are bound. Which one is decided at the end,
because a later pick of fixed positions along an axis says that this axis is not the one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from channelcut.core.trees import mapped_only
from channelcut.coupling.collect import HARD_CODED, HARD_CODED_REMEDY, Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.registry import Call, activation, rule


def run(call: Call) -> Any:
    """Run the op on ids."""
    args = mapped_only(State, lambda s: activation(call.coupler, s), dict(call.arguments))
    if "size" in args:
        args["size"] = call.shape
    values = list(args.values())
    schema = call.node.target._schema  # type: ignore[union-attr]
    keyword_only = {argument.name for argument in schema.arguments if argument.kwarg_only}
    positional = [value for name, value in args.items() if name not in keyword_only]
    return call.node.target(*positional) if values and call.node.target is not None else call.fixed()


@rule(
    "aten.view",
    "aten._unsafe_view",
    "aten.reshape",
    "aten.flatten",
    "aten.unflatten",
    "aten.view_as",
    "aten.reshape_as",
)
def reshape(coupler: Coupler, call: Call) -> Tensor:
    """A new shape over the same elements; heads and shuffles appear here."""
    ids = I.compress(call.ids("self").reshape(call.shape))
    varying = I.varying_axes(ids)
    if len(varying) > 1 and not coupler.follows(varying[-1]) and any(coupler.follows(axis) for axis in varying[:-1]):
        # view(n, c // 2, 2, h, w): the last axis is a literal, so the one before it loses elements, in whole rows.
        return I.compress(coupler.bind_along(ids, varying[-1]))
    return coupler.rectangle(ids)


@rule("aten.as_strided_")
def restride(coupler: Coupler, call: Call) -> Tensor:
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
    coupler.pin(ids, "read through strides", "use a view, permute or slice")
    return call.fixed()  # type: ignore[no-any-return]


@rule(
    "aten.transpose", "aten.permute", "aten.t", "aten.movedim", "aten.swapaxes", "aten.swapdims", "aten.numpy_T",
    "aten.mT", "aten.adjoint", "aten.unsqueeze", "aten.squeeze", "aten.expand", "aten.expand_as", "aten.repeat",
    "aten.tile", "aten.repeat_interleave", "aten.flip", "aten.pixel_unshuffle", "aten.alias",
    "aten.transpose_", "aten.t_", "aten.squeeze_", "aten.unsqueeze_", "aten.swapaxes_", "aten.swapdims_",
)  # fmt: skip
def rearrange(coupler: Coupler, call: Call) -> Any:
    """Elements move or repeat as wholes; a transposed matrix of parameters stays a parameter."""
    value = call["self"]
    if (
        isinstance(value, State)
        and len(value.shape) == 2
        and call.node.name in ("aten.t", "aten.transpose", "aten.numpy_T")
    ):
        return State(value.name, value.shape[::-1], not value.flipped)
    return I.compress(run(call))


@rule("aten.pixel_shuffle")
def pixel_shuffle(coupler: Coupler, call: Call) -> Tensor:
    """C·r² channels to C of r times the resolution: the r² of one output channel go together."""
    ids = run(call)
    for axis in (ids.dim() - 1, ids.dim() - 2):
        coupler.bind_along(ids, axis)
    return I.compress(I.compact(ids.narrow(-1, 0, 1).narrow(-2, 0, 1)).expand(ids.shape))


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(coupler: Coupler, call: Call) -> Tensor:
    """(groups, C/groups) read column by column: every group keeps the same share."""
    ids = call.ids("self")
    groups = call["groups"]
    coupler.rectangle(ids.reshape(ids.shape[0], groups, ids.shape[1] // groups, *ids.shape[2:]))
    return I.compress(run(call))


@rule("aten.roll")
def roll(coupler: Coupler, call: Call) -> Tensor:
    """A shift along positions; along channels its distance is hard-coded."""
    ids = call.ids("self")
    axes = [axis % ids.dim() for axis in call["dims"]] or list(range(ids.dim()))
    if set(axes) & set(I.varying_axes(ids)):
        coupler.pin(ids, HARD_CODED, HARD_CODED_REMEDY)
    return ids


@rule(
    "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_split", "aten.unsafe_chunk"
)
def split(coupler: Coupler, call: Call) -> tuple[Tensor, ...]:
    """Pieces along an axis; equal pieces of channels must stay equal in number, not in position."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    sizes = [spec.shape[axis] for spec in call.node.value]
    pieces = tuple(I.compress(piece) for piece in torch.split(ids, sizes, axis))
    varying = I.varying_axes(ids)
    if axis not in varying:
        return pieces
    graph, index = coupler.place
    coupler.pieces_of.setdefault(graph, []).append((index, axis))
    lines = [I.line(piece, axis) for piece in pieces]
    coupler.pieces.extend(line for line in lines if line is not None)
    # Where the forward's numbers are not seen, equal sizes may be one number: x.split([x.shape[1] // 4] * 4, 1).
    by_count = call.node.name != "aten.split_with_sizes" or not _sees_numbers(coupler)
    if by_count and len(set(sizes)) == 1 and len(sizes) > 1:
        coupler.bind_equal(pieces, axis)
    elif call.node.name in ("aten.chunk", "aten.tensor_split", "aten.unsafe_chunk") and len(set(sizes)) > 1:
        coupler.pin(ids, "divided into unequal pieces", "split by sizes, or divide a width that the pieces divide")
    for piece in pieces:
        coupler.rectangle(piece)
    return pieces


def _sees_numbers(coupler: Coupler) -> bool:
    """Whether the front end notes where the forward's sizes come from."""
    return coupler.graph is not None and bool(coupler.graph.uses)


@rule("aten.unbind", "aten.select")
def pick(coupler: Coupler, call: Call) -> Any:
    """One position along an axis: a row of a rectangle, or else that axis loses nothing."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    varying = I.varying_axes(ids)
    if axis in varying and len(varying) > 1 and axis != varying[-1] and _sees_numbers(coupler):
        coupler.rectangle(ids)
    elif axis in varying and len(varying) > 1:
        coupler.bind_along(ids, axis)
    elif axis in varying:
        coupler.pin(ids, HARD_CODED, HARD_CODED_REMEDY)
    return mapped_only(Tensor, I.compress, run(call))


@rule("aten.slice", "aten.narrow")
def slice_positions(coupler: Coupler, call: Call) -> Tensor:
    """Consecutive positions: along the channels each bound must stay where it is among them, or move with them."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    varying = I.varying_axes(ids)
    result = I.compress(coupler.sliced(call, ids, axis))
    if axis not in varying or call.shape == tuple(ids.shape):
        return result
    line = I.line(ids, axis)
    if line is None or call.node.name != "aten.slice" or call["step"] != 1:
        if len(varying) > 1:
            coupler.bind_along(ids, axis)
        else:
            coupler.pin(ids, HARD_CODED, HARD_CODED_REMEDY)
        return result
    extent = len(line)
    for role, given in (("start", call["start"]), ("stop", call["end"])):
        if given is not None and given % extent > 0 and abs(given) < extent:
            coupler.slice_bound(role, line, given % extent, 1 if given > 0 else -1)
    return result


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(coupler: Coupler, call: Call) -> Tensor:
    """Pieces one after the other; pieces of different channels along another axis are bound."""
    shape = call.shape
    pieces = [activation(coupler, piece) for piece in call["tensors"]]
    pieces = [piece for piece in pieces if piece.dim() == len(shape) and piece.numel()]
    if not pieces:
        return I.zeros(shape)
    axis = call["dim"] % len(shape)
    varying = {a for piece in pieces for a in I.varying_axes(piece)}
    if axis in varying and len(varying) > 1:  # such as head views of several layers: rows, or parts of rows
        still = [a for a in range(len(shape)) if a != axis and a not in varying]
        small = [ids for piece in pieces if (ids := I.drop(piece, still)) is not None]
        return coupler.rectangle(I.compress(torch.cat(small, axis).expand(shape)))
    if varying - {axis}:
        first = pieces[0].narrow(axis, 0, 1)
        for piece in pieces:
            for position in range(piece.shape[axis] if axis in I.varying_axes(piece) else 1):
                coupler.bind(
                    first, piece.narrow(axis, position, 1).expand_as(first), "concatenated with a fixed tensor"
                )
        return I.compress(first.expand(shape))
    narrowed = [I.plane(piece, [axis]) for piece in pieces]
    joined = torch.cat([ids for ids in narrowed if ids is not None])
    return I.compress(I.along(joined, axis, shape))


@rule("aten.stack")
def stack(coupler: Coupler, call: Call) -> Tensor:
    """A new axis; the stacked tensors lose the same channels."""
    shape = call.shape
    axis = call["dim"] % len(shape)
    pieces = [activation(coupler, piece) for piece in call["tensors"]]
    for piece in pieces[1:]:
        coupler.bind(pieces[0], piece, "stacked with a fixed tensor")
    return I.compress(pieces[0].unsqueeze(axis).expand(shape))


@rule("getitem")
def getitem(coupler: Coupler, call: Call) -> Any:
    """One of several outputs."""
    return call["self"][call["index"]]


@rule("aten.im2col")
def im2col(coupler: Coupler, call: Call) -> Tensor:
    """(N, C, H, W) to (N, C·kH·kW, L): each channel becomes kH·kW consecutive rows."""
    ids = I.line(call.ids("self"), -3)
    if ids is None:
        coupler.pin(call.ids("self"), "channels vary along space")
        return I.zeros(call.shape)
    kernel: Sequence[int] = call["kernel_size"]
    return I.along(ids.repeat_interleave(kernel[0] * kernel[1]), len(call.shape) - 2, call.shape)


@rule("aten.col2im")
def col2im(coupler: Coupler, call: Call) -> Tensor:
    """(N, C·kH·kW, L) to (N, C, H, W): the kH·kW rows of a channel are added up, so they go together."""
    ids = call.ids("self")
    rows = I.line(ids, -2)
    if rows is None:
        coupler.pin(ids, "channels vary along space")
        return I.zeros(call.shape)
    window = rows.view(-1, math.prod(call["kernel_size"]))
    coupler.bind_along(window, 1)
    return I.along(window[:, 0], len(call.shape) - 3, call.shape)


@rule("aten.unfold")
def windows(coupler: Coupler, call: Call) -> Tensor:
    """Windows along an axis of positions; along the channels their size and distance are hard-coded."""
    ids = call.ids("self")
    if call["dimension"] % ids.dim() in I.varying_axes(ids):
        coupler.pin(ids, HARD_CODED, HARD_CODED_REMEDY)
        return I.zeros(call.shape)
    return I.compress(ids.unfold(call["dimension"], call["size"], call["step"]))


@rule("aten.embedding")
def embedding(coupler: Coupler, call: Call) -> Tensor:
    """Rows of a table (entries, C): its columns are channels."""
    table = call["weight"]
    if not isinstance(table, State):
        coupler.pin(call.ids("weight"), "the table of an embedding is computed, not a parameter")
        return I.zeros(call.shape)
    return I.along(coupler.slot(table, 1, None, "out"), len(call.shape) - 1, call.shape)


@rule("aten.slice_scatter", "aten.select_scatter")
def scatter_back(coupler: Coupler, call: Call) -> Tensor:
    """A write into a part of a value, as a functional op: what is written over and what is written live together."""
    ids, written = call.ids("self"), call.ids("src")
    axis = call["dim"] % ids.dim()
    if call.node.name == "aten.select_scatter":
        target = ids.select(axis, call["index"])
    else:
        target = ids[(slice(None),) * axis + (slice(call["start"], call["end"], call["step"]),)]
    if axis in I.varying_axes(ids):
        coupler.pin(ids, HARD_CODED, HARD_CODED_REMEDY)
    coupler.bind(target, written, "written over by a fixed tensor")
    return ids
