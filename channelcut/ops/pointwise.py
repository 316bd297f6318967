"""Pointwise ops: ids pass; several operands are bound element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.graph import specs
from channelcut.core.groups import Role
from channelcut.core.reasons import ALONG_SPACE, AS_NUMBER, SEVERAL_AXES, TRIANGLE
from channelcut.core.trees import leaves
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.layers import first_axis
from channelcut.ops.registry import know, rule

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


ELEMENTWISE = (*UNARY, *SEVERAL, "zeros_like", "ones_like", "full_like", "empty_like")
"""Of parameters alone, every one of these has the axes of its operands, see ops.weights."""


@rule(*[f"aten.{name}" for name in UNARY])
def unary(call: Call) -> Any:
    """y = f(x), element by element."""
    ids = call.activation(next(iter(call.arguments.values())))
    return (ids,) * len(call.node.value) if call.several else ids


@rule(*[f"aten.{name}" for name in SEVERAL])
def several(call: Call) -> Any:
    """y = f(a, b, ...), element by element, with broadcasting."""
    operands = [v for v in leaves(list(call.arguments.values())) if isinstance(v, (Tensor, State))]
    if not operands or not specs(call.node.value):
        return call.fixed()
    return combined(call, operands)


know("aten.clone", "aten.contiguous", layout="copy")
know("aten.masked_fill", own_layout=True)
for _name in "add sub mul div pow rsub remainder floor_divide fmod".split():
    know(f"aten.{_name}", f"aten.{_name}_", operands=True)


def combined(call: Call, operands: Sequence[Tensor | State]) -> Tensor:
    """The ids of a value that every operand has a say in, element by element."""
    # Operands keep their own shapes until the end: only an element of its own can be in a partner's way.
    joined: Tensor | None = None
    for operand in operands:
        if not _has_several_long_axes(call, operand):
            ids = call.activation(operand)
            joined = ids if joined is None else call.bind(joined, ids)
    result = I.zeros(call.shape) if joined is None else call.spread(joined)
    for operand in operands:
        if _has_several_long_axes(call, operand):
            _follow(call, cast(State, operand), result)
    return result


def _has_several_long_axes(call: Call, operand: Any) -> bool:
    return isinstance(operand, State) and len(call.long_axes(operand)) > 1


def _follow(call: Call, state: State, partner: Tensor) -> None:
    """A parameter with several long axes, such as a position embedding, follows what it is combined with."""
    varying = I.varying_axes(partner)
    offset = len(call.shape) - len(state.shape)
    long = call.long_axes(state)
    own = [axis - offset for axis in varying if axis - offset in long]
    ids = I.line(partner, varying[0]) if len(varying) == 1 else None
    if len(own) == 1 and ids is not None:
        call.slot(state, own[0], ids, Role.PARAM)
    elif own:
        call.fix(state)
        call.pin(partner, SEVERAL_AXES)


@rule("aten.prelu", layers={nn.PReLU: first_axis("num_parameters")})
def prelu(call: Call) -> Tensor:
    """One slope for all channels, or one for each."""
    ids, weight = call.ids("self"), call["weight"]
    if isinstance(weight, State) and weight.shape and weight.shape[0] > 1:
        found = call.line_of(ids, 1)
        if found is None:
            call.pin(ids, ALONG_SPACE)
        else:
            call.slot(weight, 0, found, Role.NORM)
    return ids


@rule("aten.glu")
def gated_linear_unit(call: Call) -> Tensor:
    """y = a · sigmoid(b), a and b the halves along an axis: a channel goes from both at once."""
    ids = call.ids("self")
    axis = call["dim"] % ids.dim()
    values, gates = call.divided(ids, [ids.shape[axis] // 2] * 2, axis)
    return call.bind(values, gates)


FACTORIES = """
arange zeros ones full new_zeros new_ones new_full new_empty empty empty_like zeros_like ones_like full_like rand_like
scalar_tensor linspace eye meshgrid rand randn triu tril
""".split()


@rule(*[f"aten.{name}" for name in FACTORIES])
def factory(call: Call) -> Any:
    """A tensor made in the forward; if its shape follows a width, the probe finds out."""
    if call.name in ("aten.triu", "aten.tril"):
        for leaf in leaves(dict(call.arguments)):
            if isinstance(leaf, Tensor):
                call.pin(leaf, TRIANGLE)
    return call.fixed()


@rule("aten.item", "aten._local_scalar_dense", "aten.sym_size", "aten._assert_tensor_metadata", "aten._assert_async")
def scalar(call: Call) -> Any:
    """A number read from a tensor ends its ids; a tensor of channels has no single number to read."""
    for leaf in call.arguments.values():
        if isinstance(leaf, Tensor):
            call.pin(leaf, AS_NUMBER)
    return call.node.value


know("aten._assert_tensor_metadata", checked=True)


def pointwise(*ops: str) -> None:
    """Register ops of one tensor whose every element depends on the one at its place, such as an activation.

    What a removed channel would give need not be zero: nobody reads it.

    Args:
        ops: names as pins write them, `mylib.swish` for the op `mylib::swish`.

    Raises:
        ValueError: an op has a rule already.

    Example:
        >>> import channelcut as cc
        >>> cc.pointwise("mylib.swish")
    """
    rule(*ops)(unary)


def elementwise(*ops: str) -> None:
    """Register ops of several tensors that broadcast: elements at the same place live or die together.

    Args:
        ops: names as pins write them, `mylib.gated_add` for the op `mylib::gated_add`.

    Raises:
        ValueError: an op has a rule already.

    Example:
        >>> import channelcut as cc
        >>> cc.elementwise("mylib.gated_add")
    """
    rule(*ops)(several)
