"""Subnormal weights: processors take many times as long over them, so that a time would tell of them and not of a cut.

They lie below 1.2e-38 in float32, and what a layer multiplies by them is lost in any sum. Written as zero, files are
timed for what they compute; a flag of the processor would do as much for this machine and this thread alone. Other
constants stay: log(x + 1e-40) is finite where log(x) is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from channelcut.onnx_out.inputs import Array

# Where layers read what they multiply with.
_FACTORS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Write zero for every subnormal number among the weights, in place; returns how many there were."""
    count = 0
    for tensor, values, subnormal in _found(model):
        count += int(subnormal.sum())
        tensor.CopyFrom(numpy_helper.from_array(np.where(subnormal, values.dtype.type(0), values), tensor.name))
    return count


def subnormal_weights(model: onnx.ModelProto) -> tuple[int, int]:
    """How many weights of layers are subnormal, and how many there are."""
    total = sum(int(np.prod(tensor.dims)) for tensor in _weights(model))
    return sum(int(subnormal.sum()) for _, _, subnormal in _found(model)), total


def _found(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, Array, Array]]:
    """The weights with subnormal numbers, their values, and which of these are."""
    for tensor in _weights(model):
        values = numpy_helper.to_array(tensor)
        subnormal = (values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)
        if subnormal.any():
            yield tensor, values, subnormal


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors that nothing but layers reads, as what they multiply with."""
    multiplied: set[str] = set()
    other: set[str] = {output.name for output in model.graph.output}
    for node in model.graph.node:
        places = _FACTORS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            (multiplied if place in places else other).add(name)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                other |= {name for inner in graph.node for name in inner.input}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            held[node.output[0]] = node.attribute[0].t
    return [
        tensor
        for name, tensor in held.items()
        if name in multiplied - other and tensor.data_type in _TYPES and tensor.data_location != tensor.EXTERNAL
    ]
