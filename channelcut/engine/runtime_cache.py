"""What TensorRT-RTX says of an engine before loading it, and the kernels that it keeps between runs.

The checks of the file run anywhere; the cache needs a GPU and has not run on one yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError
from channelcut.engine.timing_cache import locked, read_cache, write_cache

_REASONS = {
    "VERSION_MISMATCH": "it was built by another version of the library",
    "UNSUPPORTED_CC": "it was built for GPUs of another compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is no engine, or is damaged",
}
_HEADER = 64


def check_validity(session: Any, engine: Path, data: bytes) -> None:
    """Raise `UserError` with the reasons for which the library would refuse the engine; TensorRT proper gives none.

    Without a GPU only a file that is no engine is told; what needs a GPU to know is left to the check for one.
    """
    api = session.api
    if not hasattr(api, "EngineInvalidityDiagnostics"):
        return
    runtime = api.Runtime(session.logger)
    bits = 32 if len(data) < _HEADER else int(runtime.get_engine_validity(data)[1])
    named = api.EngineInvalidityDiagnostics.__members__.items()
    reasons = [_REASONS[name] for name, member in named if name in _REASONS and bits & int(member)]
    if reasons:
        raise UserError(
            f"{session.product} {api.__version__} refuses {str(engine)!r} ({len(data)} bytes): {'; '.join(reasons)}. "
            "Build the engine again from its ONNX file, with this version, for this GPU's compute capability."
        )


def context_from_engine(session: Any, engine: Any, path: Path | None) -> tuple[Any, Any]:
    """Return the execution context, and the runtime cache where one is asked for, filled from its file."""
    if path is None:
        return engine.create_execution_context(), None
    if not hasattr(engine, "create_runtime_config") or not hasattr(session.api, "IRuntimeCache"):
        raise UserError(f"{session.product} has no runtime cache. Leave it out, or take the backend tensorrt_rtx.")
    config = engine.create_runtime_config()
    cache = config.create_runtime_cache()
    known = read_cache(path)
    if known:
        cache.deserialize(known)  # False for another version or GPU: the kernels are then compiled afresh
    config.set_runtime_cache(cache)
    return engine.create_execution_context(config), cache


def save_runtime_cache(cache: Any, path: Path | None) -> None:
    """Write the cache under its lock, in one step. Each run holds what it read, so the last writer has the most."""
    if cache is not None and path is not None:
        with locked(path):
            write_cache(path, bytes(memoryview(cache.serialize())))
