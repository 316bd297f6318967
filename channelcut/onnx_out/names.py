"""Names for an ONNX model's inputs and outputs, taken from the forward's signature and the structure of its result."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch.utils._pytree as pytree
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.graph import path_piece
from channelcut.core.trees import opened
from channelcut.core.words import kind_of


def input_names(model: nn.Module, example_inputs: Sequence[Any]) -> list[str]:
    """One name for each input tensor: the parameter's name in `forward`, with the path inside it where it is nested.

    A model that came from an ONNX file keeps that file's names (`meta["input_names"]`).
    Raises `UserError` for an input that is not made of tensors.
    """
    parameters = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    names: list[str] = []
    for position, value in enumerate(example_inputs):
        base = parameters[position] if position < len(parameters) else f"input_{position}"
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if not isinstance(leaf, Tensor):
                raise UserError(
                    f"Input {position} ({base!r}) of the model holds {kind_of(leaf)}; expected tensors only, "
                    "since everything else becomes a constant of the ONNX model. Give the other arguments in a "
                    "wrapper's forward, or through their defaults."
                )
            names.append(".".join([base, *map(path_piece, path)]))
    return _unique(_declared(model, "input_names", len(names)) or [_safe(n) for n in names], taken=())


def output_names(outputs: Any, taken: Sequence[str] = (), model: nn.Module | None = None) -> list[str]:
    """One name for each tensor of a forward's result, in flattening order.

    A path that begins with a dictionary key or field is that path (`one2one.boxes`); one that begins with a position
    is `output_<position>`, followed by the rest (`output_1.feats.0`); a lone tensor is `output_0`.
    A `model` that came from an ONNX file keeps that file's names (`meta["output_names"]`).
    """
    names = []
    for path, leaf in pytree.tree_flatten_with_path(opened(outputs))[0]:
        if not isinstance(leaf, Tensor):
            continue
        pieces = [path_piece(p) for p in path] or ["0"]
        head = f"output_{pieces[0]}" if pieces[0].isdigit() else pieces[0]
        names.append(_safe(".".join([head, *pieces[1:]])))
    declared = [] if model is None else _declared(model, "output_names", len(names))
    return _unique(declared or names, taken)


def rename(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the model's inputs and outputs these names, in place; other values that have such a name get another.

    An output that is an input, a constant or another output as well becomes a value of its own.
    """
    graph = model.graph
    own: set[str] = {*(value.name for value in graph.input), *(item.name for item in graph.initializer)}
    taken = {*_value_names(graph), *inputs, *outputs}
    for value in graph.output:
        if value.name in own:
            alias = _fresh(value.name, taken)
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [alias]))
            value.name = alias
        own.add(value.name)
    wanted = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    wanted |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    ends = {*inputs, *outputs}
    inner = {name: _fresh(name, taken) for name in sorted(_value_names(graph)) if name in ends and name not in wanted}
    _apply(graph, inner | wanted)


def _fresh(name: str, taken: set[str]) -> str:
    """A free variation of the name, which is then taken."""
    count = 1
    while f"{name}_inner_{count}" in taken:
        count += 1
    taken.add(f"{name}_inner_{count}")
    return f"{name}_inner_{count}"


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _value_names(whole: onnx.GraphProto) -> set[str]:
    found: set[str] = set()
    for graph in _graphs(whole):
        found.update(item.name for items in (graph.input, graph.output, graph.initializer) for item in items)
        found.update(name for node in graph.node for name in node.output)
    return found - {""}


def _apply(whole: onnx.GraphProto, names: dict[str, str]) -> None:
    for graph in _graphs(whole):
        for items in (graph.input, graph.output, graph.initializer, graph.value_info):
            for item in items:
                item.name = names.get(item.name, item.name)
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def _declared(model: nn.Module, key: str, count: int) -> list[str]:
    """Names that a graph module carries in its `meta`, if there are as many as tensors."""
    meta = getattr(model, "meta", None)
    names = list(meta.get(key, ())) if isinstance(meta, dict) else []
    return names if len(names) == count else []


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name)


def _unique(names: list[str], taken: Sequence[str]) -> list[str]:
    used, result = set(taken), []
    for name in names:
        candidate, count = name, 1
        while candidate in used:
            candidate, count = f"{name}_{count}", count + 1
        used.add(candidate)
        result.append(candidate)
    return result
