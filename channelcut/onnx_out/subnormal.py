"""Subnormal weights: processors take many times as long over them, so that a time would tell of them and not of a cut.

They lie below 1.2e-38 in float32, far below what any output shows. Written as zero, files are timed for what they
compute; a flag of the processor would do as much for this machine and this thread alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from channelcut.onnx_out.files import all_tensors
from channelcut.onnx_out.inputs import Array

_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Write zero for every subnormal number among the weights, in place; returns how many there were."""
    count = 0
    for tensor, values, subnormal in _found(model):
        count += int(subnormal.sum())
        tensor.CopyFrom(numpy_helper.from_array(np.where(subnormal, values.dtype.type(0), values), tensor.name))
    return count


def subnormal_weights(model: onnx.ModelProto) -> tuple[int, int]:
    """How many of the floating-point weights are subnormal, and how many there are."""
    total = sum(int(np.prod(tensor.dims)) for tensor in all_tensors(model) if tensor.data_type in _TYPES)
    return sum(int(subnormal.sum()) for _, _, subnormal in _found(model)), total


def _found(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, Array, Array]]:
    """The tensors with subnormal numbers, their values, and which of these are."""
    for tensor in all_tensors(model):
        if tensor.data_type not in _TYPES or tensor.data_location == tensor.EXTERNAL:
            continue
        values = numpy_helper.to_array(tensor)
        subnormal = (values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)
        if subnormal.any():
            yield tensor, values, subnormal
