"""Pointwise ops: ids pass; several operands are bound element by element."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from channelcut.core.graph import specs
from channelcut.core.trees import leaves
from channelcut.coupling.collect import Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.registry import Call, activation, rule

UNARY = """
contiguous clone detach to _to_copy lift_fresh lift_fresh_copy float half type_as
dropout dropout_ feature_dropout alpha_dropout native_dropout
relu relu_ relu6 relu6_ silu silu_ sigmoid sigmoid_ hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_
leaky_relu leaky_relu_ elu elu_ selu selu_ celu gelu tanh tanh_ mish mish_ softplus softsign log_sigmoid threshold
fill_ zero_ fill exp log log1p expm1 sqrt rsqrt neg abs sign reciprocal cos sin square erf floor round ceil
nan_to_num logical_not bitwise_not
""".split()

SEVERAL = """
add add_ sub sub_ mul mul_ div div_ maximum minimum rsub where lerp ge gt lt le eq ne logical_and logical_or bitwise_and
bitwise_or copy_ copy
addcmul fmod remainder floor_divide atan2 clamp clamp_ clamp_min clamp_max pow masked_fill hypot _prelu_kernel
""".split()


@rule(*[f"aten.{name}" for name in UNARY])
def unary(coupler: Coupler, call: Call) -> Any:
    """y = f(x), element by element."""
    value = next(iter(call.arguments.values()))
    ids = activation(coupler, value)
    if isinstance(call.node.value, (list, tuple)):
        return (ids,) * len(call.node.value)
    return ids


@rule(*[f"aten.{name}" for name in SEVERAL])
def several(coupler: Coupler, call: Call) -> Any:
    """y = f(a, b, ...), element by element, with broadcasting."""
    operands = [v for v in call.arguments.values() if isinstance(v, (Tensor, State))]
    if not operands or not specs(call.node.value):
        return call.fixed()
    # Operands keep their own shapes until the end: only an element of its own can be in a partner's way.
    joined: Tensor | None = None
    for operand in operands:
        if not _has_several_long_axes(operand):
            ids = activation(coupler, operand)
            joined = ids if joined is None else coupler.bind(joined, ids, "combined with a fixed tensor")
    result = I.zeros(call.shape) if joined is None else joined.expand(call.shape)
    for operand in operands:
        if _has_several_long_axes(operand):
            _follow(coupler, cast(State, operand), result, call)
    return I.compress(result)


def _has_several_long_axes(operand: Any) -> bool:
    return isinstance(operand, State) and sum(extent > 1 for extent in operand.shape) > 1


def _follow(coupler: Coupler, state: State, partner: Tensor, call: Call) -> None:
    """A parameter with several long axes, such as a position embedding, follows the channels that it is combined
    with.
    """
    varying = I.varying_axes(partner)
    offset = len(call.shape) - len(state.shape)
    own = [axis - offset for axis in varying if axis >= offset and state.shape[axis - offset] > 1]
    ids = I.line(partner, varying[0]) if len(varying) == 1 else None
    if len(own) == 1 and ids is not None:
        coupler.slot(state, own[0], ids, "param")
    elif own:
        coupler.fix(state)
        coupler.pin(partner, "combined with a parameter of several axes")


@rule("aten.prelu")
def prelu(coupler: Coupler, call: Call) -> Tensor:
    """One slope for all channels, or one for each."""
    ids, weight = call.ids("self"), call["weight"]
    if isinstance(weight, State) and weight.shape and weight.shape[0] > 1:
        found = I.line(ids, 1)
        if found is None:
            coupler.pin(ids, "channels vary along space")
        else:
            coupler.slot(weight, 0, found, "norm")
    return ids


FACTORIES = """
arange zeros ones full new_zeros new_ones new_full new_empty empty empty_like zeros_like ones_like full_like rand_like
scalar_tensor linspace eye meshgrid rand randn triu tril
""".split()


@rule(*[f"aten.{name}" for name in FACTORIES])
def factory(coupler: Coupler, call: Call) -> Any:
    """A tensor made in the forward; if its shape follows a width, the probe finds out."""
    for leaf in leaves(dict(call.arguments)):
        if isinstance(leaf, Tensor) and call.node.name.removeprefix("aten.") in ("triu", "tril"):
            coupler.pin(leaf, "a triangle of channels")
    return call.fixed()


NO_TENSOR = [
    "aten.item",
    "aten._local_scalar_dense",
    "aten.sym_size",
    "aten._assert_tensor_metadata",
    "aten._assert_async",
]


@rule(*NO_TENSOR)
def scalar(coupler: Coupler, call: Call) -> Any:
    """A number read from a tensor ends its ids; a tensor of channels has no single number to read."""
    for leaf in call.arguments.values():
        if isinstance(leaf, Tensor):
            coupler.pin(leaf, "read as a number")
    return call.node.value
