"""Pointwise ops: ids pass; several operands are bound element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.graph import specs
from channelcut.core.groups import Role
from channelcut.core.reasons import ALONG_SPACE, AS_NUMBER, ONE_FOR_ALL, SEVERAL_AXES
from channelcut.core.trees import leaves
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.layers import first_axis
from channelcut.ops.registry import know, rule

UNARY = """
contiguous clone detach to _to_copy lift lift_fresh lift_fresh_copy float half type_as pin_memory
_cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _autocast_to_full_precision
_autocast_to_reduced_precision dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
relu relu6 silu sigmoid hardswish hardsigmoid hardtanh leaky_relu elu selu celu gelu tanh mish softplus softsign
log_sigmoid log_sigmoid_forward threshold hardshrink softshrink rrelu rrelu_with_noise fill zero
exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square neg negative positive abs absolute sign sgn signbit reciprocal
cos sin tan cosh sinh acos asin atan acosh asinh atanh arccos arcsin arctan arccosh arcsinh arctanh sinc
erf erfc erfinv lgamma digamma mvlgamma polygamma i0 logit deg2rad rad2deg frac frexp floor round ceil trunc fix
nan_to_num isfinite isinf isnan isneginf isposinf isreal logical_not bitwise_not bucketize
special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_digamma special_entr
special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammaln
special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logit special_modified_bessel_i0
special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_multigammaln special_ndtr
special_ndtri special_polygamma special_psi special_round special_scaled_modified_bessel_k0
special_scaled_modified_bessel_k1 special_sinc special_spherical_bessel_j0
angle real imag conj _conj conj_physical _conj_physical resolve_conj resolve_neg _neg_view chalf
fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask
_fake_quantize_per_tensor_affine_cachemask_tensor_qparams
""".split()

SEVERAL = """
add sub subtract mul multiply div divide true_divide rsub _add_relu addcmul addcdiv maximum minimum fmax fmin
where lerp clamp clip clamp_min clamp_max pow float_power hypot fmod remainder floor_divide copysign nextafter ldexp
ge greater_equal gt greater lt less le less_equal eq ne not_equal isclose heaviside
logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift
__and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__
atan2 arctan2 gcd lcm xlogy logaddexp logaddexp2 igamma igammac complex polar copy masked_fill _prelu_kernel
special_gammainc special_gammaincc special_xlogy special_xlog1py special_zeta special_chebyshev_polynomial_t
special_chebyshev_polynomial_u special_chebyshev_polynomial_v special_chebyshev_polynomial_w
special_hermite_polynomial_h special_hermite_polynomial_he special_laguerre_polynomial_l
special_legendre_polynomial_p special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w
""".split()

ELEMENTWISE = (*UNARY, *SEVERAL, "zeros_like", "ones_like", "full_like", "empty_like")
"""Of parameters alone, every one of these has the axes of its operands, see ops.weights."""


@rule(*[f"aten.{name}" for name in UNARY])
def unary(call: Call) -> Any:
    """y = f(x), element by element."""
    ids = call.activation(next(v for v in call.arguments.values() if isinstance(v, (Tensor, State))))
    if not call.several:
        return ids
    return tuple(ids if spec.shape == tuple(ids.shape) else I.zeros(spec.shape) for spec in call.node.value)


@rule(*[f"aten.{name}" for name in SEVERAL], "channelcut.assigned")
def several(call: Call) -> Any:
    """y = f(a, b, ...), element by element, with broadcasting."""
    operands = [v for v in leaves(list(call.arguments.values())) if isinstance(v, (Tensor, State))]
    if not operands or not specs(call.node.value):
        return call.fixed()
    return combined(call, operands)


know("aten.clone", "aten.contiguous", layout="copy")
know("aten.masked_fill", own_layout=True)
know("aten.add", sums=True)
know("aten.mul", scales=True)
for _name in "add sub mul div pow rsub remainder floor_divide fmod".split():
    know(f"aten.{_name}", operands=True)


def combined(call: Call, operands: Sequence[Tensor | State]) -> Tensor:
    """The ids of a value that every operand has a say in, element by element."""
    # Operands keep their own shapes until the end: only an element of its own can be in a partner's way.
    joined: Tensor | None = None
    for number, operand in enumerate(operands):
        if not _has_several_long_axes(call, operand):
            ids = call.activation(operand)
            joined = ids if joined is None else _met(call, number, joined, ids)
    result = I.zeros(call.shape) if joined is None else call.spread(joined)
    for operand in operands:
        if _has_several_long_axes(call, operand):
            _follow(call, cast(State, operand), result)
    return result


def _met(call: Call, number: int, a: Tensor, b: Tensor) -> Tensor:
    """Bind two operands; one channel that all channels of the other would meet, such as a gate in space, stays."""
    alone_a = call.decide(f"{number}: the first is one for all", _one_for_all(a, b))
    alone_b = call.decide(f"{number}: the second is one for all", _one_for_all(b, a))
    return call.bind(_held(call, a, b) if alone_a else a, _held(call, b, a) if alone_b else b)


def _held(call: Call, ids: Tensor, partner: Tensor) -> Tensor:
    """Pin ids; what they leave owns no element along the partner's axes."""
    call.pin(ids, ONE_FOR_ALL)
    along = {axis - partner.dim() for axis in I.varying_axes(partner)}
    return I.zeros([1 if axis - ids.dim() in along else extent for axis, extent in enumerate(ids.shape)])


def _one_for_all(ids: Tensor, partner: Tensor) -> bool:
    """Whether ids vary along no axis that the partner's vary along, so that every one of them meets all of those."""
    if ids.shape == partner.shape and ids.stride() == partner.stride():
        return False
    along = {axis - partner.dim() for axis in I.varying_axes(partner)}
    own = {axis - ids.dim() for axis in I.varying_axes(ids)}
    return bool(along) and not along & own and bool((I.compact(ids) != 0).any())


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


@rule(
    "aten.item", "aten._local_scalar_dense", "aten.sym_size", "aten._assert_tensor_metadata", "aten._assert_async",
    "aten.equal", "aten.allclose", "aten.is_nonzero", "aten._is_all_true", "aten._is_any_true",
)  # fmt: skip
def scalar(call: Call) -> Any:
    """A number read from a tensor ends its ids; a tensor of channels has no single number to read."""
    for leaf in call.arguments.values():
        if isinstance(leaf, Tensor):
            call.pin(leaf, AS_NUMBER)
    return call.fixed()


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
