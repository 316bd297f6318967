"""Convolutions and linear layers: the input's ids end in a slot, fresh ids begin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from channelcut.coupling.collect import FIXED, Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.registry import Call, rule

DYNAMIC_WEIGHT = "the weight is computed, not a parameter"
IRREGULAR = "channels vary along another axis than the layer mixes"


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(coupler: Coupler, call: Call) -> Tensor:
    """Weight (O, I/groups, k...)."""
    return _convolve(coupler, call, call["groups"], transposed=False)


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(coupler: Coupler, call: Call) -> Tensor:
    """Weight (I, O/groups, k...)."""
    return _convolve(coupler, call, call["groups"], transposed=True)


@rule("aten.convolution", "aten._convolution")
def any_convolution(coupler: Coupler, call: Call) -> Tensor:
    """What the dispatcher makes of all of them."""
    return _convolve(coupler, call, call["groups"], transposed=call["transposed"])


def _convolve(coupler: Coupler, call: Call, groups: int, *, transposed: bool) -> Tensor:
    ids = call.ids("input")
    weight, bias, shape = call["weight"], call["bias"], call.shape
    axis = ids.dim() - (len(weight.shape) - 2) - 1
    columns = I.line(ids, axis)
    macs = math.prod(ids.shape if transposed else shape) * math.prod(weight.shape[1:])
    if columns is None or not isinstance(weight, State):
        coupler.pin(ids, IRREGULAR if columns is None else DYNAMIC_WEIGHT)
        if isinstance(weight, State):
            coupler.fix(weight)
        else:
            coupler.pin(weight, DYNAMIC_WEIGHT)
        if isinstance(bias, State):
            coupler.fix(bias)
        coupler.account(macs, FIXED, FIXED)
        return I.zeros(shape)
    rows = _rows(coupler, weight, columns, groups, transposed)
    dense = groups == 1 or (coupler.policy == "offsets" and groups < len(columns))
    coupler.account(macs, rows, columns if dense else FIXED)
    if isinstance(bias, State):
        coupler.slot(bias, 0, rows, "bias")
    return I.along(rows, axis, shape)


def _rows(coupler: Coupler, weight: State, columns: Tensor, groups: int, transposed: bool) -> Tensor:
    """Record the weight's slots and return the ids of the output channels."""
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    role = coupler.role(weight)  # a replay may be down to one group, which is a group all the same
    if groups == 1 and role not in ("group", "depthwise"):
        coupler.slot(weight, in_axis, columns, "in")
        return coupler.slot(weight, out_axis, None, "out")
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    if role == "depthwise" or (groups == len(columns) and role != "group"):
        rows = columns.repeat_interleave(outputs // groups)
        coupler.slot(weight, 0, columns if transposed else rows, "depthwise")
        return rows
    return _grouped_rows(coupler, weight, columns, groups, transposed)


def _grouped_rows(coupler: Coupler, weight: State, columns: Tensor, groups: int, transposed: bool) -> Tensor:
    """Whole groups go, where all inputs and outputs of a group are one channel; or as many channels of every group."""
    if coupler.policy == "offsets":
        return _offset_rows(coupler, weight, columns, groups, transposed)
    stored = (weight.name, 0)
    if stored in coupler.slots and not transposed:
        rows = coupler.slots[stored].ids.to(torch.int32)
    else:
        rows = coupler.mint(weight.shape[1] * groups if transposed else weight.shape[0])
    members = torch.cat([columns.view(groups, -1), rows.view(groups, -1)], 1)
    coupler.bind(members[:, :1], members[:, 1:].contiguous(), "a grouped convolution of a fixed tensor")
    if bool((columns == 0).any()):
        coupler.pin(members[(members == 0).any(1)], "a grouped convolution of a fixed tensor")
    coupler.slot(weight, 0, columns if transposed else rows, "group")
    return rows


def _offset_rows(coupler: Coupler, weight: State, columns: Tensor, groups: int, transposed: bool) -> Tensor:
    """Every group keeps the same offsets of its inputs, and the same share of its outputs, and the groups stay."""
    inputs = columns.view(groups, -1)
    for row in inputs[1:]:
        coupler.bind(inputs[0], row, "a grouped convolution of a fixed tensor")
    if transposed:  # (I, O/groups): the offsets of the outputs are shared by the groups
        coupler.slot(weight, 0, columns, "in")
        return coupler.slot(weight, 1, None, "out").repeat(groups)
    coupler.slot(weight, 1, inputs[0], "in")
    rows = coupler.slot(weight, 0, None, "out")
    coupler.bind_equal(list(rows.view(groups, -1)), 0)
    return rows


@rule("aten.linear")
def linear(coupler: Coupler, call: Call) -> Tensor:
    """y = x Wᵀ + b with W (O, I), or x w + b with w (I)."""
    weight = call["weight"]
    if len(weight.shape) == 1:
        return _weighed_sum(coupler, call, call.ids("input"), weight)
    return affine(coupler, call, call.ids("input"), weight, call["bias"])


@rule("aten.mv")
def times_vector(coupler: Coupler, call: Call) -> Tensor:
    """(i, k) × (k): k is contracted."""
    return _weighed_sum(coupler, call, call.ids("self"), call["vec"])


@rule("aten.dot")
def dot(coupler: Coupler, call: Call) -> Tensor:
    """(k) × (k): k is contracted."""
    return _weighed_sum(coupler, call, call.ids("self"), call["tensor"])


def _weighed_sum(coupler: Coupler, call: Call, ids: Tensor, vector: State | Tensor) -> Tensor:
    """The last axis is contracted with a vector; of a parameter the elements of what is removed go as well."""
    columns, rows = I.line(ids, -1), I.drop(ids, [ids.dim() - 1])
    if isinstance(vector, State):
        if columns is not None:
            coupler.slot(vector, 0, columns, "in")
        else:
            coupler.fix(vector)
    elif columns is not None:
        columns = coupler.bind(columns, vector, "contracted with a fixed tensor")
    else:
        coupler.pin(vector, IRREGULAR)
    coupler.account(math.prod(ids.shape), FIXED, FIXED if columns is None else columns)
    if columns is None and rows is None:
        coupler.pin(ids, IRREGULAR)
    if columns is None and rows is not None:
        return I.compress(rows.squeeze(-1).expand(call.shape))
    return I.zeros(call.shape)


@rule("aten.addmm")
def addmm(coupler: Coupler, call: Call) -> Tensor:
    """b + x M, which is what the dispatcher makes of a linear layer: M is the transposed weight."""
    matrix = call["mat2"]
    if isinstance(matrix, State):
        matrix = State(matrix.name, matrix.shape[::-1], not matrix.flipped)
    return affine(coupler, call, call.ids("mat1"), matrix, call["self"])


def affine(coupler: Coupler, call: Call, ids: Tensor, weight: object, bias: object) -> Tensor:
    """Slots of a matrix `weight` (O, I) that maps the last axis."""
    columns = I.line(ids, -1)
    if columns is None or not isinstance(weight, State):
        coupler.pin(ids, IRREGULAR if columns is None else DYNAMIC_WEIGHT)
        for state in (weight, bias):
            if isinstance(state, State):
                coupler.fix(state)
            elif isinstance(state, Tensor):
                coupler.pin(state, DYNAMIC_WEIGHT)
        coupler.account(math.prod(call.shape) * ids.shape[-1], FIXED, FIXED)
        return I.zeros(call.shape)
    coupler.slot(weight, 1, columns, "in")
    rows = coupler.slot(weight, 0, None, "out")
    coupler.account(math.prod(call.shape) * len(columns), rows, columns)
    if isinstance(bias, State):
        coupler.slot(bias, 0, rows, "bias")
    return I.along(rows, len(call.shape) - 1, call.shape)
