"""Recurrent layers: the units of the hidden state are channels, which every gate and every moment shares."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from channelcut.coupling.collect import Coupler, State
from channelcut.ops import ids as I
from channelcut.ops.registry import Call, activation, rule
from channelcut.tracing.recurrent import GATES


@rule("channelcut.recurrence")
def recurrence(coupler: Coupler, call: Call) -> Any:
    """An LSTM, GRU or RNN: a unit goes from all gates at once, from every layer and direction the same
    number.

    A unit whose weights and biases are zero stays at zero: tanh(0) is what enters its state. A state that it is given
    to start from loses it too.
    """
    columns = I.line(call.ids("input"), -1)
    weights: list[Any] = list(call["weights"])
    if columns is None or not all(isinstance(weight, State) for weight in weights):
        _pin(coupler, call, weights)
        return call.fixed()
    per, directions = 4 if call["has_biases"] else 2, 1 + call["bidirectional"]
    moments = math.prod(call.ids("input").shape[:2])
    hidden: list[Tensor] = []
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            start = (layer * directions + direction) * per
            hidden.append(_one(coupler, weights[start : start + per], columns, GATES[call["kind"]], moments))
        columns = torch.cat(hidden[-directions:])
    for state in call["states"]:
        if state is not None:
            _start(coupler, activation(coupler, state), hidden)
    if len(hidden) > 1:  # the layer keeps one number for them all
        coupler.bind_equal(hidden, 0)
    output, *states = call.node.value
    last = torch.stack(hidden).unsqueeze(1)
    made = [coupler.rectangle(I.compress(last.expand(state.shape))) for state in states]
    return (I.along(columns, 2, output.shape), *made)


def _one(coupler: Coupler, weights: list[State], columns: Tensor, gates: int, moments: int) -> Tensor:
    """One direction of one layer: weights (gates · H, I) and (gates · H, H), biases (gates · H); returns its units."""
    inputs, states, *biases = weights
    units = coupler.slot(states, 1, None, "in")
    rows = units.repeat(gates)
    for weight, role in ((inputs, "out"), (states, "out"), *((bias, "bias") for bias in biases)):
        coupler.slot(weight, 0, rows, role)
    coupler.slot(inputs, 1, columns, "in")
    coupler.account(moments * len(rows) * len(columns), rows, columns)
    coupler.account(moments * len(rows) * len(units), rows, units)
    return units


def _start(coupler: Coupler, state: Tensor, hidden: list[Tensor]) -> None:
    """Bind the units of every layer and direction to those of its part of a given state (layers · directions, N, H)."""
    for part, units in zip(torch.split(state, 1), hidden, strict=True):
        line = I.line(part, 2)
        if line is None:
            coupler.pin(part, "a state whose channels vary along another axis than the layer's")
            coupler.pin(units, "starts from a state whose channels vary along another axis")
        else:
            coupler.bind(units, line, "starts from a fixed state")


def _pin(coupler: Coupler, call: Call, weights: list[Any]) -> None:
    coupler.pin(call.ids("input"), "a recurrent layer of computed weights, or over channels along another axis")
    for weight in (*weights, *call["states"]):
        if isinstance(weight, State):
            coupler.fix(weight)
        elif isinstance(weight, Tensor):
            coupler.pin(weight, "a recurrent layer of computed weights")
