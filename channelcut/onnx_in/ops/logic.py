"""Comparisons, logic, choice and conversion."""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.inputs import DTYPES
from channelcut.onnx_in.registry import Call, operator

BINARY: dict[str, Callable[..., Any]] = {
    "Equal": op.eq, "Greater": op.gt, "GreaterOrEqual": op.ge, "Less": op.lt, "LessOrEqual": op.le,
}  # fmt: skip
LOGIC: dict[str, Callable[..., Any]] = {
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "Not": torch.logical_not,
}  # fmt: skip


def _compared(function: Callable[..., Any], call: Call) -> Value:
    return call.emit(function, call.number_or(0), call.number_or(1))


def _logical(function: Callable[..., Any], call: Call) -> Value:
    return call.emit(function, *[value for value in call.inputs if value is not None])


for _name, _function in BINARY.items():
    operator(_name)(partial(_compared, _function))
for _name, _function in LOGIC.items():
    operator(_name)(partial(_logical, _function))


@operator("Where")
def where(call: Call) -> Value:
    """One or the other, by a condition."""
    return call.emit(torch.where, call[0], call.number_or(1), call.number_or(2))


@operator("Cast")
def cast(call: Call) -> Value:
    """Another type; half precision is float32 here."""
    kind = int(call.attribute("to"))
    if kind not in DTYPES:
        call.refuse(f"converts to the ONNX type {kind}, which is not a number or truth value")
    return _to(call, DTYPES[kind])


@operator("CastLike")
def cast_like(call: Call) -> Value:
    """The type of another tensor."""
    return _to(call, call[1].tensor.dtype)


def _to(call: Call, dtype: torch.dtype) -> Value:
    return call[0] if call[0].tensor.dtype == dtype else call.emit(torch.Tensor.to, call[0], dtype)
