"""The layers of a forward whose weights can be refitted, and what becomes of their outputs.

A layer's output may be normalised and scaled channel by channel and then be added to others: what a refit has to
reproduce is that sum.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from channelcut.core.graph import Graph, Node, Ref, refs, specs
from channelcut.core.schema import bound_arguments
from channelcut.ops.execute import writes_values
from channelcut.ops.registry import op
from channelcut.ops.writes import written

RECURRENT = "what a recurrent layer gives is no sum of what it reads"
SHARED, COMPUTED = "its weight is read in several places", "its weight is computed"


@dataclass(frozen=True)
class Geometry:
    """What a layer reads for each position of its output; a linear layer has no axes in space."""

    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    transposed: bool = False


@dataclass(frozen=True)
class Step:
    """One thing that is done to a layer's output, channel by channel: a norm with stored statistics, or a factor."""

    weight: str = ""
    bias: str = ""
    mean: str = ""
    variance: str = ""
    eps: float = 0.0
    factor: float = 1.0

    def line(self, state: Mapping[str, Tensor]) -> tuple[Tensor | float, Tensor | float]:
        """Factor and shift, of shape (channels,) or numbers."""
        names = (self.weight, self.bias, self.mean, self.variance)
        weight, bias, mean, variance = (state[n].detach().double().flatten() if n else None for n in names)
        factor: Tensor | float = self.factor if weight is None else weight * self.factor
        if variance is None or mean is None:
            return factor, 0.0
        factor = factor / torch.sqrt(variance + self.eps)
        return factor, -mean * factor + (0.0 if bias is None else bias)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: its node, that of its input, parameters by name, and what its output goes through.

    `norm` is the buffer of means that a shift of the output can be put into, where a batch norm alone reads it.
    `added` are the nodes whose values its output is added to, after `steps`.
    """

    node: int
    read: int
    weight: str
    bias: str
    module: str
    geometry: Geometry
    norm: str = ""
    steps: tuple[Step, ...] = ()
    added: tuple[int, ...] = ()

    @property
    def linear(self) -> bool:
        """Whether it maps the last axis, and has no axes in space."""
        return not self.geometry.kernel

    @property
    def shifts(self) -> bool:
        """Whether its output can be shifted."""
        return bool(self.bias or self.norm)

    def line(self, state: Mapping[str, Tensor]) -> tuple[Tensor | float, Tensor | float]:
        """Factor and shift of all steps together."""
        factor: Tensor | float = 1.0
        shift: Tensor | float = 0.0
        for step in self.steps:
            one, other = step.line(state)
            factor, shift = factor * one, shift * one + other
        return factor, shift


@dataclass
class Reading:
    """Who reads what in a graph."""

    graph: Graph
    readers: dict[int, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            for ref in node.inputs:
                self.readers.setdefault(ref.index, []).append(node)

    def alone(self, index: int) -> Node | None:
        """The one node that reads a value, where there is one."""
        found = self.readers.get(index, [])
        return found[0] if len(found) == 1 else None

    def state(self, value: Any) -> str:
        """The name of a parameter or buffer that is read here alone; empty for anything else."""
        if not isinstance(value, Ref) or self.graph.nodes[value.index].kind != "state":
            return ""
        return self.graph.nodes[value.index].name if self.alone(value.index) is not None else ""


def changed_from(graph: Graph, tensors: Collection[str]) -> set[int]:
    """The nodes whose values depend on these parameters and buffers."""
    found = {node.index for node in graph.nodes if node.kind == "state" and node.name in tensors}
    for node in graph.nodes:
        if any(ref.index in found for ref in node.inputs):
            found.add(node.index)
    return found


def layers_of(graph: Graph, tensors: Collection[str]) -> tuple[list[Layer], dict[str, str]]:
    """The layers that read what depends on `tensors`, in order; and those that cannot be refitted, with the reason."""
    reading, touched = Reading(graph), changed_from(graph, tensors)
    found, skipped = [], {}
    for node in graph.calls:
        if node.name == "channelcut.recurrence" and any(ref.index in touched for ref in refs(node.args[:1])):
            skipped[node.site.module or str(node.site)] = RECURRENT
        if op(node.name).convolves is None and not op(node.name).affine:
            continue
        given = bound_arguments(node.target, node.args, node.kwargs)
        read = given.get("input", given.get("mat1", given.get("self")))
        if not isinstance(read, Ref) or read.index not in touched:
            continue
        layer = _layer(reading, node, given, read.index)
        if isinstance(layer, str):
            skipped[node.site.module or str(node.site)] = layer
        else:
            found.append(_followed(reading, layer))
    return found, skipped


def _layer(reading: Reading, node: Node, given: Mapping[str, Any], read: int) -> Layer | str:
    """A layer as the op says, or why it cannot be refitted."""
    graph, weight = reading.graph, given.get("weight", given.get("mat2"))
    if not isinstance(weight, Ref):
        return COMPUTED
    source = graph.nodes[weight.index]
    if source.kind != "state":
        before = refs(source.args)
        turned = source.kind == "call" and len(before) == 1 and graph.nodes[before[0].index].kind == "state"
        if "mat2" not in given or not turned or specs(source.value)[0].shape[::-1] != _shape(graph, before[0].index):
            return COMPUTED
        if reading.alone(source.index) is None:
            return SHARED
        weight = before[0]
    elif "mat2" in given:
        return COMPUTED
    name = reading.state(weight)
    if not name:
        return SHARED
    bias = reading.state(given.get("bias", given.get("self") if "mat1" in given else None))
    shape, module = _shape(graph, weight.index), node.site.module
    kind = op(node.name).convolves
    if kind is None:
        return Layer(node.index, read, name, bias, module, Geometry()) if len(shape) == 2 else COMPUTED
    if len(specs(node.value)[0].shape) != len(shape) or isinstance(given.get("padding"), str):
        return "its input has no batch axis, or its padding has a name"
    space = len(shape) - 2
    stride, padding, dilation = (_each(given[key], space) for key in ("stride", "padding", "dilation"))
    transposed = kind == "transposed" or (kind == "either" and bool(given["transposed"]))
    geometry = Geometry(given["groups"], stride, padding, dilation, shape[2:], transposed)
    return Layer(node.index, read, name, bias, module, geometry)


def _each(value: Any, count: int) -> tuple[int, ...]:
    """One number for each axis in space."""
    found = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return found * count if len(found) == 1 else found


def _shape(graph: Graph, index: int) -> tuple[int, ...]:
    return specs(graph.nodes[index].value)[0].shape


def _followed(reading: Reading, layer: Layer) -> Layer:
    """A layer with what its output goes through, as far as a refit can account for it."""
    graph, value, before = reading.graph, layer.node, layer
    channels = _shape(graph, layer.node)[-1 if layer.linear else 1]
    while (node := reading.alone(value)) is not None and node.kind == "call":
        known = op(node.name)
        given = bound_arguments(node.target, node.args, node.kwargs)
        if known.stored_statistics and not layer.added:
            step = _norm(reading, given, value)
            if step is None:
                break
            if value == layer.node and not layer.bias:
                layer = replace(layer, norm=step.mean)
            layer, value = replace(layer, steps=(*layer.steps, step)), node.index
            parts = [n for n in reading.readers.get(value, []) if n.name == "getitem" and n.args[1] == 0]
            value = parts[0].index if parts else value
        elif known.sums and (others := [r.index for r in node.inputs if r.index != value]) and _plain(given):
            if _shape(graph, others[0]) != _shape(graph, value):
                break
            layer = replace(layer, added=(*layer.added, others[0]))
            value = node.index
        elif known.scales and not layer.added and (factor := _factor(reading, given, channels)):
            layer, value = replace(layer, steps=(*layer.steps, factor)), node.index
        elif known.layout == "copy" or (known.layout == "reshape" and _keeps_rows(graph, layer, value, node)):
            value = node.index
        else:
            break
    own = [step for step in layer.steps[:1] if step.variance]
    return layer if layer.added else replace(before, norm=layer.norm, steps=tuple(own))


def _plain(given: Mapping[str, Any]) -> bool:
    """Whether an addition has no factor, and two tensors."""
    return given.get("alpha", 1) == 1 and isinstance(given.get("self"), Ref) and isinstance(given.get("other"), Ref)


def _norm(reading: Reading, given: Mapping[str, Any], value: int) -> Step | None:
    """A norm with stored statistics, all of whose parameters it alone reads; `value` is what it normalises."""
    read = given.get("input")
    names = [reading.state(given.get(key)) for key in ("weight", "bias", "running_mean", "running_var")]
    known = all(name or given.get(key) is None for name, key in zip(names, ("weight", "bias"), strict=False))
    if given.get("training") or not isinstance(read, Ref) or read.index != value or not all(names[2:]) or not known:
        return None
    weight, bias, mean, variance = names
    return Step(weight, bias, mean, variance, float(given.get("eps", given.get("epsilon", 0.0))))


def _factor(reading: Reading, given: Mapping[str, Any], channels: int) -> Step | None:
    """A product with a number, or with a parameter of one element a channel."""
    for operand in (given.get("other"), given.get("self")):
        if isinstance(operand, (int, float)):
            return Step(factor=float(operand))
        if isinstance(operand, Ref) and (name := reading.state(operand)):
            shape = _shape(reading.graph, operand.index)
            return Step(weight=name) if max(shape, default=0) == channels and sum(e > 1 for e in shape) == 1 else None
    return None


def _keeps_rows(graph: Graph, layer: Layer, value: int, node: Node) -> bool:
    """Whether a view leaves the rows of a linear layer's output as they are."""
    return layer.linear and _shape(graph, value)[-1] == _shape(graph, node.index)[-1]


def reordered(graph: Graph, layers: Collection[Layer]) -> list[Node]:
    """The nodes in an order in which what a layer's output is added to is there before the layer, where that can be.

    Nodes are moved to the front past others that write into nothing. Of two layers whose outputs are added the first
    one waits for the other.
    """
    order, served = list(graph.nodes), set[int]()
    for layer in layers:
        for added in layer.added:
            order = _hoisted(order, layer.node, added, served)
        served.add(layer.node)
    return order


def _hoisted(order: list[Node], layer: int, added: int, served: Collection[int]) -> list[Node]:
    """The order with node `added`, and what it needs, before `layer`; as it was where that cannot be."""
    place = {node.index: position for position, node in enumerate(order)}
    if place[added] < place[layer]:
        return order
    between = order[place[layer] : place[added] + 1]
    if any(node.kind == "call" and writes_values(node) for node in between):
        return order
    needed = {added}
    for node in reversed(between):
        if node.index in needed:
            needed |= {ref.index for ref in node.inputs}
    if layer in needed or needed & {*served}:
        return order
    moved = [node for node in between if node.index in needed]
    stay = [node for node in between if node.index not in needed]
    return [*order[: place[layer]], *moved, *stay, *order[place[added] + 1 :]]


def overwritten(graph: Graph) -> set[int]:
    """The nodes whose values something later writes into."""
    found: set[int] = set()
    for node in graph.calls:
        if writes_values(node):
            found |= written(graph.nodes, node)
    return found
