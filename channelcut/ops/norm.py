"""Normalisation: one slot for every parameter and statistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.graph import Graph, Ref
from channelcut.core.groups import Role
from channelcut.core.reasons import COMPUTED_WEIGHT_NORM, NORM_OF_FIXED, NORM_OTHER_AXIS, NORM_SEVERAL_AXES
from channelcut.core.schema import bound_arguments
from channelcut.ops import shapes
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.layers import first_axis, grouped_norm, normalized
from channelcut.ops.registry import know, op, rule


def _attach(call: Call, ids: Tensor, axis: int, states: Sequence[Any]) -> Tensor | None:
    """Give the norm's parameters the ids of the channels, which it returns; a computed one is bound to them."""
    found = call.line_of(ids, axis)
    if found is None:
        call.pin(ids, NORM_OTHER_AXIS)
    for state in states:
        if found is None:
            call.pin_value(state, NORM_OTHER_AXIS)
        elif isinstance(state, State):
            call.slot(state, 0, found, Role.NORM)
        elif isinstance(state, Tensor):
            call.bind(found, state, NORM_OF_FIXED)
    return found


def _outputs(call: Call, ids: Tensor) -> Any:
    return (ids, *call.fixed()[1:]) if call.several else ids


@rule(
    "aten.batch_norm", "aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm",
    "aten._native_batch_norm_legit_no_training", "aten._batch_norm_with_update", "aten.instance_norm",
    layers={nn.modules.batchnorm._NormBase: first_axis("num_features")},
)  # fmt: skip
def batch_norm(call: Call) -> Any:
    """Weight, bias, mean and variance of shape (C,) over axis 1; nothing mixes channels."""
    ids = call.ids("input")
    states = [call.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    line = call.one_line(ids, 1)
    ids = ids if line is None else call.along(line, 1)
    found = _attach(call, ids, 1, states)
    if not call.several:
        return I.zeros(call.shape) if found is None else ids
    if found is None:
        return call.fixed()
    # The statistics of the batch have one element a channel, or none at all.
    return (ids, *(found if s.shape == tuple(found.shape) else I.zeros(s.shape) for s in call.node.value[1:]))


know("aten.batch_norm", "aten.native_batch_norm", "aten.cudnn_batch_norm", statistics=True, stored_statistics=True)
know("aten._native_batch_norm_legit_no_training", stored_statistics=True)


@rule(
    "aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm",
    layers={nn.LayerNorm: normalized, nn.RMSNorm: normalized}, over_kept=-1,
)  # fmt: skip
def layer_norm(call: Call) -> Any:
    """Statistics over the last axes: with one axis the kept channels are normalised among themselves.

    Axes of extent 1 behind it, as in LayerNorm((64, 1, 1)), change nothing.
    """
    ids, shape = call.ids("input"), call["normalized_shape"]
    parameters = [call.get("weight"), call.get("bias")]
    if any(extent != 1 for extent in shape[1:]):
        call.pin(ids, NORM_SEVERAL_AXES)
        for state in parameters:
            call.pin_value(state, NORM_SEVERAL_AXES)
        return _outputs(call, ids)
    _attach(call, ids, -len(shape), parameters)
    return _outputs(call, ids)


know("aten.layer_norm", "aten.rms_norm", sizes="last axes")
know("aten.native_layer_norm", shape=shapes.layer_norm)


@rule("aten._weight_norm_interface", "aten._weight_norm", direction="v")
def weight_norm(call: Call) -> Any:
    """w = g v / |v|: each row of v with its length; removed inputs count for nothing in a length, as zeros do."""
    direction, length, axis = call["v"], call["g"], call.get("dim", 0)
    plain = isinstance(direction, State) and isinstance(length, State) and 0 <= axis < len(length.shape)
    if not plain:
        for state in (direction, length):
            call.pin_value(state, COMPUTED_WEIGHT_NORM)
        return call.fixed()
    rows = call.slot(direction, axis, None, Role.PARAM)  # of a transposed convolution these are its inputs
    call.slot(length, axis, rows, Role.NORM)
    if not call.several:
        return direction
    return (direction, I.along(rows, axis, call.node.value[1].shape))


@dataclass(frozen=True)
class NormalisedWeight:
    """The parameters of a weight norm, and the axis that each of its lengths belongs to."""

    direction: str
    length: str
    axis: int


def normalised_weights(graph: Graph) -> list[NormalisedWeight]:
    """The weights of a forward that are computed from a length and a direction."""
    found: dict[str, NormalisedWeight] = {}
    for node in graph.calls:
        name = op(node.name).direction
        given = bound_arguments(node.target, node.args, node.kwargs) if name else {}
        states = [given.get(key) for key in (name, "g")]
        if all(isinstance(state, Ref) and graph.nodes[state.index].kind == "state" for state in states):
            direction, length = (graph.nodes[state.index].name for state in states if isinstance(state, Ref))
            found[direction] = NormalisedWeight(direction, length, int(given.get("dim", 0)))
    return list(found.values())


@rule(
    "aten.group_norm", "aten.native_group_norm",
    layers={nn.GroupNorm: grouped_norm}, over_kept=1, sizes="groups",
)  # fmt: skip
def group_norm(call: Call) -> Any:
    """Statistics over G groups of channels: every group keeps the same share, so that the groups stay equal.

    Groups of one channel go with their channels.
    """
    ids, groups = call.ids("input"), call.get("num_groups", call.get("group"))
    found = _attach(call, ids, 1, [call.get("weight"), call.get("bias")])
    own = call.decide("every channel is a group", groups == ids.shape[1])
    if found is not None and not own and not call.decide("one group", groups == 1):
        call.bind_equal(list(call.reshaped(found, groups, -1)), 0)
    if call.several and own and found is not None:
        return (ids, *(I.along(found, 1, spec.shape) for spec in call.node.value[1:]))
    return _outputs(call, ids)
