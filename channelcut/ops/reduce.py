"""Reductions and searches: over other axes ids pass, over the channels they end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from channelcut.core.graph import specs
from channelcut.coupling.collect import Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.pointwise import several
from channelcut.ops.registry import Call, rule

OVER_CHANNELS = "reduced over the channels"


def _axes(call: Call, ids: Tensor) -> list[int]:
    dims = call.get("dim")
    if dims is None or dims == []:
        return list(range(ids.dim()))
    return [axis % ids.dim() for axis in ([dims] if isinstance(dims, int) else dims)]


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.var", "aten.std", "aten.norm",
    "aten.linalg_vector_norm", "aten.logsumexp", "aten.all", "aten.any", "aten.var_mean", "aten.prod",
)  # fmt: skip
def reduction(coupler: Coupler, call: Call) -> Any:
    """The mean of the kept channels stands for the mean of all; any other reduction over channels pins them."""
    if isinstance(call.get("other"), (Tensor, State)):
        return several(coupler, call)
    ids = call.ids(next(iter(call.arguments)))
    axes, varying = _axes(call, ids), I.varying_axes(ids)
    shape = call.shape
    if set(axes) & set(varying):
        if call.node.name != "aten.mean" or set(varying) - set(axes):
            coupler.pin(ids, OVER_CHANNELS)
        result = I.zeros(shape)
    else:
        keeps_axes = len(shape) == ids.dim()
        for axis in sorted(axes, reverse=True):
            ids = ids.narrow(axis, 0, 1) if keeps_axes else ids.select(axis, 0)
        result = ids.expand(shape)
    if not isinstance(call.node.value, (list, tuple)):
        return result
    return (result,) * len(call.node.value)  # values and indices, variance and mean: all of one shape


@rule(
    "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten.cumsum", "aten.sort", "aten.topk",
    "aten.argmax", "aten.argmin", "aten.gather", "aten.index_select",
)  # fmt: skip
def over_one_axis(coupler: Coupler, call: Call) -> Any:
    """Ops along one axis whose result depends on every element of it: over channels they pin."""
    ids = call.ids("self")
    axes, varying = _axes(call, ids), I.varying_axes(ids)
    if set(axes) & set(varying) or call.node.name in ("aten.gather", "aten.index_select"):
        coupler.pin(ids, "every channel decides about the others")
        ids = I.zeros(ids.shape)
    outputs = [
        ids if spec.shape == tuple(ids.shape) else _shrunk(coupler, ids, spec.shape) for spec in specs(call.node.value)
    ]
    return outputs[0] if len(outputs) == 1 and not isinstance(call.node.value, (list, tuple)) else tuple(outputs)


def _shrunk(coupler: Coupler, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Ids of an output whose reduced axis is shorter or gone."""
    if I.varying_axes(ids):
        coupler.pin(ids, "searched beside the channels")
    return I.zeros(shape)


@rule("aten.index", "aten.scatter", "aten.index_put", "aten.masked_select", "aten.nonzero")
def by_index(coupler: Coupler, call: Call) -> Any:
    """Elements chosen by tensors of positions."""
    for value in call.arguments.values():
        if isinstance(value, Tensor):
            coupler.pin(value, "indexed by a tensor")
    return call.fixed()
