"""Operators with weights: convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.ops import windows
from channelcut.onnx_in.ops.shapes import reshaped
from channelcut.onnx_in.registry import Call, operator

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
FUNCTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED_FUNCTIONS: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def convolution(call: Call) -> Value:
    """Weight (O, I/groups, k...); padding that differs before and after is done beforehand."""
    source, weight = call[0], call[1]
    count = _spatial(call, weight)
    pads = windows.padding(call, source, weight.shape[2:])
    strides, dilations = windows.setting(call, "strides", count), windows.setting(call, "dilations", count)
    groups = int(call.attribute("group", 1))
    inside = [before for before, _ in pads] if windows.symmetric(pads) else [0] * count
    if not windows.symmetric(pads):
        source = windows.padded(call, source, pads)
    bias = call.get(2)
    if weight.node is not None or (bias is not None and bias.node is not None):
        return call.emit(FUNCTIONS[count], source, weight, bias, strides, inside, dilations, groups)
    module = CONVOLUTIONS[count](
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), tuple(strides), tuple(inside),
        tuple(dilations), groups, bias is not None, device="meta",
    )  # fmt: skip
    return _layer(call, module, source, (weight, bias), (*strides, *inside, *dilations, groups))


@operator("ConvTranspose")
def transposed_convolution(call: Call) -> Value:
    """Weight (I, O/groups, k...); pads that differ are cropped off afterwards."""
    source, weight = call[0], call[1]
    count = _spatial(call, weight)
    strides, dilations = windows.setting(call, "strides", count), windows.setting(call, "dilations", count)
    extra = [int(v) for v in call.attribute("output_padding") or [0] * count]
    full = [
        (size - 1) * s + (k - 1) * d + 1 + e
        for size, k, s, d, e in zip(source.shape[2:], weight.shape[2:], strides, dilations, extra, strict=True)
    ]
    pads = _transposed_padding(call, source, full, strides)
    groups = int(call.attribute("group", 1))
    inside = [before for before, _ in pads] if windows.symmetric(pads) else [0] * count
    bias = call.get(2)
    if weight.node is not None or (bias is not None and bias.node is not None):
        function = TRANSPOSED_FUNCTIONS[count]
        result = call.emit(function, source, weight, bias, strides, inside, extra, groups, dilations)
    else:
        module = TRANSPOSED[count](
            weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]), tuple(strides), tuple(inside),
            tuple(extra), groups, bias is not None, tuple(dilations), device="meta",
        )  # fmt: skip
        result = _layer(call, module, source, (weight, bias), (*strides, *inside, *extra, *dilations, groups))
    if windows.symmetric(pads):
        return result
    return windows.padded(call, result, [(-before, -after) for before, after in pads])


def _transposed_padding(call: Call, source: Value, full: Sequence[int], strides: Sequence[int]) -> windows.Pads:
    """What is cut off the full result, from pads, from auto_pad or from output_shape."""
    count = len(full)
    auto = call.attribute("auto_pad", "NOTSET")
    wanted = call.attribute("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(source.shape[2:], strides, strict=True)]
    if wanted is not None:
        totals = [f - int(w) for f, w in zip(full, wanted[-count:], strict=True)]
        return [windows.split_padding(total, auto == "SAME_UPPER") for total in totals]
    if auto == "VALID":
        return [(0, 0)] * count
    flat = [int(v) for v in call.attribute("pads") or [0] * (2 * count)]
    return list(zip(flat[:count], flat[count:], strict=True))


def _spatial(call: Call, weight: Value) -> int:
    count = len(weight.shape) - 2
    if count not in CONVOLUTIONS:
        call.refuse(f"has {count} spatial axes; 1 to 3 can be imported")
    return count


def _layer(
    call: Call, module: Any, source: Value, weights: tuple[Value, Value | None], settings: tuple[int, ...]
) -> Value:
    weight, bias = weights
    module.weight = call.builder.parameter(weight)
    if bias is not None:
        module.bias = call.builder.parameter(bias)
    key = (call.kind, id(module.weight), id(module.bias), settings)
    return call.builder.layer(call, module, weight, source, key)


@dataclass(frozen=True)
class Scaling:
    """How ONNX stores a linear layer: its matrix as (I, O) if `transpose`, and factors on matrix and bias."""

    transpose: bool
    matrix: float = 1.0
    bias: float = 1.0


def linear(call: Call, source: Value, matrix: Value, stored: Scaling, bias: Value | None) -> Value:
    """A linear layer on the last axis of `source`; `bias` holds (O,) or (1, O) elements.

    Where `source` was made a matrix only for this product, the layer takes what it was before: its other axes, the
    batch among them, are then fixed nowhere.
    """
    origin = source.origin
    inner = source
    if origin is not None and origin.kind == "reshape" and origin.source.shape[-1:] == source.shape[-1:]:
        inner = origin.source

    def weight_of(tensor: Tensor) -> Tensor:
        turned = tensor.t() if stored.transpose else tensor
        return turned if stored.matrix == 1 else turned * stored.matrix

    def bias_of(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1) if stored.bias == 1 else tensor.reshape(-1) * stored.bias

    weight = call.builder.parameter(matrix, f"{stored.transpose} {stored.matrix}", weight_of)
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    module.weight = weight
    if bias is not None:
        plain = stored.bias == 1 and len(bias.shape) == 1
        module.bias = call.builder.parameter(bias, "" if plain else f"bias {stored.bias}", bias_of)
    result = call.builder.layer(call, module, matrix, inner, ("Linear", id(module.weight), id(module.bias)))
    return reshaped(call, result, (*source.shape[:-1], weight.shape[0]))


@operator("Gemm")
def gemm(call: Call) -> Value:
    """alpha · A' B' + beta · C; with a constant B it is a linear layer."""
    source, matrix, addend = call[0], call[1], call.get(2)
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    if call.attribute("transA", 0):
        source = call.emit(torch.transpose, source, 0, 1)
    transposed = bool(call.attribute("transB", 0))
    if matrix.node is not None or source.node is None:
        product = call.emit(torch.matmul, source, call.emit(torch.transpose, matrix, 0, 1) if transposed else matrix)
        result = product if alpha == 1 else call.emit(torch.mul, product, alpha)
        return result if addend is None else _added(call, result, addend, beta)
    outputs = matrix.shape[0 if transposed else 1]
    fits = addend is not None and addend.node is None and addend.shape in ((outputs,), (1, outputs))
    result = linear(call, source, matrix, Scaling(not transposed, alpha, beta), addend if fits else None)
    return result if addend is None or fits else _added(call, result, addend, beta)


def _added(call: Call, result: Value, addend: Value, beta: float) -> Value:
    return call.emit(torch.add, result, addend if beta == 1 else call.emit(torch.mul, addend, beta))


@operator("MatMul")
def matmul(call: Call) -> Value:
    """With a constant matrix on the right it is a linear layer, which takes in a bias that is added next."""
    source, matrix = call[0], call[1]
    if matrix.node is not None or source.node is None or len(matrix.shape) != 2:
        return call.emit(torch.matmul, source, matrix)
    bias = _following_bias(call, matrix.shape[1])
    return linear(call, source, matrix, Scaling(transpose=True), bias)


def _following_bias(call: Call, outputs: int) -> Value | None:
    """The constant vector that the only consumer of this product adds to it, if so."""
    node = call.builder.only_consumer(call.node.output[0])
    if node is None or node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
        return None
    others = [name for name in node.input if name != call.node.output[0]]
    value = call.builder.values.get(others[0]) if len(others) == 1 else None
    if value is None or value.node is not None or value.shape != (outputs,) or not value.tensor.is_floating_point():
        return None
    call.builder.absorb(node)
    return value
