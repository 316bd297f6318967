"""Matrix products of activations: bind along the contracted axis, pass the ids of the one that survives."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from channelcut.core.graph import specs
from channelcut.coupling.collect import FIXED, Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.conv import affine
from channelcut.ops.registry import Call, activation, rule

IRREGULAR = "channels vary along several axes of a matrix product"


@rule("aten.matmul", "aten.bmm", "aten.mm")
def matmul(coupler: Coupler, call: Call) -> Tensor:
    """(..., i, k) × (..., k, j): k is contracted, the channels of i or of j survive."""
    matrix = call.get("other", call.get("mat2"))
    if isinstance(matrix, State) and len(matrix.shape) == 2:
        flipped = State(matrix.name, matrix.shape[::-1], not matrix.flipped)
        return affine(coupler, call, call.ids("self"), flipped, None)
    return _product(coupler, call.ids("self"), call.ids("other" if "other" in call.arguments else "mat2"), call.shape)


@rule("aten.baddbmm")
def biased_product(coupler: Coupler, call: Call) -> Tensor:
    """b + l r: the product, to which b is added element by element."""
    product = _product(coupler, call.ids("batch1"), call.ids("batch2"), call.shape)
    return I.compress(coupler.bind(product, call.ids("self"), "combined with a fixed tensor").expand(call.shape))


def _product(coupler: Coupler, left: Tensor, right: Tensor, shape: tuple[int, ...]) -> Tensor:
    if left.dim() < 2 or right.dim() < 2:
        coupler.pin(left, IRREGULAR)
        coupler.pin(right, IRREGULAR)
        return I.zeros(shape)
    left_k, right_k = I.drop(left, [left.dim() - 2]), I.drop(right, [right.dim() - 1])
    left_i, right_j = I.drop(left, [left.dim() - 1]), I.drop(right, [right.dim() - 2])
    macs = math.prod(shape) * left.shape[-1]
    if left_k is not None and right_k is not None:
        contracted = coupler.bind(left_k.squeeze(-2), right_k.squeeze(-1), "contracted with a fixed tensor")
        whole = _whole_heads(coupler, contracted)
        coupler.account(macs, contracted if whole else FIXED, contracted if not whole and contracted.any() else FIXED)
        return I.compress(contracted.narrow(-1, 0, 1).unsqueeze(-1).expand(shape)) if whole else I.zeros(shape)
    return _survivor(coupler, (left, left_i, left_k), (right, right_j, right_k), shape, macs)


def _whole_heads(coupler: Coupler, *several: Tensor) -> bool:
    """Whether channels vary from head to head (any axis but the last), and all of a head is one channel."""
    varying = [(I.varying_axes(ids), ids.dim() - 1) for ids in several]
    return coupler.decide("whole heads", any(axes and axes[-1] != last for axes, last in varying))


def _survivor(
    coupler: Coupler,
    left: tuple[Tensor, Tensor | None, Tensor | None],
    right: tuple[Tensor, Tensor | None, Tensor | None],
    shape: tuple[int, ...],
    macs: int,
) -> Tensor:
    """At least one side has channels on its surviving axis; the contracted axis must then have none on either side."""
    candidates = []
    for whole, surviving, contracted in (left, right):
        if contracted is not None and not bool(I.compact(contracted).any()):
            continue
        if contracted is None and surviving is not None:
            candidates.append(surviving)
        else:
            coupler.pin(whole, IRREGULAR)
    if len(candidates) != 1:
        for surviving in candidates:
            coupler.pin(surviving, "the outer product of two sets of channels")
        return I.zeros(shape)
    coupler.account(macs, candidates[0], FIXED)
    return candidates[0].expand(shape)


@rule(
    "aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_attention_math",
)  # fmt: skip
def attention(coupler: Coupler, call: Call) -> Any:
    """softmax(q kᵀ · scale) v: query and key channels are bound, value channels pass; whole heads go from all.

    The default scale 1/√d follows the width, so key channels are pinned where no scale is given. A mask is added to the
    products of queries and keys, which have no channels. Query heads may share the heads of keys and values.
    """
    for name in ("attn_mask", "attn_bias"):
        if isinstance(mask := call.get(name), (Tensor, State)):
            coupler.pin(activation(coupler, mask), "the mask of an attention")
    query, key, value = call.ids("query"), call.ids("key"), call.ids("value")
    shape = specs(call.node.value)[0].shape
    if query.dim() > 3 and 0 < key.shape[-3] < query.shape[-3]:
        key, value = (ids.repeat_interleave(query.shape[-3] // ids.shape[-3], -3) for ids in (key, value))
    parts = [I.drop(ids, [ids.dim() - 2]) for ids in (query, key, value)]
    if any(part is None for part in parts):
        for ids in (query, key, value):
            coupler.pin(ids, IRREGULAR)
        result = I.zeros(shape)
    else:
        result = _attended(coupler, call, [part for part in parts if part is not None], shape)
    return (result, *call.fixed()[1:]) if isinstance(call.node.value, (list, tuple)) else result


def _attended(coupler: Coupler, call: Call, parts: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The ids of the result, from those of query, key and value, each (..., 1, width)."""
    q, k, v = parts
    bound = coupler.bind(q, k, "contracted with a fixed tensor")
    if _whole_heads(coupler, bound, v):
        values, products = (coupler.bind_along(ids, ids.dim() - 1).narrow(-1, 0, 1) for ids in (v, bound))
        bound = v = coupler.bind(values, products, "a head of a fixed tensor")
    elif call.get("scale") is None:
        coupler.pin(bound, "the default scale of attention follows the key width", "pass scale= explicitly")
    tokens = call.ids("key").shape[-2]
    coupler.account(math.prod(call.ids("query").shape) * tokens, FIXED, bound if bool(bound.any()) else FIXED)
    coupler.account(math.prod(shape) * tokens, v if bool(v.any()) else FIXED, FIXED)
    return I.compress(v.expand(shape))
