"""int8 as Q/DQ by ONNX Runtime's quantizer: symmetric, per-channel weights, calibrated activations."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from channelcut.core.errors import UserError
from channelcut.export.files import is_split, save_onnx

Feed = Mapping[str, npt.NDArray[Any]]
QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
METHODS = ("percentile", "entropy", "minmax")


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that int8 applies to: those with constant weights."""
    constant = {t.name for t in model.graph.initializer}
    return [n.name for n in model.graph.node if n.op_type in QUANTIZED and n.input[1] in constant]


def ranges(model: onnx.ModelProto, feeds: Sequence[Feed], method: str) -> Any:
    """Range of every activation that int8 layers read, by "percentile" (99.999), "entropy" or "minmax" over the feeds.

    Raises `UserError` for another method.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    names = {
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
        "minmax": CalibrationMethod.MinMax,
    }
    if method not in names:
        raise UserError(f"There is no calibration method {method!r}; known: {', '.join(METHODS)}.")

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

    # The calibrator prints its progress; standard output is for the result.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        plain, augmented = Path(folder) / "model.onnx", Path(folder) / "augmented.onnx"
        save_onnx(model, plain)
        calibrator = create_calibrator(
            str(plain),
            list(QUANTIZED),
            str(augmented),
            names[method],
            is_split(plain),
            extra_options={"symmetric": True},
        )
        calibrator.collect_data(Reader())
        return calibrator.compute_data()


def quantized(model: onnx.ModelProto, layers: Collection[str], activation_ranges: Any) -> onnx.ModelProto:
    """Return a copy in which the named layers read int8 through Q/DQ; their outputs and biases stay in float32."""
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
    result: onnx.ModelProto = quantizer.model.model
    return result
