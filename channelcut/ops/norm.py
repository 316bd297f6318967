"""Normalisation: one slot for every parameter and statistic."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from channelcut.coupling.collect import Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.registry import Call, rule

IRREGULAR = "channels vary along another axis than the norm's"
COMPUTED = "scales a norm of a fixed tensor"


def _attach(coupler: Coupler, ids: Tensor, axis: int, states: list[Any]) -> bool:
    """Give the norm's parameters the ids of the channels; a computed one is bound to them, element by element."""
    found = I.line(ids, axis)
    if found is None:
        coupler.pin(ids, IRREGULAR)
    for state in states:
        if isinstance(state, State):
            if found is None:
                coupler.fix(state)
            else:
                coupler.slot(state, 0, found, "norm")
        elif isinstance(state, Tensor):
            if found is None:
                coupler.pin(state, IRREGULAR)
            else:
                coupler.bind(found, state, COMPUTED)
    return found is not None


def _outputs(call: Call, ids: Tensor) -> Any:
    return (ids, *call.fixed()[1:]) if isinstance(call.node.value, (list, tuple)) else ids


@rule(
    "aten.batch_norm", "aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm",
    "aten._native_batch_norm_legit_no_training", "aten._batch_norm_with_update", "aten.instance_norm",
)  # fmt: skip
def batch_norm(coupler: Coupler, call: Call) -> Any:
    """Weight, bias, mean and variance of shape (C,) over axis 1; nothing mixes channels."""
    ids = call.ids("input")
    states = [call.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    found = I.line(ids, 1) if _attach(coupler, ids, 1, states) else None
    if not isinstance(call.node.value, (list, tuple)):
        return I.zeros(call.shape) if found is None else ids
    if found is None:
        return call.fixed()
    # The statistics of the batch have one element a channel, or none at all.
    return (ids, *(found if s.shape == tuple(found.shape) else I.zeros(s.shape) for s in call.node.value[1:]))


@rule("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm")
def layer_norm(coupler: Coupler, call: Call) -> Any:
    """Statistics over the last axes: with one axis the kept channels are normalised among themselves."""
    ids = call.ids("input")
    if len(call["normalized_shape"]) != 1:
        coupler.pin(ids, "a layer norm over several axes", "normalise over the channel axis alone")
        for state in (call.get("weight"), call.get("bias")):
            if isinstance(state, State):
                coupler.fix(state)
            elif isinstance(state, Tensor):
                coupler.pin(state, "a layer norm over several axes")
        return _outputs(call, ids)
    _attach(coupler, ids, -1, [call.get("weight"), call.get("bias")])
    return _outputs(call, ids)


@rule("aten._weight_norm_interface", "aten._weight_norm")
def weight_norm(coupler: Coupler, call: Call) -> Any:
    """w = g v / |v|: each row of v with its length; removed inputs count for nothing in a length, as zeros do."""
    direction, length, axis = call["v"], call["g"], call.get("dim", 0)
    plain = isinstance(direction, State) and isinstance(length, State) and 0 <= axis < len(length.shape)
    if not plain:
        for state in (direction, length):
            if isinstance(state, State):
                coupler.fix(state)
            elif isinstance(state, Tensor):
                coupler.pin(state, "a weight norm of a computed weight")
        return call.fixed()
    rows = coupler.slot(direction, axis, None, "out")
    coupler.slot(length, axis, rows, "norm")
    if not isinstance(call.node.value, (list, tuple)):
        return direction
    return (direction, I.along(rows, axis, call.node.value[1].shape))


@rule("aten.group_norm", "aten.native_group_norm")
def group_norm(coupler: Coupler, call: Call) -> Any:
    """Statistics over G groups of channels: every group keeps the same share, so that the groups stay equal."""
    ids, groups = call.ids("input"), call.get("num_groups", call.get("group"))
    if _attach(coupler, ids, 1, [call.get("weight"), call.get("bias")]) and groups > 1:
        found = I.line(ids, 1)
        if found is not None:
            coupler.bind_equal(list(found.view(groups, -1)), 0)
    return _outputs(call, ids)
