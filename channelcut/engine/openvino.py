"""OpenVINO on the CPU: the ONNX model compiled for this processor when it is loaded."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.files import write_atomically
from channelcut.engine.protocol import (
    DEFAULTS,
    Array,
    Arrays,
    BuildProgress,
    EngineOptions,
    EngineReport,
    Stages,
    checked_inputs,
    refuse_capabilities,
)
from channelcut.onnx_out.files import load_onnx, read_bytes

NAME = "openvino"


class OpenVINORunner:
    """A compiled model with one request. `inputs`: name to (shape, dtype); `outputs`: the names."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = {i.get_any_name(): (_shape(i), np.dtype(i.element_type.to_dtype())) for i in compiled.inputs}
        self._outputs = {o.get_any_name(): o for o in compiled.outputs}
        self.outputs = list(self._outputs)

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs for the given inputs, by name; raises `UserError` for inputs that do not fit."""
        self._request.infer(checked_inputs(inputs, self.inputs))
        return {name: np.array(self._request.get_tensor(port).data) for name, port in self._outputs.items()}

    def prepared(self, inputs: Arrays) -> Callable[[], None]:
        """Return a callable that runs once on these inputs; a first run has shown that they fit."""
        self(inputs)
        request = self._request

        def run() -> None:
            request.infer()

        return run

    def stages(self, inputs: Arrays) -> Stages:
        """Copies into and out of the request's own tensors, and the inference, apart."""
        feed = checked_inputs(inputs, self.inputs)
        compute = self.prepared(inputs)

        def upload() -> None:
            for name, array in feed.items():
                self._request.get_tensor(name).data[...] = array

        def download() -> None:
            for port in self._outputs.values():
                np.array(self._request.get_tensor(port).data)

        return Stages(upload, compute, download)


def check(options: EngineOptions = DEFAULTS) -> None:
    """Refuse what cannot be built here: raises `MissingExtraError` without the library, `UserError` for a GPU."""
    refuse_capabilities(NAME, options)
    openvino_module()


def build(
    onnx: Path, engine: Path, options: EngineOptions = DEFAULTS, on_progress: BuildProgress | None = None
) -> EngineReport:
    """Write OpenVINO's own form of the model as one file: the XML, a zero byte, the weights.

    Raises `MissingExtraError` without the library, `UserError` for what it cannot read or when a GPU is asked for.
    """
    check(options)
    api, start = openvino_module(), time.perf_counter()
    load_onnx(onnx, weights=False)
    if on_progress is not None:
        on_progress("converting", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        api.save_model(_model(api, onnx), path, compress_to_fp16=False)
        data = path.read_bytes() + b"\0" + path.with_suffix(".bin").read_bytes()
    write_atomically(engine, data)
    if on_progress is not None:
        on_progress("converting", 1, 1)
    return EngineReport(engine, NAME, "cpu", time.perf_counter() - start, len(data) / 2**20, str(api.__version__))


def load(engine: Path, options: EngineOptions = DEFAULTS) -> OpenVINORunner:
    """Return a runner for an engine of this backend or an ONNX file, with `options.threads` threads."""
    api = openvino_module()
    data = read_bytes(engine, "engine file")
    if data.lstrip().startswith(b"<?xml"):
        text, _, weights = data.partition(b"\0")
        try:
            tensor = api.Tensor(np.frombuffer(weights, np.uint8).copy())
            model = api.Core().read_model(text, tensor)
        except RuntimeError as problem:
            raise UserError(_refused(api, engine, problem)) from problem
    else:
        load_onnx(engine, weights=False)
        model = _model(api, engine)
    # Full precision: otherwise OpenVINO takes bfloat16 where the processor has it, and outputs differ.
    config = {"INFERENCE_NUM_THREADS": options.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return OpenVINORunner(api.Core().compile_model(model, "CPU", config))


def _model(api: Any, onnx: Path) -> Any:
    try:
        return api.Core().read_model(onnx)
    except RuntimeError as problem:
        raise UserError(_refused(api, onnx, problem)) from problem


def _refused(api: Any, path: Path, problem: Exception) -> str:
    return (
        f"OpenVINO {api.__version__} cannot read {str(path)!r}: {' '.join(str(problem).split())[:400]} Expected a "
        "valid model made of operators that it knows; export it again, or take the onnxruntime backend."
    )


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(None if e.is_dynamic else int(e.get_length()) for e in port.get_partial_shape())


def openvino_module() -> Any:
    """The library; raises `MissingExtraError` where it is not installed."""
    try:
        return importlib.import_module("openvino")
    except ImportError as problem:
        raise MissingExtraError("openvino", "openvino", "building or running an OpenVINO engine") from problem
