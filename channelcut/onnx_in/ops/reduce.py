"""Reductions over axes, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.ops.shapes import reshaped
from channelcut.onnx_in.registry import Call, operator

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
}  # fmt: skip


def _settings(call: Call) -> tuple[tuple[int, ...], bool] | None:
    """Axes from the front and whether they stay; None where nothing is to be reduced."""
    rank = len(call[0].shape)
    axes = call.numbers("axes", 1)
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return None
        axes = list(range(rank))
    return tuple(sorted(int(axis) % max(1, rank) for axis in axes)), bool(call.attribute("keepdims", 1))


def _reduced(call: Call, function: Callable[..., Any], source: Value) -> Value:
    settings = _settings(call)
    return source if settings is None else call.emit(function, source, *settings)


def _reduction(function: Callable[..., Any], call: Call) -> Value:
    return _reduced(call, function, call[0])


for _name, _function in REDUCTIONS.items():
    operator(_name)(partial(_reduction, _function))


@operator("ReduceProd")
def product(call: Call) -> Value:
    """One axis after the other."""
    settings, result = _settings(call), call[0]
    for axis in reversed(settings[0] if settings else ()):
        result = call.emit(torch.prod, result, axis, settings is not None and settings[1])
    return result


@operator("ReduceL1")
def sum_of_magnitudes(call: Call) -> Value:
    """Σ |x|."""
    return _reduced(call, torch.sum, call.emit(torch.abs, call[0]))


@operator("ReduceSumSquare")
def sum_of_squares(call: Call) -> Value:
    """Σ x²."""
    return _reduced(call, torch.sum, call.emit(torch.square, call[0]))


@operator("ReduceL2")
def euclidean(call: Call) -> Value:
    """√Σ x²."""
    return call.emit(torch.sqrt, _reduced(call, torch.sum, call.emit(torch.square, call[0])))


@operator("ReduceLogSum")
def log_of_sum(call: Call) -> Value:
    """log Σ x."""
    return call.emit(torch.log, _reduced(call, torch.sum, call[0]))


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Value:
    """Along one axis since opset 13; before, over all axes from `axis` on together."""
    function = F.softmax if call.kind == "Softmax" else F.log_softmax
    source = call[0]
    axis = call.axis(source, -1 if call.opset >= 13 else 1)
    if call.opset >= 13 or all(extent == 1 for extent in source.shape[axis + 1 :]):
        return call.emit(function, source, axis)
    together = (*source.shape[:axis], torch.Size(source.shape[axis:]).numel())
    return reshaped(call, call.emit(function, reshaped(call, source, together), axis), source.shape)
