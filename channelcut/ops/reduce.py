"""Reductions and searches: over other axes ids pass, over the channels they end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Graph, Node, Ref, Spec, refs
from channelcut.core.reasons import DECIDE_ABOUT_OTHERS, INDEXED, OVER_CHANNELS
from channelcut.ops import shapes
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.indexing import index_beside
from channelcut.ops.pointwise import several
from channelcut.ops.registry import know, rule


def _axes(call: Call, ids: Tensor) -> list[int]:
    dims = call.get("dim")
    if dims is None or dims == []:
        return list(range(ids.dim()))
    return [axis % ids.dim() for axis in ([dims] if isinstance(dims, int) else dims)]


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.var", "aten.std", "aten.norm",
    "aten.linalg_vector_norm", "aten.logsumexp", "aten.all", "aten.any", "aten.var_mean", "aten.std_mean", "aten.prod",
    "aten.aminmax", "aten.nansum", "aten.nanmean", "aten.count_nonzero", "aten.frobenius_norm",
)  # fmt: skip
def reduction(call: Call) -> Any:
    """The mean of the kept channels stands for the mean of all; any other reduction over channels pins them."""
    if isinstance(call.get("other"), (Tensor, State)):
        return several(call)
    ids = call.ids(next(iter(call.arguments)))
    axes, varying = _axes(call, ids), I.varying_axes(ids)
    shape = call.shape
    if set(axes) & set(varying):
        if call.name != "aten.mean" or set(varying) - set(axes):
            call.pin(ids, OVER_CHANNELS)
        result = I.zeros(shape)
    else:
        keeps_axes = len(shape) == ids.dim()
        for axis in sorted(axes, reverse=True):
            ids = ids.narrow(axis, 0, 1) if keeps_axes else ids.select(axis, 0)
        result = call.spread(ids)
    return (result,) * len(call.node.value) if call.several else result  # variance and mean have one shape


know("aten.mean", over_kept="channels", shape=shapes.mean)


@rule(
    "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten._safe_softmax",
)  # fmt: skip
def over_one_axis(call: Call) -> Any:
    """Ops along one axis whose result depends on every element of it: over channels they pin."""
    ids = call.ids("self")
    axes, varying = _axes(call, ids), I.varying_axes(ids)
    if set(axes) & set(varying):
        call.pin(ids, DECIDE_ABOUT_OTHERS)
        ids = I.zeros(ids.shape)
    return ids


@rule(
    "aten.index", "aten._unsafe_index", "aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl",
    "aten.masked_select", "aten.nonzero",
)  # fmt: skip
def by_index(call: Call) -> Any:
    """Elements chosen by tensors of positions: along axes without channels these pass."""
    if "indices" in call.arguments and (found := index_beside(call)) is not None:
        return found
    for value in call.arguments.values():
        if isinstance(value, Tensor):
            call.pin(value, INDEXED)
    return call.fixed()


def _always(graph: Graph, node: Node) -> bool:
    """As many results as values that meet a condition."""
    return True


def _by_mask(graph: Graph, node: Node) -> bool:
    """An index that is a mask picks as many elements as it has true ones."""
    values = [graph.nodes[ref.index].value for ref in refs(node.args[1])]
    return any(isinstance(value, Spec) and value.dtype == torch.bool for value in values)


def _by_repeats(graph: Graph, node: Node) -> bool:
    """repeat_interleave(repeats): how often each position is there is a value."""
    return len(refs(node.args)) == 1 and isinstance(node.args[0], Ref) and len(node.args) == 1


know(
    "aten.nonzero", "aten.masked_select", "aten.unique", "aten._unique", "aten._unique2", "aten.unique_dim",
    "aten.unique_consecutive", "aten.bincount", "aten.item", "aten._local_scalar_dense", "torchvision.nms",
    decides=_always,
)  # fmt: skip
know(
    "aten.index", "aten._unsafe_index", "aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl",
    decides=_by_mask,
)  # fmt: skip
know("aten.repeat_interleave", decides=_by_repeats)
