"""One layer as an ONNX model of its own, with random weights: times do not depend on them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from channelcut.bench.layers.reading import WEIGHTED
from channelcut.cost.kinds import Entry

INPUT, RESIDUAL, OUTPUT = "x", "residual", "y"
LAYER = "layer"
"""The name of the node with the weight."""

SCALE, ZERO = "scale", "zero"
_STEP = 1 / 64  # of int8
_EXTENTS = "extents"  # of a weight that is not stored
_DRAWN = 2**16  # numbers, at most, that a weight is made of
_SCALE = 0.1  # of the weights: sums stay far from subnormal numbers and from infinity


def input_shape(entry: Entry) -> tuple[int, ...]:
    """The shape of what the layer reads."""
    kind, widths = entry.kind, entry.widths
    return (*kind.lead, widths.cin, *kind.size)


def empty_model() -> onnx.ModelProto:
    """A model that computes next to nothing: what a call of a back end costs beside the layer."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (INPUT, OUTPUT)]
    graph = helper.make_graph([helper.make_node("Neg", [INPUT], [OUTPUT], LAYER)], "empty", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def lone_model(entry: Entry, *, stored: bool = True) -> onnx.ModelProto:
    """The layer with what is fused after it; its inputs are `x` and, where it adds one, `residual`.

    stored: whether the model holds the weight. Else a runtime that folds constants makes it while it loads the model,
    of one number, which takes a tenth of the time where a weight is large.
    """
    kind, widths = entry.kind, entry.widths
    generator = np.random.default_rng(0)

    def drawn(*shape: int) -> NDArray[np.float32]:
        few = (generator.random(min(math.prod(shape), _DRAWN), np.float32) - 0.5) * _SCALE
        return np.resize(few, shape)  # again and again: to draw millions takes longer than to run the layer

    weights: dict[str, NDArray[Any]]
    weights = {"weight": drawn(*entry.weight)} if stored else {_EXTENTS: np.array(entry.weight, np.int64)}
    weights["bias"] = drawn(widths.cout)
    if kind.op == "Gemm" and len(kind.lead) > 1:
        del weights["bias"]
        nodes = [helper.make_node("MatMul", [INPUT, "weight"], ["value0"], LAYER)]
    elif kind.op == "Gemm":
        nodes = [helper.make_node("Gemm", [INPUT, "weight", "bias"], ["value0"], LAYER)]
    else:
        said = {name: list(value) for name, value in kind.attributes} | {"group": widths.groups}
        nodes = [helper.make_node(kind.op, [INPUT, "weight", "bias"], ["value0"], LAYER, **said)]
    for number, words in enumerate(kind.after):
        before, after = f"value{number}", f"value{number + 1}"
        if words == "Bias":
            weights["bias"] = drawn(widths.cout)
        made, constants = _step(words, before, after, number)
        nodes, weights = nodes + made, weights | constants
    nodes[-1].output[0] = OUTPUT
    if not stored:
        value = numpy_helper.from_array(np.array([_SCALE / 2], np.float32))
        nodes.insert(0, helper.make_node("ConstantOfShape", [_EXTENTS], ["weight"], value=value))
    return _model(entry, nodes, [numpy_helper.from_array(value, name) for name, value in weights.items()])


def in_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose layers all read int8 through Q/DQ, as `precision.quantize` writes them.

    Scales are drawn from nothing: times do not depend on them. What a layer writes is float32, until the next reads it.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, added = result.graph, []
    weights = {w.name: w for w in graph.initializer}
    scales = [numpy_helper.from_array(np.array(_STEP, np.float32), SCALE), numpy_helper.from_array(np.int8(0), ZERO)]
    nodes: list[onnx.NodeProto] = []
    have: set[str] = set()

    def pair(value: str, stored: bool, inputs: list[str], **said: int) -> str:
        if value not in have:
            have.add(value)
            if not stored:
                nodes.append(helper.make_node("QuantizeLinear", [value, *inputs], [f"{value}.q"], f"{value}.Q"))
            read = f"{value}.int8" if stored else f"{value}.q"
            nodes.append(helper.make_node("DequantizeLinear", [read, *inputs], [f"{value}.dq"], f"{value}.DQ", **said))
        return f"{value}.dq"

    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.op_type in WEIGHTED and node.input[1] in weights:
            name = node.input[1]
            if name not in have:
                added += _int8_weight(weights[name], node)
            axis = _channel_axis(node)
            node.input[0] = pair(node.input[0], False, [SCALE, ZERO])
            node.input[1] = pair(name, True, [f"{name}.scale", f"{name}.zero"], axis=axis)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    left = [w for w in graph.initializer if w.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*left, *added, *scales])
    del graph.value_info[:]
    return result


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight along which its outputs lie."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute) else 1


def _int8_weight(weight: TensorProto, node: onnx.NodeProto) -> list[TensorProto]:
    values = numpy_helper.to_array(weight)
    axis = _channel_axis(node)
    count = values.shape[axis]
    stored = np.clip(np.rint(values / max(float(np.abs(values).max()), 1e-9) * 127), -127, 127).astype(np.int8)
    scale, zero = np.full(count, _STEP, np.float32), np.zeros(count, np.int8)
    named = {"int8": stored, "scale": scale, "zero": zero}
    return [numpy_helper.from_array(value, f"{weight.name}.{word}") for word, value in named.items()]


def _step(
    words: str, before: str, after: str, number: int
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.float32]]]:
    """The nodes of one step after a layer, and the constants that they read; the inverse of what `reading` says."""
    if words == "Add":
        return [helper.make_node("Add", [before, RESIDUAL], [after], f"step{number}")], {}
    if words == "Bias":
        return [helper.make_node("Add", [before, "bias"], [after], f"step{number}")], {}
    gated = words.startswith("x·")
    name, said = re.fullmatch(r"(\w+)(?:\((.*)\))?", words.removeprefix("x·")).groups()  # type: ignore[union-attr]
    attributes: dict[str, float] = {}
    constants: dict[str, NDArray[np.float32]] = {}
    for argument in filter(None, (said or "").split(",")):
        key, _, value = argument.rpartition("=")
        if key:
            attributes[key] = float(value)
        else:
            constants[f"constant{number}_{len(constants)}"] = np.array(float(value), np.float32)
    result = f"gate{number}" if gated else after
    nodes = [helper.make_node(name, [before, *constants], [result], f"step{number}", **attributes)]
    if gated:
        nodes.append(helper.make_node("Mul", [before, result], [after], f"product{number}"))
    return nodes, constants


def _model(entry: Entry, nodes: Sequence[onnx.NodeProto], weights: Sequence[TensorProto]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape(entry))]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if "Add" in entry.kind.after:
        shape = _inferred(model)
        model.graph.input.append(helper.make_tensor_value_info(RESIDUAL, TensorProto.FLOAT, shape))
    result: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    return result


def _inferred(model: onnx.ModelProto) -> list[int]:
    """The shape of what the layer itself writes."""
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    place = next(number for number, node in enumerate(alone.graph.node) if node.name == LAYER)
    del alone.graph.node[place + 1 :]
    alone.graph.node[place].output[0] = OUTPUT
    shape = onnx.shape_inference.infer_shapes(alone).graph.output[0].type.tensor_type.shape
    return [int(d.dim_value) for d in shape.dim]
