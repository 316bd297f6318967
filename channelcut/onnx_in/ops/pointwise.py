"""Functions of single elements, and arithmetic with broadcasting."""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.registry import Call, operator

UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg,
    "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
    "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "Atan": torch.atan,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[..., Any]] = {"Add": op.add, "Sub": op.sub, "Mul": op.mul}


def _unary(function: Callable[..., Any], call: Call) -> Value:
    return call.emit(function, call[0])


def _arithmetic(function: Callable[..., Any], call: Call) -> Value:
    return call.emit(function, call.number_or(0), call.number_or(1))


for _name, _function in UNARY.items():
    operator(_name)(partial(_unary, _function))
for _name, _function in ARITHMETIC.items():
    operator(_name)(partial(_arithmetic, _function))


@operator("Div")
def divide(call: Call) -> Value:
    """Whole numbers are divided towards zero."""
    if call[0].tensor.is_floating_point():
        return call.emit(op.truediv, call.number_or(0), call.number_or(1))
    return call.emit(torch.div, call[0], call[1], rounding_mode="trunc")


@operator("Mod")
def modulo(call: Call) -> Value:
    """The sign of the divisor, or with fmod that of the dividend."""
    function = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    return call.emit(function, call[0], call.number_or(1))


@operator("Pow")
def power(call: Call) -> Value:
    """The result has the type of the base."""
    result = call.emit(op.pow, call.number_or(0), call.number_or(1))
    kind = call[0].tensor.dtype
    return result if result.tensor.dtype == kind else call.emit(torch.Tensor.to, result, kind)


@operator("Sum", "Mean", "Max", "Min")
def variadic(call: Call) -> Value:
    """Any number of operands, from left to right."""
    function = {"Max": torch.maximum, "Min": torch.minimum}.get(call.kind, op.add)
    values = [value for value in call.inputs if value is not None]
    result = values[0]
    for value in values[1:]:
        result = call.emit(function, result, value)
    return call.emit(op.truediv, result, len(values)) if call.kind == "Mean" else result


@operator("Clip")
def clip(call: Call) -> Value:
    """Bounds as attributes before opset 11, as inputs since; either may be missing."""
    bounds = []
    for position, name in ((1, "min"), (2, "max")):
        found = call.attribute(name)
        if found is None and call.get(position) is not None:
            found = call.number_or(position)
        bounds.append(found)
    low, high = bounds
    if low is None and high is None:
        return call[0]
    if isinstance(low, Value) or isinstance(high, Value):
        result = call[0] if low is None else call.emit(torch.maximum, call[0], call[1])
        return result if high is None else call.emit(torch.minimum, result, call[2])
    if call[0].tensor.is_floating_point():
        low, high = (None if bound is None else float(bound) for bound in (low, high))
    return call.emit(torch.clamp, call[0], min=low, max=high)


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Value:
    """A slope below zero."""
    return call.emit(F.leaky_relu, call[0], float(call.attribute("alpha", 0.01)))


@operator("Elu")
def elu(call: Call) -> Value:
    """An exponential below zero."""
    return call.emit(F.elu, call[0], float(call.attribute("alpha", 1.0)))


@operator("Celu")
def celu(call: Call) -> Value:
    """An exponential below zero that is smooth for every alpha."""
    return call.emit(F.celu, call[0], float(call.attribute("alpha", 1.0)))


@operator("Selu")
def selu(call: Call) -> Value:
    """gamma · (x, or alpha · (eˣ − 1) below zero)."""
    alpha = float(call.attribute("alpha", 1.67326319217681884765625))
    gamma = float(call.attribute("gamma", 1.05070102214813232421875))
    return call.emit(op.mul, call.emit(F.elu, call[0], alpha), gamma)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Value:
    """x above alpha, else 0."""
    return call.emit(F.threshold, call[0], float(call.attribute("alpha", 1.0)), 0.0)


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Value:
    """max(0, min(1, alpha · x + beta)); torch's own has alpha 1/6 and beta 1/2."""
    alpha, beta = float(call.attribute("alpha", 0.2)), float(call.attribute("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return call.emit(F.hardsigmoid, call[0])
    line = call.emit(op.add, call.emit(op.mul, call[0], alpha), beta)
    return call.emit(torch.clamp, line, min=0.0, max=1.0)


@operator("Gelu")
def gelu(call: Call) -> Value:
    """Exact, or by tanh."""
    return call.emit(F.gelu, call[0], approximate=call.attribute("approximate", "none"))
