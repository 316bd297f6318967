"""Matrix products of activations: bind along the contracted axis, pass the ids of the one that survives."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import specs
from channelcut.core.groups import Role
from channelcut.core.reasons import (
    ATTENTION_MASK,
    CONTRACTED_FIXED,
    DEFAULT_SCALE,
    FIXED_HEAD,
    OUTER_PRODUCT,
    PRODUCT_AXES,
)
from channelcut.ops.call import FIXED, Call
from channelcut.ops.conv import affine, mixed_line
from channelcut.ops.host import State
from channelcut.ops.registry import rule


@rule("aten.matmul", "aten.linalg_matmul", "aten.bmm", "aten.mm", contracts=True)
def matmul(call: Call) -> Tensor:
    """(..., i, k) × (..., k, j): k is contracted, the channels of i or of j survive."""
    matrix = call.get("other", call.get("mat2"))
    if isinstance(matrix, State) and len(matrix.shape) == 2:
        return affine(call, call.ids("self"), matrix.transposed(), None)
    if isinstance(matrix, State) and len(matrix.shape) > 2:
        return _stored_product(call, call.ids("self"), matrix)
    return _product(call, call.ids("self"), call.ids("other" if "other" in call.arguments else "mat2"))


def _stored_product(call: Call, ids: Tensor, matrices: State) -> Tensor:
    """(..., i, k) × a parameter (..., k, j): one layer for every place of the leading axes, with the same channels."""
    columns = mixed_line(call, ids, -1)
    call.slot(matrices, -2, columns, Role.IN)
    rows = call.slot(matrices, -1, None, Role.OUT)
    call.account(math.prod(call.shape) * len(columns), rows, columns)
    return call.along(rows, -1)


@rule("aten.baddbmm", contracts=True)
def biased_product(call: Call) -> Tensor:
    """b + l r: the product, to which b is added element by element."""
    product = _product(call, call.ids("batch1"), call.ids("batch2"))
    return call.spread(call.bind(product, call.ids("self")))


def _product(call: Call, left: Tensor, right: Tensor) -> Tensor:
    shape = call.shape
    if left.dim() < 2 or right.dim() < 2:
        call.pin(left, PRODUCT_AXES)
        call.pin(right, PRODUCT_AXES)
        return I.zeros(shape)
    left_k, right_k = I.drop(left, [left.dim() - 2]), I.drop(right, [right.dim() - 1])
    left_i, right_j = I.drop(left, [left.dim() - 1]), I.drop(right, [right.dim() - 2])
    macs = math.prod(shape) * left.shape[-1]
    if call.decide("one line is contracted", left_k is not None and right_k is not None):
        if left_k is None or right_k is None:
            call.host.misfit(call, [left, right], ValueError("channels vary along several axes"))
        contracted = call.bind(left_k.squeeze(-2), right_k.squeeze(-1), CONTRACTED_FIXED)
        whole = _whole_heads(call, contracted)
        call.account(macs, contracted if whole else FIXED, contracted if not whole and contracted.any() else FIXED)
        return call.spread(contracted.narrow(-1, 0, 1).unsqueeze(-1)) if whole else I.zeros(shape)
    return _survivor(call, (left, left_i, left_k), (right, right_j, right_k), macs)


def _whole_heads(call: Call, *several: Tensor) -> bool:
    """Whether channels vary from head to head (any axis but the last), and all of a head is one channel."""
    varying = [(I.varying_axes(ids), ids.dim() - 1) for ids in several]
    return call.decide("whole heads", any(axes and axes[-1] != last for axes, last in varying))


Side = tuple[Tensor, "Tensor | None", "Tensor | None"]
"""The ids of an operand, along its surviving axis, and along the contracted one; None where they vary along another."""


def _survivor(call: Call, left: Side, right: Side, macs: int) -> Tensor:
    """At least one side has channels on its surviving axis; the contracted axis must then have none on either side.

    Where both sides have some, those of the left are pinned: attention's weights stand there, and values on the right.
    """
    candidates = []
    for name, (whole, surviving, contracted) in (("left", left), ("right", right)):
        if contracted is not None and not bool(I.compact(contracted).any()):
            continue
        # In a check, all of a head may have become one channel since.
        if call.decide(f"{name} survives", contracted is None and surviving is not None) and surviving is not None:
            candidates.append(surviving)
        else:
            call.pin(whole, PRODUCT_AXES)
    if not candidates:
        return I.zeros(call.shape)
    if len(candidates) > 1:  # one line of ids cannot name pairs; by counts a cut network would choose otherwise
        call.pin(candidates.pop(0), OUTER_PRODUCT)
    call.account(macs, candidates[0], FIXED)
    return call.spread(candidates[0])


@rule(
    "aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_attention_math", contracts=True,
)  # fmt: skip
def attention(call: Call) -> Any:
    """softmax(q kᵀ · scale) v: query and key channels are bound, value channels pass; whole heads go from all.

    The default scale 1/√d follows the width, so key channels are pinned where no scale is given. A mask is added to the
    products of queries and keys, which have no channels. Query heads may share the heads of keys and values.
    """
    for name in ("attn_mask", "attn_bias"):
        if isinstance(mask := call.get(name), (Tensor, State)):
            call.pin(call.activation(mask), ATTENTION_MASK)
    query, key, value = call.ids("query"), call.ids("key"), call.ids("value")
    shape = specs(call.node.value)[0].shape
    # Grouped queries: each head of keys and values serves several heads of queries (enable_gqa).
    if query.dim() > 3 and 0 < key.shape[-3] < query.shape[-3]:
        key, value = (ids.repeat_interleave(query.shape[-3] // ids.shape[-3], -3) for ids in (key, value))
    parts = [I.drop(ids, [ids.dim() - 2]) for ids in (query, key, value)]
    if any(part is None for part in parts):
        for ids in (query, key, value):
            call.pin(ids, PRODUCT_AXES)
        result = I.zeros(shape)
    else:
        result = _attended(call, [part for part in parts if part is not None], shape)
    return (result, *call.fixed()[1:]) if call.several else result


def _attended(call: Call, parts: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The ids of the result, from those of query, key and value, each (..., 1, width)."""
    q, k, v = parts
    bound = call.bind(q, k, CONTRACTED_FIXED)
    if _whole_heads(call, bound, v):
        values, products = (call.bind_along(ids, ids.dim() - 1).narrow(-1, 0, 1) for ids in (v, bound))
        bound = v = call.bind(values, products, FIXED_HEAD)
    elif call.get("scale") is None:
        call.pin(bound, DEFAULT_SCALE)
    tokens = call.ids("key").shape[-2]
    call.account(math.prod(call.ids("query").shape) * tokens, FIXED, bound if bool(bound.any()) else FIXED)
    call.account(math.prod(shape) * tokens, v if bool(v.any()) else FIXED, FIXED)
    return call.spread(v, shape)
