"""ONNX Runtime: on the CPU, or on a GPU through its CUDA or TensorRT provider, which has not run on a GPU yet."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from channelcut.core.errors import UserError
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
from channelcut.onnx_out.files import copy_onnx, load_onnx, read_bytes
from channelcut.onnx_out.runtime import failures, onnxruntime, session_from_file

NAME = "onnxruntime"

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeRunner:
    """Runs an ONNX file with one provider. `inputs`: name to (shape, dtype); `outputs`: the names."""

    def __init__(self, path: Path, threads: int = 1, provider: str = "cpu") -> None:
        name = require_provider(provider)
        self._session = session_from_file(path, threads)
        if provider != "cpu":
            self._session.set_providers([name, _PROVIDERS["cpu"]])
            # ONNX Runtime falls back without a word where the provider's libraries or the driver do not load.
            if name not in self._session.get_providers():
                raise UserError(
                    f"ONNX Runtime {onnxruntime().__version__} has {name} but it does not start here. Expected an "
                    "NVIDIA driver, and CUDA and cuDNN of the versions that this onnxruntime-gpu names."
                )
        self.threads = threads
        self.inputs = {i.name: (_shape(i), _dtype(i)) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs for the given inputs, by name; raises `UserError` for inputs that do not fit."""
        feed = checked_inputs(inputs, self.inputs)
        try:
            return dict(zip(self.outputs, self._session.run(None, feed), strict=True))
        except failures() as problem:
            raise UserError(f"ONNX Runtime cannot run the model on these inputs: {problem}") from problem

    def prepared(self, inputs: Arrays) -> Callable[[], None]:
        """Return a callable that runs once on these inputs; a first run has shown that they fit."""
        self(inputs)
        feed = checked_inputs(inputs, self.inputs)
        session = self._session

        def run() -> None:
            session.run(None, feed)

        return run

    def stages(self, inputs: Arrays) -> Stages:
        """On the CPU nothing moves: upload and download are plain copies on the host, the inference is `prepared`."""
        feed = checked_inputs(inputs, self.inputs)
        place = {name: np.empty_like(array) for name, array in feed.items()}
        outputs = list(self(inputs).values())
        results = [np.empty_like(array) for array in outputs]

        def upload() -> None:
            for name, array in feed.items():
                np.copyto(place[name], array)

        def download() -> None:
            for target, source in zip(results, outputs, strict=True):
                np.copyto(target, source)

        upload()
        return Stages(upload, self.prepared(place), download)


def require_provider(name: str) -> str:
    """Return ONNX Runtime's name for "cpu", "cuda" or "tensorrt"; raises `UserError` where it is not in this build."""
    if name not in _PROVIDERS:
        raise UserError(f"There is no provider called {name!r}; known: {', '.join(_PROVIDERS)}.")
    here = onnxruntime().get_available_providers()
    if _PROVIDERS[name] not in here:
        raise UserError(
            f"The installed ONNX Runtime has no {_PROVIDERS[name]} (it has {', '.join(here)}). Run: pip uninstall -y "
            "onnxruntime && pip install onnxruntime-gpu"
            + (", and pip install tensorrt for the libraries" if name == "tensorrt" else "")
            + "."
        )
    return _PROVIDERS[name]


def check(options: EngineOptions = DEFAULTS) -> None:
    """Refuse what cannot be built here: raises `UserError` for a GPU, or a provider that this build lacks."""
    refuse_capabilities(NAME, options)
    require_provider(options.provider)


def build(
    onnx: Path, engine: Path, options: EngineOptions = DEFAULTS, on_progress: BuildProgress | None = None
) -> EngineReport:
    """Write the graph as ONNX Runtime optimises it for this processor; it is an ONNX file, and this machine's.

    Raises `UserError` for a file that is not ONNX or that ONNX Runtime cannot load, or when a GPU is asked for.
    """
    check(options)
    start = time.perf_counter()
    load_onnx(onnx, weights=False)
    if on_progress is not None:
        on_progress("optimising", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / engine.name
        session_from_file(onnx, options.threads, optimized)
        read_bytes(optimized, "optimised graph")
        size = copy_onnx(optimized, engine)
    if on_progress is not None:
        on_progress("optimising", 1, 1)
    return EngineReport(
        path=engine,
        backend=NAME,
        capability="cpu",
        build_s=time.perf_counter() - start,
        size_mib=size / 2**20,
        version=str(onnxruntime().__version__),
    )


engine_from_onnx = build


def load(engine: Path, options: EngineOptions = DEFAULTS) -> OnnxRuntimeRunner:
    """Return a runner for an engine of this backend or for any ONNX file, with `options.threads` threads."""
    load_onnx(engine, weights=False)
    return OnnxRuntimeRunner(engine, options.threads, options.provider)


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(extent if isinstance(extent, int) else None for extent in value.shape)


def _dtype(value: Any) -> Any:
    if value.type not in _DTYPES:
        raise UserError(f"Input {value.name!r} has the ONNX type {value.type}, which cannot be fed from NumPy.")
    return _DTYPES[value.type]
