"""What a forward computes of parameters alone: the axes of the result are those of the parameters.

A scaled, masked, standardised or merged weight has two sets of channels, one along each axis, which no ids could say.
So it stays what a parameter is, a `State`, whose axes the layer that reads it gives their ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from channelcut.core.graph import specs
from channelcut.core.groups import Role
from channelcut.core.reasons import COMPUTED_WEIGHT
from channelcut.core.schema import keyword_only
from channelcut.core.trees import leaves, mapped_only
from channelcut.ops.along import axes_of
from channelcut.ops.call import Call
from channelcut.ops.host import Factor, State
from channelcut.ops.pointwise import ELEMENTWISE
from channelcut.ops.registry import know, op

Axes = tuple[tuple[Factor, ...], ...]


def _states(call: Call) -> list[State]:
    return [value for value in leaves(dict(call.arguments)) if isinstance(value, State)]


def _as_any(call: Call) -> Any:
    """As the op does to any values."""
    rule = op(call.name).rule
    assert rule is not None
    return rule(call)


def _held(call: Call, state: State, factor: Factor) -> Factor:
    """Its positions all stay."""
    for stored in factor.stored:
        call.host.fix(call, stored, COMPUTED_WEIGHT, COMPUTED_WEIGHT.remedy)
    return Factor(factor.extent, held=True)


def _whole(call: Call, state: State, axis: int) -> tuple[Factor, ...]:
    """An axis of which every position stays, whatever its extent becomes."""
    for factor in state.factors[axis]:
        _held(call, state, factor)
    return (Factor(state.shape[axis], held=True),)


def _elementwise(call: Call) -> Any:
    """Every element of the result depends on those at its place: its axes are those of all operands."""
    # Named after a weight rather than its scale, and after a parameter rather than its mask: buffers come last.
    order = [node.name for node in call.graph.nodes if node.kind == "state"]
    rank = {name: number for number, name in enumerate(order)}
    operands = sorted(_states(call), key=lambda s: (-sum(extent > 1 for extent in s.shape), rank.get(s.name, 0)))
    found = []
    for spec in specs(call.node.value):
        axes = [_united(call, operands, axis - len(spec.shape), extent) for axis, extent in enumerate(spec.shape)]
        found.append(State(operands[0].name, tuple(axes)))
    return tuple(found) if call.several else found[0]


def _united(call: Call, operands: Sequence[State], axis: int, extent: int) -> tuple[Factor, ...]:
    """One axis of a result, counted from the last, of the operands that do not repeat along it."""
    there = [state for state in operands if len(state.factors) >= -axis and state.shape[axis] == extent]
    if not there:
        return (Factor(extent, held=extent > 1),)
    parts = there[0].factors[axis]
    for state in there[1:]:
        others = state.factors[axis]
        if [part.extent for part in parts] != [part.extent for part in others]:
            line = call.slot(there[0], axis, None, Role.PARAM)
            call.slot(state, axis, line, Role.PARAM)
        else:
            parts = tuple(_joined(call, state, a, b) for a, b in zip(parts, others, strict=True))
    return parts


def _joined(call: Call, state: State, a: Factor, b: Factor) -> Factor:
    if a.held or b.held:
        return _held(call, state, replace(a, stored=(*a.stored, *b.stored)))
    return replace(a, stored=tuple(dict.fromkeys((*a.stored, *b.stored))))


def _viewed(call: Call) -> State:
    """Axes change places, come and go: strides of a tensor without memory say which is which."""
    state: State = call["self"]
    strides = [1009 + 2 ** (20 + 3 * axis) for axis in range(len(state.shape))]
    empty = {State: lambda s: torch.empty_strided(s.shape, strides[: len(s.shape)], device="meta")}
    args = mapped_only(State, empty[State], dict(call.arguments))
    if "size" in args:
        args["size"] = call.shape
    assert call.node.target is not None
    skipped = keyword_only(call.node.target)
    result = call.node.target(*(value for name, value in args.items() if name not in skipped))
    source = {stride: axis for axis, stride in enumerate(strides)}
    axes = []
    for extent, stride in zip(result.shape, result.stride(), strict=True):
        axis = source.get(stride)
        axes.append((Factor(extent),) if axis is None or extent != state.shape[axis] else state.factors[axis])
    return State(state.name, tuple(axes))


def _reshaped(call: Call) -> State:
    """Axes are merged, or what was merged is taken apart again; a stored axis that is cut up stays whole."""
    state: State = call["self"]
    parts = [factor for axis in state.factors for factor in axis]
    axes = []
    for extent in call.shape:
        taken: list[Factor] = []
        while parts and (math.prod(f.extent for f in taken) < extent or (extent == parts[0].extent == 1 and not taken)):
            missing = extent // math.prod(f.extent for f in taken)
            part = parts.pop(0)
            if part.extent > missing:
                part = _held(call, state, part) if part.stored else part
                if part.extent % missing:
                    return _nothing(call, state)
                parts.insert(0, replace(part, extent=part.extent // missing))
                part = replace(part, extent=missing)
            taken.append(part)
        if math.prod(f.extent for f in taken) != extent:
            return _nothing(call, state)
        long = [factor for factor in taken if factor.extent > 1]
        axes.append(tuple(long or taken[:1] or [Factor(1)]))
    return State(state.name, tuple(axes))


def _nothing(call: Call, state: State) -> State:
    """A result whose every position stays."""
    for axis in range(len(state.shape)):
        _whole(call, state, axis)
    return State(state.name, tuple((Factor(extent, held=extent > 1),) for extent in call.shape))


def _changed(call: Call, axes: Sequence[int]) -> Any:
    """Positions along these axes are picked, moved or added; along the others nothing changes."""
    state: State = call["self"]
    kept = [axis for axis in range(len(state.shape)) if axis not in axes]
    for axis in axes:
        _whole(call, state, axis)
    found = []
    for spec in specs(call.node.value):
        if len(spec.shape) == len(state.shape):
            each = [state.factors[a] if a in kept else (Factor(e, held=True),) for a, e in enumerate(spec.shape)]
        else:
            each = [state.factors[axis] for axis in kept]
        found.append(State(state.name, tuple(each)))
    return tuple(found) if call.several else found[0]


def _picked(call: Call) -> Any:
    """A part of the positions along one axis."""
    state: State = call["self"]
    axis = call["dim"] % len(state.shape)
    whole = specs(call.node.value)[0].shape == state.shape
    return state if whole and not call.several else _changed(call, [axis])


def _turned(call: Call) -> Any:
    """Positions along some axes in another order."""
    state: State = call["self"]
    return _changed(call, [axis % len(state.shape) for axis in call["dims"]] or list(range(len(state.shape))))


def _padded(call: Call) -> Any:
    """More positions, or fewer, at the ends of axes."""
    amounts, last = call["pad"], len(call["self"].shape) - 1
    return _changed(call, [last - i for i in range(len(amounts) // 2) if amounts[2 * i] or amounts[2 * i + 1]])


def _resized(call: Call) -> Any:
    """Other positions along all axes but the first two, such as a table of positions for another resolution."""
    (state,) = _states(call)
    call = replace(call, arguments={**call.arguments, "self": state})
    return _changed(call, range(2, len(state.shape)))


def _reduced(call: Call) -> Any:
    """Statistics over some axes, of those of their positions that are kept."""
    state: State = next(iter(call.arguments.values()))
    if isinstance(call.get("other"), State):
        return _elementwise(call)
    gone = axes_of(call.get("dim"), len(state.shape))
    found = []
    for spec in specs(call.node.value):
        if len(spec.shape) == len(state.shape):
            axes = [(Factor(1),) if axis in gone else state.factors[axis] for axis in range(len(state.shape))]
        else:
            axes = [state.factors[axis] for axis in range(len(state.shape)) if axis not in gone]
        found.append(State(state.name, tuple(axes)))
    return tuple(found) if call.several else found[0]


def _standardised(call: Call) -> Any:
    """A batch norm with the statistics of what it is given: rows of a weight (1, O, I·k·k) are standardised."""
    state: State = call["input"]
    if call.get("running_mean") is not None or call.get("running_var") is not None:
        return _as_any(call)
    scales = [value for name in ("weight", "bias") if isinstance(value := call.get(name), State)]
    rows = state.factors[1]
    for scale in scales:
        rows = _united(call, [State(state.name, (rows,)), scale], -1, state.shape[1])
    result = State(state.name, (state.factors[0], rows, *state.factors[2:]))
    if not call.several:
        return result
    others = [State(state.name, (rows,) * len(spec.shape)) for spec in specs(call.node.value)[1:]]
    return (result, *others)


def _product(call: Call) -> Any:
    """A matrix times a matrix or a vector: the axis in the middle is one of both, and loses what it loses."""
    left, right = _states(call)[:2]
    if len(_states(call)) > 2 or len(left.shape) > 2 or len(right.shape) > 2:
        return _as_any(call)
    middle = call.slot(left, len(left.shape) - 1, None, Role.IN)
    call.slot(right, 0, middle, Role.OUT if len(right.shape) > 1 else Role.PARAM)
    return State(left.name, (*left.factors[:-1], *right.factors[1:]))


def _convolved(call: Call) -> Any:
    """A weight convolved with a weight, such as layers merged into one: (I, M, k...) with (O, M, k...) is (I, O, k...).

    The axis in the middle is one of both, and loses what it loses.
    """
    left, right, bias = call["input"], call["weight"], call.get("bias")
    is_value = not isinstance(left, State) or 0 not in call.long_axes(left)  # of one sample, as a table of positions
    if is_value or call["groups"] != 1 or len(left.shape) != len(right.shape):
        return _as_any(call)
    inputs, outputs = (0, 1) if op(call.name).convolves == "transposed" or call.get("transposed") else (1, 0)
    middle = call.slot(left, 1, None, Role.IN)
    call.slot(right, inputs, middle, Role.IN)
    rows = right.factors[outputs]
    if isinstance(bias, State):
        rows = _united(call, [State(right.name, (rows,)), bias], -1, right.shape[outputs])
    around = [(Factor(extent, held=extent > 1),) for extent in call.shape[2:]]
    for state in (left, right):
        for axis in range(2, len(state.shape)):
            _whole(call, state, axis)
    return State(right.name, (left.factors[0], rows, *around))


def _expanded(call: Call) -> Any:
    """A parameter that is repeated along the first axis is repeated for a batch, as a token is: a value, no weight."""
    state: State = call["self"]
    repeated = bool(call.long_axes(state)) and (len(call.shape) > len(state.shape) or state.shape[0] == 1)
    return _as_any(call) if repeated and call.shape[0] > 1 else _viewed(call)


def _as_pairs(call: Call) -> State:
    """A last axis for the real and the imaginary part."""
    state: State = call["self"]
    return State(state.name, (*state.factors, (Factor(2),)))


def _from_pairs(call: Call) -> State:
    """The last axis holds the real and the imaginary part."""
    state: State = call["self"]
    return State(state.name, state.factors[:-1])


def _quantized(call: Call) -> Any:
    """Element by element, with a scale for every position along an axis."""
    state: State = call["self"]
    axis = call["axis"] % len(state.shape)
    factors = state.factors[axis]
    for name in ("scale", "zero_point"):
        if isinstance(scale := call[name], State):
            factors = _united(call, [State(state.name, (factors,)), scale], -1, state.shape[axis])
    result = State(state.name, (*state.factors[:axis], factors, *state.factors[axis + 1 :]))
    return (result, result) if call.several else result


VIEWS = """
transpose permute t movedim swapaxes swapdims numpy_T mT adjoint unsqueeze squeeze expand_as alias
""".split()
RESHAPES = "view _unsafe_view reshape flatten unflatten view_as reshape_as _reshape_alias".split()
PICKS = "slice narrow select unbind chunk split split_with_sizes tensor_split unsafe_split".split()
PICKS += ["unsafe_chunk", "unsafe_split_with_sizes"]
RESIZES = """
upsample_nearest1d upsample_linear1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d
_upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_nearest3d upsample_trilinear3d
""".split()
REDUCTIONS = (
    "mean sum amax amin max min var std var_mean std_mean norm linalg_vector_norm logsumexp prod all any".split()
)
CONVOLUTIONS = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution
""".split()
NORMS = "batch_norm native_batch_norm _native_batch_norm_legit cudnn_batch_norm".split()

for _names, _weights in (
    (ELEMENTWISE, _elementwise),
    (VIEWS, _viewed),
    (("expand", "broadcast_to"), _expanded),
    (RESHAPES, _reshaped),
    (PICKS, _picked),
    (("flip", "roll"), _turned),
    (("pad", "constant_pad_nd"), _padded),
    (RESIZES, _resized),
    (REDUCTIONS, _reduced),
    (NORMS, _standardised),
    (("view_as_real",), _as_pairs),
    (("view_as_complex",), _from_pairs),
    (("fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask"), _quantized),
    (("mm", "matmul", "mv", "dot", "vdot"), _product),
    (CONVOLUTIONS, _convolved),
):
    know(*(f"aten.{_name}" for _name in _names), weights=_weights)
know("channelcut.assigned", weights=_elementwise)
know(*(f"aten.{_name}" for _name in REDUCTIONS), statistics_of_weights="dim")
know(*(f"aten.{_name}" for _name in NORMS), statistics_of_weights="rows")
