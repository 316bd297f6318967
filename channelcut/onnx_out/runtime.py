"""ONNX Runtime sessions on the CPU, with its failures turned into errors that a user can act on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.onnx_out import files

if TYPE_CHECKING:
    import onnx

_FAILURES = (
    "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
    "NotFound", "NotImplemented", "RuntimeException",
)  # fmt: skip


def onnxruntime() -> Any:
    """Return the onnxruntime module; raises `MissingExtraError` where it is not installed."""
    try:
        import onnxruntime as module
    except ImportError as problem:
        raise MissingExtraError("onnxruntime", "dev", "running an ONNX model on the CPU") from problem
    return module


def failures() -> tuple[type[BaseException], ...]:
    """Every exception class that ONNX Runtime raises: they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = tuple(getattr(state, name) for name in _FAILURES if hasattr(state, name))
    return (*named, RuntimeError, ValueError)


def session_from_model(model: onnx.ModelProto, threads: int = 1) -> Any:
    """Return an inference session for a model in memory, through a file where it is too large for one message."""
    if files.weight_bytes(model) <= files.EXTERNAL_ABOVE:
        return _session(model.SerializeToString(), "the ONNX model", threads, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        files.save_onnx(model, path)
        return _session(str(path), "the ONNX model", threads, None)


def session_from_file(path: Path, threads: int = 1, optimized: Path | None = None) -> Any:
    """Return an inference session on the CPU with `threads` threads within an operator and one operator at a time.

    `optimized`: where to write the graph as ONNX Runtime optimised it, with the weights in `optimized`.data where the
    model has them in another file. Raises `UserError` when the model cannot be
    loaded.
    """
    return _session(str(path), f"the ONNX file {str(path)!r}", threads, optimized)


def _session(model: str | bytes, what: str, threads: int, optimized: Path | None) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    if threads > 1:
        # Idle threads of one session must not spin while another session is being timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        if optimized.name and files.is_split(Path(str(model))):
            entry = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(entry, optimized.name + files.SUFFIX)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except failures() as problem:
        reason = " ".join(str(problem).split())[:400]
        raise UserError(
            f"ONNX Runtime {ort.__version__} cannot load {what}: {reason} Expected a valid ONNX model made of "
            "operators that this version knows; export it again, or upgrade onnxruntime."
        ) from problem
