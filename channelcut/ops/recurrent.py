"""Recurrent layers: the units of the hidden state are channels, which every gate and every time step shares."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.groups import Role
from channelcut.core.reasons import FIXED_STATE, RECURRENT_COMPUTED, STATE_OTHER_AXIS
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.layers import repeats
from channelcut.ops.registry import rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}  # the layers that are one step, with their gates


@rule(
    "channelcut.recurrence",
    layers={nn.RNNBase: repeats({"input_size": ("weight_ih_l0", 1), "hidden_size": ("weight_hh_l0", 1)})},
)
def recurrence(call: Call) -> Any:
    """An LSTM, GRU or RNN: a unit goes from all gates at once, from every layer and direction the same number.

    A unit whose weights and biases are zero stays at zero: tanh(0) is what enters its state. A state that it is given
    to start from loses it too.
    """
    columns = call.line("input", -1)
    weights: list[Any] = list(call["weights"])
    if columns is None or not all(isinstance(weight, State) for weight in weights):
        call.pin(call.ids("input"), RECURRENT_COMPUTED)
        for value in (*weights, *call["states"]):
            call.pin_value(value, RECURRENT_COMPUTED)
        return call.fixed()
    # torch's flat list: for each layer and direction the weights of inputs and states, then their biases.
    per, directions = 4 if call["has_biases"] else 2, 1 + call["bidirectional"]
    steps = math.prod(call.ids("input").shape[:2])
    hidden: list[Tensor] = []
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            start = (layer * directions + direction) * per
            hidden.append(_one(call, weights[start : start + per], columns, GATES[call["kind"]], steps))
        columns = torch.cat(hidden[-directions:])
    for state in call["states"]:
        if state is not None:
            _start(call, call.activation(state), hidden)
    if len(hidden) > 1:  # the layer keeps one number for them all
        call.bind_equal(hidden, 0)
    output, *states = call.node.value
    try:
        last = torch.stack(hidden).unsqueeze(1)
    except RuntimeError as problem:
        call.host.misfit(call, hidden, problem)
    made = [call.rectangle(I.compress(call.spread(last, state.shape))) for state in states]
    return (I.along(columns, 2, output.shape), *made)


def _one(call: Call, weights: list[State], columns: Tensor, gates: int, steps: int) -> Tensor:
    """One direction of one layer: weights (gates · H, I) and (gates · H, H), biases (gates · H); returns its units."""
    inputs, states, *biases = weights
    units = call.slot(states, 1, None, Role.IN)
    rows = units.repeat(gates)
    for weight, role in ((inputs, Role.OUT), (states, Role.OUT), *((bias, Role.BIAS) for bias in biases)):
        call.slot(weight, 0, rows, role)
    call.slot(inputs, 1, columns, Role.IN)
    call.account(steps * len(rows) * len(columns), rows, columns)
    call.account(steps * len(rows) * len(units), rows, units)
    return units


def _start(call: Call, state: Tensor, hidden: list[Tensor]) -> None:
    """Bind the units of every layer and direction to those of its part of a given state (layers · directions, N, H)."""
    for part, units in zip(torch.split(state, 1), hidden, strict=True):
        line = I.line(part, 2)
        if line is None:
            call.pin(part, STATE_OTHER_AXIS)
            call.pin(units, STATE_OTHER_AXIS)
        else:
            call.bind(units, line, FIXED_STATE)
