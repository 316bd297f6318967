"""Branches that are zero whatever the input is: a file lacks them, the additions of them, and what fed them alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from channelcut.onnx_out import files
from channelcut.onnx_out.inputs import Array

# What gives zero for zero, with nothing but its first input as values.
_KEEPING = {
    "Abs", "AveragePool", "Cast", "Dropout", "Expand", "Flatten", "Identity", "LeakyRelu", "MaxPool", "Neg", "Relu",
    "Reshape", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_MOVING = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
# Comparisons with an infinity that hold for all numbers, or for none.
_COMPARED = {("LessOrEqual", math.inf): True, ("Greater", math.inf): False, ("Less", -math.inf): False}
_Shape = tuple[int | str, ...]


def remove_zeros(model: onnx.ModelProto) -> int:
    """Remove additions of what `nn.Hardshrink(inf)` makes zero, in place; returns how many there were.

    An addition goes where the other operand has the shape of the sum. What nothing needs then goes as well.
    """
    found = _Zeros(model)
    for node in model.graph.node:
        found.read(node)
    if not found.instead:
        return 0
    for node in model.graph.node:
        _rename(node, found.instead)
    _keep_outputs(model.graph, found.instead)
    _tidy(model.graph)
    return len(found.instead)


class _Zeros:
    """What is known of the values of a graph, node by node: `instead` names for each sum the operand that it equals."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.zero: set[str] = set()
        self.truth: dict[str, bool] = {}
        self.instead: dict[str, str] = {}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shapes: dict[str, _Shape] | None = None

    def read(self, node: onnx.NodeProto) -> None:
        """Note what follows for the outputs of a node."""
        kind, given, made = node.op_type, list(node.input), node.output[0] if node.output else ""
        if node.domain not in {"", "ai.onnx"} or not made:
            return
        if kind == "Constant":
            self.constants.update((made, a.t) for a in node.attribute if a.name == "value")
        elif kind == "Shrink":
            numbers = {a.name: a.f for a in node.attribute}
            if numbers.get("lambd", 0.5) == math.inf and not numbers.get("bias", 0.0):
                self.zero.add(made)
        elif kind == "Where":
            chosen = {True: given[1], False: given[2]}.get(self.truth.get(given[0], None))  # type: ignore[arg-type]
            if chosen is not None and self._is_zero(chosen):
                self.zero.add(made)
        elif kind == "Or" and not any(self.truth.get(name, True) for name in given):
            self.truth[made] = False
        elif kind in ("Mul", "Div"):
            self._scale(kind, given, made)
        elif kind == "Add":
            self._add(given, made)
        elif kind in _KEEPING:
            self._keep(kind, given[0], made)
        elif len(given) == 2 and (limit := self._values(given[1])) is not None and limit.size == 1:
            holds = _COMPARED.get((kind, float(limit.reshape(-1)[0])) if limit.dtype.kind == "f" else (kind, 0.0))
            if holds is not None:
                self.truth[made] = holds

    def _keep(self, kind: str, given: str, made: str) -> None:
        if given in self.zero:
            self.zero.add(made)
        elif given in self.truth:
            self.truth[made] = self.truth[given]
        elif given in self.constants and kind in _MOVING:
            self.constants[made] = self.constants[given]

    def _scale(self, kind: str, given: Sequence[str], made: str) -> None:
        if kind == "Mul":
            zero = any(self._is_zero(a) and self._is_finite(b) for a, b in (given, given[::-1]))
        else:
            divisor = self._values(given[1])
            zero = given[0] in self.zero and divisor is not None and bool((np.isfinite(divisor) & (divisor != 0)).all())
        if zero:
            self.zero.add(made)

    def _add(self, given: Sequence[str], made: str) -> None:
        zeros = [name for name in given if name in self.zero]
        if len(zeros) == 2:
            self.zero.add(made)
        elif len(zeros) == 1:
            other = given[0] if zeros[0] == given[1] else given[1]
            small, large = self._shape(zeros[0]), self._shape(other)
            if small is not None and large is not None and _fits(small, large):
                self.instead[made] = self.instead.get(other, other)

    def _is_zero(self, name: str) -> bool:
        values = None if name in self.zero else self._values(name)
        return name in self.zero or (values is not None and values.size == 1 and not values.any())

    def _is_finite(self, name: str) -> bool:
        values = self._values(name)
        return name in self.zero or (values is not None and bool(np.isfinite(values).all()))

    def _values(self, name: str) -> Array | None:
        tensor = self.constants.get(name)
        return None if tensor is None or tensor.data_location == tensor.EXTERNAL else numpy_helper.to_array(tensor)

    def _shape(self, name: str) -> _Shape | None:
        if self._shapes is None:
            small = files.weight_bytes(self.model) <= files.EXTERNAL_ABOVE
            graph = onnx.shape_inference.infer_shapes(self.model).graph if small else self.model.graph
            self._shapes = {t.name: tuple(t.dims) for t in graph.initializer}
            for value in (*graph.value_info, *graph.input, *graph.output):
                if value.type.tensor_type.HasField("shape"):
                    extents = value.type.tensor_type.shape.dim
                    self._shapes[value.name] = tuple(e.dim_param or e.dim_value for e in extents)
        return self._shapes.get(name)


def _fits(small: _Shape, large: _Shape) -> bool:
    """Whether a sum of both has the shape of the second; an extent that is not known, 0 here, tells nothing."""
    if len(small) > len(large) or 0 in small or 0 in large:
        return False
    tail = large[len(large) - len(small) :]
    return all(one in (1, other) for one, other in zip(small, tail, strict=True))


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Read other values by their names, in the graphs that a node holds as well."""
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
    for graph in _subgraphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for output in graph.output:
            output.name = names.get(output.name, output.name)


def _keep_outputs(graph: onnx.GraphProto, instead: dict[str, str]) -> None:
    """Give the graph's outputs that were sums their names again: the name goes to what they equal, where it is free."""
    outputs = {output.name for output in graph.output}
    for name in [output.name for output in graph.output if output.name in instead]:
        source = instead[name]
        (sum_,) = (node for node in graph.node if name in node.output)
        graph.node.remove(sum_)
        maker = next((node for node in graph.node if source in node.output), None)
        if maker is None or source in outputs:
            graph.node.append(onnx.helper.make_node("Identity", [source], [name]))
            continue
        maker.output[list(maker.output).index(source)] = name
        for node in graph.node:
            _rename(node, {source: name})
        instead.update({key: name for key, value in instead.items() if value == source})
        outputs.add(name)


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for graph in _subgraphs(node):
        found |= {output.name for output in graph.output}.union(*map(_reads, graph.node))
    return found


def _tidy(graph: onnx.GraphProto) -> None:
    """Remove what no output needs."""
    needed, kept = {output.name for output in graph.output}, list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= _reads(node)
            kept.append(node)
    made = {name for node in kept for name in node.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    values = [value for value in graph.value_info if value.name in made]
    for part, left in ((graph.node, kept[::-1]), (graph.initializer, tensors), (graph.value_info, values)):
        copies = [type(each).FromString(each.SerializeToString()) for each in left]
        del part[:]  # type: ignore[attr-defined]
        part.extend(copies)  # type: ignore[attr-defined]
