"""Reductions and searches: over other axes ids pass, over the channels they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Graph, Node, Ref, Spec, refs
from channelcut.core.reasons import DECIDE_ABOUT_OTHERS, INDEXED, OVER_CHANNELS
from channelcut.ops import shapes
from channelcut.ops.along import axes_of, ends, joined_along
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.indexing import index_beside, masked_write
from channelcut.ops.pointwise import several
from channelcut.ops.registry import know, op, rule

_VARIANCES = ("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.var", "aten.std", "aten.norm",
    "aten.linalg_vector_norm", "aten.logsumexp", "aten.all", "aten.any", "aten.var_mean", "aten.std_mean", "aten.prod",
    "aten.aminmax", "aten.nansum", "aten.nanmean", "aten.count_nonzero", "aten.frobenius_norm",
    "aten.special_logsumexp",
)  # fmt: skip
def reduction(call: Call) -> Any:
    """Over channels, a sum, mean, variance, length or maximum is of the kept ones; any other reduction pins them."""
    if isinstance(call.get("other"), (Tensor, State)):
        return several(call)
    ids = call.ids(next(iter(call.arguments)))
    axes = axes_of(call.get("dim"), ids.dim())
    shape = call.shape
    if ends(call, ids, axes):
        if not _of_kept(call, ids) or _positions_are_read(call):
            call.pin(ids, OVER_CHANNELS)
        result = I.zeros(shape)
    else:
        ids = joined_along(call, ids, axes)
        keeps_axes = len(shape) == ids.dim()
        for axis in sorted(axes, reverse=True):
            ids = ids.narrow(axis, 0, 1) if keeps_axes else ids.select(axis, 0)
        result = call.spread(ids)
    return (result,) * len(call.node.value) if call.several else result  # variance and mean have one shape


def _positions_are_read(call: Call) -> bool:
    """Whether the second output of a maximum, the position along the axis, goes anywhere."""
    nodes = call.graph.nodes
    reads = (node for node in nodes if node.name == "getitem" and refs(node.args)[0].index == call.node.index)
    return call.name in ("aten.max", "aten.min") and any(node.args[1] == 1 and _is_read(nodes, node) for node in reads)


def _is_read(nodes: Sequence[Node], node: Node) -> bool:
    return any(ref.index == node.index for other in nodes[node.index + 1 :] for ref in other.inputs)


def _of_kept(call: Call, ids: Tensor) -> bool:
    """Whether a reduction of the kept channels stands for that of all: a mean or variance, a maximum, a sum of a term
    for each.
    """
    if op(call.name).over_kept is None:
        return False
    if call.name in _VARIANCES:  # of which nothing is said where several axes are left of a rectangle
        corrected = call.get("unbiased", call.get("correction", 1) != 0)  # of one channel it would be 0 / 0
        return len(I.varying_axes(ids)) == 1 and not corrected
    order = call.get("ord", call.get("p", 2))
    return order is None or (isinstance(order, (int, float)) and order >= 0)


know("aten.mean", over_kept="channels", shape=shapes.mean)
know("aten.sum", "aten.linalg_vector_norm", "aten.norm", over_kept="channels")
know("aten.amax", "aten.amin", "aten.max", "aten.min", over_kept="channels")
know(*_VARIANCES, over_kept="channels")


@rule(
    "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten._safe_softmax",
    "aten.special_softmax", "aten.special_log_softmax",
)  # fmt: skip
def over_one_axis(call: Call) -> Any:
    """Ops along one axis whose result depends on every element of it: over channels they pin."""
    ids = call.ids("self")
    axes = axes_of(call.get("dim"), ids.dim())
    if ends(call, ids, axes):
        call.pin(ids, DECIDE_ABOUT_OTHERS)
        return I.zeros(ids.shape)
    return joined_along(call, ids, axes)


@rule(
    "aten.index", "aten._unsafe_index", "aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl",
    "aten.masked_select", "aten.nonzero",
)  # fmt: skip
def by_index(call: Call) -> Any:
    """Elements chosen by tensors of positions: along axes without channels these pass."""
    if "indices" in call.arguments:
        found = index_beside(call)
        if found is None and "values" in call.arguments:
            found = masked_write(call)
        if found is not None:
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
know("aten.index", "aten._unsafe_index", decides=_by_mask)  # a masked write has the shape of what is written into
know("aten.repeat_interleave", decides=_by_repeats)
