"""int8 as Q/DQ by ONNX Runtime's quantizer: symmetric, per-channel weights, calibrated activations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from channelcut.core.errors import UserError
from channelcut.core.quiet import quietly
from channelcut.onnx_out.files import is_split, save_onnx
from channelcut.onnx_out.runtime import onnxruntime
from channelcut.precision.cast import without_unread

Feed = Mapping[str, npt.NDArray[Any]]
QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAIR = ("QuantizeLinear", "DequantizeLinear")
_SMALLEST = np.float16(2**-24)
_AT_ONCE = 16  # images whose activations the calibrator holds in memory together
# ONNX Runtime's own 128 bins for 128 levels leave entropy one threshold to choose from, the largest value.
_BINS = {"entropy": {"num_bins": 1024, "num_quantized_bins": 128}}
METHODS = ("percentile", "entropy", "minmax")


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that int8 applies to: those with constant weights."""
    constant = {t.name for t in model.graph.initializer}
    return [n.name for n in model.graph.node if n.op_type in QUANTIZED and n.input[1] in constant]


def check_method(method: str) -> None:
    """Raise `UserError` for a calibration method that does not exist."""
    if method not in METHODS:
        raise UserError(f"There is no calibration method {method!r}; known: {', '.join(METHODS)}.")


def ranges(model: onnx.ModelProto, feeds: Sequence[Feed], method: str, notify: Callable[[str, int, int], None]) -> Any:
    """Range over the feeds of every activation that int8 layers read: "percentile" (99.999), "entropy" or "minmax"."""
    onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    names = {
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
        "minmax": CalibrationMethod.MinMax,
    }

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self, chunk: Sequence[Feed]) -> None:
            self._left = iter(chunk)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

    # The calibrator prints its progress; standard output is for the result.
    with tempfile.TemporaryDirectory() as folder, quietly():
        plain, augmented = Path(folder) / "model.onnx", Path(folder) / "augmented.onnx"
        save_onnx(model, plain)
        calibrator = create_calibrator(
            str(plain),
            list(QUANTIZED),
            str(augmented),
            names[method],
            is_split(plain),
            extra_options={"symmetric": True} | _BINS.get(method, {}),
        )
        for start in range(0, len(feeds), _AT_ONCE):
            notify("calibrate", start, len(feeds))
            try:
                calibrator.collect_data(Reader(feeds[start : start + _AT_ONCE]))
            except ValueError as problem:  # numpy's histogram, on a value that hardly varies
                raise UserError(
                    f"The {method} calibration fails on the images: {problem} Expected images like those of "
                    "deployment, on which every layer's input varies. Use --method minmax, or other images."
                ) from problem
        notify("calibrate", len(feeds), len(feeds))
        return calibrator.compute_data()


def quantized(
    model: onnx.ModelProto, layers: Collection[str], activation_ranges: Any, *, half_scales: bool
) -> onnx.ModelProto:
    """Return a copy in which the named layers read int8 through Q/DQ; outputs and biases stay in float32.

    `half_scales`: scales are rounded to values that fp16 has, and the weights quantized by them, so that casting the
    scales later changes nothing.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    excluded = [n.name for n in copy.graph.node if n.name not in layers]
    quantizer = QDQQuantizer(
        copy, True, False, QuantType.QInt8, QuantType.QInt8, activation_ranges, [], excluded, list(QUANTIZED),
        {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
        },
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    if half_scales:
        _round_scales(result, model)
    return onnx.shape_inference.infer_shapes(result)


def only(full: onnx.ModelProto, source: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """Return the `quantized` model with int8 in the named layers alone: the others read what they read in `source`.

    The quantizer lets all that read a value read it through Q/DQ, the addition of a residual too. That stays where a
    named layer reads the value; elsewhere nothing is rounded.
    """
    plain = {n.name: n for n in source.graph.node}
    needed = {name for n in full.graph.node if n.name in layers for name in n.input}
    have = {t.name for t in full.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(full)
    for node in result.graph.node:
        if node.name in layers or node.name not in plain:
            continue
        layer = node.op_type in QUANTIZED
        for place, name in enumerate(plain[node.name].input):
            if layer or node.input[place] not in needed:
                node.input[place] = name
    result.graph.initializer.extend(t for t in source.graph.initializer if t.name not in have)
    return without_unread(result)


def pairs(model: onnx.ModelProto, half: Collection[str]) -> list[str]:
    """Names of the Q and DQ nodes that may be fp16: Q where its input is made in fp16, DQ where all readers are."""
    made = {name: n.name for n in model.graph.node for name in n.output}
    others = {name for n in model.graph.node if n.name not in half for name in n.input}
    return [
        n.name
        for n in model.graph.node
        if (n.op_type == "QuantizeLinear" and made.get(n.input[0]) in half)
        or (n.op_type == "DequantizeLinear" and not others.intersection(n.output))
    ]


def _round_scales(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Round every scale to fp16 (at least its smallest number above 0), and quantize the weights by the new ones."""
    tensors = {t.name: t for t in model.graph.initializer}
    weights = {t.name: t for t in source.graph.initializer}
    layers = {n.name: n.input[1] for n in source.graph.node if n.op_type in QUANTIZED}
    readers = {n.input[1]: layers[n.name] for n in model.graph.node if n.name in layers}
    for node in model.graph.node:
        if node.op_type not in PAIR:
            continue
        scale = tensors[node.input[1]]
        rounded = np.maximum(numpy_helper.to_array(scale).astype(np.float16), _SMALLEST).astype(np.float32)
        scale.CopyFrom(numpy_helper.from_array(rounded, scale.name))
        stored = tensors.get(node.input[0])
        if stored is not None:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            values = numpy_helper.to_array(weights[readers[node.output[0]]])
            shape = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)] if rounded.ndim else []
            levels = np.clip(np.rint(values / rounded.reshape(shape)), -127, 127).astype(np.int8)
            stored.CopyFrom(numpy_helper.from_array(levels, stored.name))
