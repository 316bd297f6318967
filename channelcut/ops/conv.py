"""Convolutions and linear layers: the input's ids end in a slot, fresh ids begin."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.groups import Role
from channelcut.core.reasons import (
    COMPUTED_WEIGHT,
    CONTRACTED_FIXED,
    FIXED_TENSOR,
    GROUPED_FIXED,
    MIXES_OTHER_AXIS,
)
from channelcut.ops import layers, shapes
from channelcut.ops.call import FIXED, Call
from channelcut.ops.host import State
from channelcut.ops.registry import know, rule

_WHOLE = (Role.GROUP, Role.DEPTHWISE)


@rule(
    "aten.conv1d", "aten.conv2d", "aten.conv3d",
    layers={nn.modules.conv._ConvNd: layers.convolution}, sizes="groups", convolves="forward",
)  # fmt: skip
def convolution(call: Call) -> Tensor:
    """Weight (O, I/groups, k...)."""
    return convolve(call, call["groups"], transposed=False)


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d", sizes="groups", convolves="transposed")
def transposed_convolution(call: Call) -> Tensor:
    """Weight (I, O/groups, k...)."""
    return convolve(call, call["groups"], transposed=True)


@rule("aten.convolution", "aten._convolution", convolves="either")
def any_convolution(call: Call) -> Tensor:
    """What the dispatcher makes of all of them."""
    return convolve(call, call["groups"], transposed=call["transposed"])


know("aten.convolution", shape=shapes.convolution)


def convolve(call: Call, groups: int, *, transposed: bool) -> Tensor:
    """A convolution of whatever name, with `input`, `weight` and `bias`."""
    ids = call.ids("input")
    weight, bias, shape = call["weight"], call["bias"], call.shape
    axis = ids.dim() - (len(weight.shape) - 2) - 1  # 1, or 0 for an input without a batch
    macs = math.prod(ids.shape if transposed else shape) * math.prod(weight.shape[1:])
    if not isinstance(weight, State):
        return _computed(call, ids, weight, bias, axis, macs)
    columns = mixed_line(call, ids, axis)
    rows = _rows(call, weight, columns, groups, transposed)
    # Where whole groups go, a group's inputs go with its outputs, and are counted by these alone.
    dense = groups == 1 or (not call.host.whole_groups(weight) and groups < len(columns))
    call.account(macs, rows, columns if dense else FIXED)
    _shift(call, bias, rows)
    return call.along(rows, axis)


def mixed_line(call: Call, ids: Tensor, axis: int, name: str = "") -> Tensor:
    """The ids along the axis that a layer mixes; where they vary along others, what is there stays, and is read whole.

    Where they vary along this one too, as after a view of (N, C·h·w) as (N, C, h, w), all of a channel goes together.
    """
    found = call.one_line(ids, axis, name)
    if found is None:
        call.pin(ids, MIXES_OTHER_AXIS)
        return I.zeros((ids.shape[axis],))
    return found


def _computed(call: Call, ids: Tensor, weight: object, bias: object, axis: int, macs: float) -> Tensor:
    """A weight that is computed of activations, or in a way that is not followed: both sides of the layer stay."""
    call.pin(ids, COMPUTED_WEIGHT)
    call.pin_value(weight, COMPUTED_WEIGHT)
    call.pin_value(bias, COMPUTED_WEIGHT)
    rows = call.mint(call.shape[axis])  # so that the pin is seen where the channels are
    call.pin(rows, COMPUTED_WEIGHT)
    call.account(macs, FIXED, FIXED)
    return call.along(rows, axis)


def _shift(call: Call, bias: object, rows: Tensor) -> None:
    """A bias has one number for each output, whether it is stored or computed."""
    if isinstance(bias, State):
        call.slot(bias, 0, rows, Role.BIAS)
    elif isinstance(bias, Tensor):
        call.bind(rows, bias, FIXED_TENSOR)


def _rows(call: Call, weight: State, columns: Tensor, groups: int, transposed: bool) -> Tensor:
    """Record the weight's slots and return the ids of the output channels."""
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    known = call.host.slot_of(weight, 0)
    role = known[1] if known is not None else None  # a check may be down to one group, which is a group all the same
    if groups == 1 and role not in _WHOLE:
        call.slot(weight, in_axis, columns, Role.IN)
        return call.slot(weight, out_axis, None, Role.OUT)
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    if role is Role.DEPTHWISE or (groups == len(columns) and role is not Role.GROUP):
        rows = columns.repeat_interleave(outputs // groups)
        call.slot(weight, 0, columns if transposed else rows, Role.DEPTHWISE)
        return rows
    return _grouped_rows(call, weight, columns, groups, transposed)


def _grouped_rows(call: Call, weight: State, columns: Tensor, groups: int, transposed: bool) -> Tensor:
    """Whole groups go, where all inputs and outputs of a group are one channel; or as many channels of every group."""
    if not call.host.whole_groups(weight):
        return _offset_rows(call, weight, columns, groups, transposed)
    known = None if transposed else call.host.slot_of(weight, 0)
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    rows = call.mint(outputs) if known is None else known[0]
    members = torch.cat([call.reshaped(columns, groups, -1), call.reshaped(rows, groups, -1)], 1)
    call.bind(members[:, :1], members[:, 1:].contiguous(), GROUPED_FIXED)
    if bool((columns == 0).any()):
        call.pin(members[(members == 0).any(1)], GROUPED_FIXED)
    call.slot(weight, 0, columns if transposed else rows, Role.GROUP)
    return rows


def _offset_rows(call: Call, weight: State, columns: Tensor, groups: int, transposed: bool) -> Tensor:
    """Every group keeps the same offsets of its inputs, and the same share of its outputs, and the groups stay."""
    inputs = call.reshaped(columns, groups, -1)
    for row in inputs[1:]:
        call.bind(inputs[0], row, GROUPED_FIXED)
    if transposed:  # (I, O/groups): the offsets of the outputs are shared by the groups
        call.slot(weight, 0, columns, Role.IN)
        return call.slot(weight, 1, None, Role.OUT).repeat(groups)
    call.slot(weight, 1, inputs[0], Role.IN)
    rows = call.slot(weight, 0, None, Role.OUT)
    call.bind_equal(list(call.reshaped(rows, groups, -1)), 0)
    return rows


@rule(
    "aten.linear",
    layers={nn.Linear: layers.repeats({"out_features": ("weight", 0), "in_features": ("weight", 1)})},
)
def linear(call: Call) -> Tensor:
    """y = x Wᵀ + b with W (O, I), or x w + b with w (I)."""
    weight = call["weight"]
    if len(weight.shape) == 1:
        return _weighed_sum(call, call.ids("input"), weight)
    return affine(call, call.ids("input"), weight, call["bias"])


@rule("aten.mv", contracts=True)
def times_vector(call: Call) -> Tensor:
    """(i, k) × (k): k is contracted."""
    return _weighed_sum(call, call.ids("self"), call["vec"])


@rule("aten.dot", "aten.vdot", contracts=True)
def dot(call: Call) -> Tensor:
    """(k) × (k): k is contracted."""
    return _weighed_sum(call, call.ids("self"), call.get("tensor", call.get("other")))


def _weighed_sum(call: Call, ids: Tensor, vector: State | Tensor) -> Tensor:
    """The last axis is contracted with a vector; of a parameter the elements of what is removed go as well."""
    columns, rows = call.line_of(ids, -1), I.drop(ids, [ids.dim() - 1])
    if columns is None:
        call.pin_value(vector, MIXES_OTHER_AXIS)
    elif isinstance(vector, State):
        call.slot(vector, 0, columns, Role.IN)
    else:
        columns = call.bind(columns, vector, CONTRACTED_FIXED)
    call.account(math.prod(ids.shape), FIXED, FIXED if columns is None else columns)
    if columns is None and rows is None:
        call.pin(ids, MIXES_OTHER_AXIS)
    if columns is None and rows is not None:
        return call.spread(rows.squeeze(-1))
    return I.zeros(call.shape)


@rule("aten.addmm", contracts=True, shape=shapes.addmm)
def addmm(call: Call) -> Tensor:
    """b + x M, which is what the dispatcher makes of a linear layer: M is the transposed weight."""
    matrix = call["mat2"]
    if isinstance(matrix, State):
        matrix = matrix.transposed()
    return affine(call, call.ids("mat1"), matrix, call["self"])


def affine(call: Call, ids: Tensor, weight: object, bias: object) -> Tensor:
    """Slots of a matrix `weight` (O, I) that maps the last axis."""
    if not isinstance(weight, State):
        return _computed(call, ids, weight, bias, len(call.shape) - 1, math.prod(call.shape) * ids.shape[-1])
    columns = mixed_line(call, ids, -1)
    call.slot(weight, 1, columns, Role.IN)
    rows = call.slot(weight, 0, None, Role.OUT)
    call.account(math.prod(call.shape) * len(columns), rows, columns)
    _shift(call, bias, rows)
    return call.along(rows, -1)
