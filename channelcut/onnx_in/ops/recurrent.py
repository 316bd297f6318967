"""Recurrent layers: LSTM, GRU and RNN, in one direction or both, with states of zeros or others to start from."""

from __future__ import annotations

import operator as op
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.registry import Call, operator

SUFFIXES = {"forward": ("",), "reverse": ("",), "bidirectional": ("", "_reverse")}


@dataclass(frozen=True)
class Kind:
    """A layer of torch, the order of ONNX's gates in torch's weights, and the functions that torch has in it."""

    layer: Any
    gates: tuple[int, ...]
    activations: tuple[str, ...]


# ONNX has the gates (input, output, forget, cell), torch (input, forget, cell, output); of a GRU ONNX has (update,
# reset, hidden), torch (reset, update, new).
KINDS = {
    "LSTM": Kind(nn.LSTM, (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh")),
    "GRU": Kind(nn.GRU, (1, 0, 2), ("Sigmoid", "Tanh")),
    "RNN": Kind(nn.RNN, (0,), ("Tanh",)),
}


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> list[Value]:
    """A layer over the first axis (T, N, I); its results get ONNX's axes: (T, directions, N, H) and (directions, N, H).

    With `layout` 1 the batch comes first everywhere.
    """
    kind, direction = KINDS[call.kind], call.attribute("direction", "forward")
    nonlinearity = _checked(call, kind, direction)
    source, turned, count = call[0], bool(call.attribute("layout", 0)), len(SUFFIXES[direction])
    if turned:
        source = call.emit(torch.transpose, source, 0, 1)
    _check_lengths(call, source.shape[0])
    if direction == "reverse":
        source = call.emit(torch.flip, source, (0,))
    layer = _layer(call, kind, direction, nonlinearity)
    states = [_state(call, position, turned) for position in ((5, 6) if call.kind == "LSTM" else (5,))]
    result = _called(call, layer, source, states, count)
    output, last = call.emit(op.getitem, result, 0), call.emit(op.getitem, result, 1)
    lasts = call.builder.items(last, 2) if call.kind == "LSTM" else [last]
    if direction == "reverse":
        output = call.emit(torch.flip, output, (0,))
    output = call.emit(torch.permute, call.emit(torch.unflatten, output, 2, (count, -1)), (0, 2, 1, 3))
    if turned:
        output = call.emit(torch.permute, output, (2, 0, 1, 3))
        lasts = [call.emit(torch.transpose, state, 0, 1) for state in lasts]
    return [output, *lasts]


def _checked(call: Call, kind: Kind, direction: str) -> str:
    """The function of a simple layer; refuses what torch's layers do not compute."""
    if direction not in SUFFIXES:
        call.refuse(f"has the direction {direction!r}; known are {', '.join(SUFFIXES)}")
    count = len(SUFFIXES[direction])
    given = [
        a.decode() if isinstance(a, bytes) else a for a in call.attribute("activations") or kind.activations * count
    ]
    simple = call.kind == "RNN" and given == ["Relu"] * count
    if not simple and [a.lower() for a in given] != [a.lower() for a in kind.activations * count]:
        call.refuse(f"has the functions {', '.join(given)}; {', '.join(kind.activations)} can be imported")
    if call.attribute("clip") is not None or call.attribute("input_forget", 0):
        call.refuse("clips its gates or couples them (input_forget), which no layer of torch does")
    if call.get(7) is not None and bool(call.tensor(7).any()):  # type: ignore[union-attr]  # it is there
        call.refuse("has peephole weights, which no layer of torch has")
    if call.kind == "GRU" and not call.attribute("linear_before_reset", 0):
        call.refuse(
            "resets the state before its linear layer (linear_before_reset 0), and torch's GRU after it: export it "
            "with reset_after=True (Keras)"
        )
    return "relu" if simple else "tanh"


def _check_lengths(call: Call, moments: int) -> None:
    """Refuse sequences of other lengths than the input's."""
    lengths = call.tensor(4)
    if lengths is not None and bool((lengths != moments).any()):
        call.refuse(f"reads sequences of lengths {lengths.tolist()} in an input of {moments} moments; all of it can be")


def _layer(call: Call, kind: Kind, direction: str, nonlinearity: str) -> tuple[nn.Module, Value, tuple[Any, ...]]:
    """torch's layer with the node's weights, the weight that names it, and what makes it the same as another."""
    values = [call[1], call[2], call.get(3)]
    for position, value in enumerate(values[:2] if values[2] is None else values, 1):
        if value is not None:
            call.tensor(position)
    weight, inner, bias = values[0], values[1], values[2]
    assert weight is not None
    assert inner is not None
    units = inner.shape[2]
    options: dict[str, Any] = {"nonlinearity": nonlinearity} if call.kind == "RNN" else {}
    both = direction == "bidirectional"
    layer = kind.layer(weight.shape[2], units, bias=bias is not None, bidirectional=both, device="meta", **options)
    for place, suffix in enumerate(SUFFIXES[direction]):
        sources = [("weight_ih_l0", weight, 0, 0), ("weight_hh_l0", inner, 0, 0)]
        if bias is not None:
            sources += [("bias_ih_l0", bias, 0, 2), ("bias_hh_l0", bias, 1, 2)]
        for name, value, half, halves in sources:

            def taken(tensor: Tensor, place: int = place, half: int = half, halves: int = halves) -> Tensor:
                part = tensor[place].chunk(halves)[half] if halves else tensor[place]
                return torch.cat([part.chunk(len(kind.gates))[gate] for gate in kind.gates])

            change = f"{call.kind} {place} {half}"
            setattr(layer, name + suffix, call.builder.parameter(value, change, taken))
    key = (call.kind, direction, nonlinearity, *(None if value is None else id(value) for value in values))
    return layer, weight, key


def _state(call: Call, position: int, turned: bool) -> Value | None:
    """A state to start from (directions, N, H); None for zeros."""
    value = call.get(position)
    if value is None or (value.node is None and not bool(value.tensor.any())):
        return None
    return call.emit(torch.transpose, value, 0, 1) if turned else value


def _called(
    call: Call, layer: tuple[nn.Module, Value, tuple[Any, ...]], source: Value, states: list[Value | None], count: int
) -> Value:
    module, weight, key = layer
    if all(state is None for state in states):
        return call.builder.layer(call, module, weight, source, key)
    shape = (count, source.shape[1], getattr(module, "hidden_size", 0))
    given = [call.constant(torch.zeros(shape)) if state is None else state for state in states]
    return call.builder.layer(call, module, weight, source, key, tuple(given) if len(given) > 1 else given[0])
