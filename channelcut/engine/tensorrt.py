"""TensorRT 10 and 11: engines built and timed on the GPU that will run them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.engine.driver import cuda_problem, current_capability
from channelcut.engine.header import header_from_onnx
from channelcut.engine.protocol import DEFAULTS, BuildProgress, EngineOptions, EngineReport
from channelcut.engine.tensorrt_common import build_engine, open_session
from channelcut.engine.tensorrt_runner import TensorRTRunner, runner_from_engine

NAME = "tensorrt"
PRODUCT = "TensorRT"

_OLDEST = 10


def build(
    onnx: Path, engine: Path, options: EngineOptions = DEFAULTS, on_progress: BuildProgress | None = None
) -> EngineReport:
    """Write an engine for this machine's GPU, with Ultralytics' header where the ONNX file has their metadata.

    Raises what `check` does, and `UserError` for an operator that cannot be parsed (naming it), or a file that is not
    ONNX.
    """
    check(options)
    here = current_capability() or "current"
    session, header = open_session(_api(), PRODUCT), header_from_onnx(onnx)
    return build_engine(session, onnx, engine, options, on_progress, lambda _config: here, header)


def check(options: EngineOptions = DEFAULTS) -> None:
    """Refuse what cannot be built here.

    Raises `MissingExtraError` without the library, and `UserError` without a driver or GPU, or when
    `options.capability` names another GPU than this machine's.
    """
    _api()
    problem = cuda_problem()
    if problem is not None:
        raise UserError(
            f"{PRODUCT} times its kernels on the GPU while it builds, and {problem}. Build on the machine that will "
            "run the engine, or take the backend tensorrt_rtx, which builds for a named GPU without having one."
        )
    here = current_capability() or "current"
    others = [name for name in options.capabilities if name != here]
    if others:
        raise UserError(
            f"{PRODUCT} builds for the GPU of this machine ({here}), not for {', '.join(others)}. Leave the capability "
            "out, build on that GPU, or take the backend tensorrt_rtx."
        )


engine_from_onnx = build


def load(engine: Path, options: EngineOptions = DEFAULTS) -> TensorRTRunner:
    """Return a runner on this machine's GPU; raises `UserError` without one, or for an engine built for another."""
    return runner_from_engine(open_session(_api(), PRODUCT), engine, options)


def _api() -> Any:
    try:
        api = importlib.import_module("tensorrt")
    except ModuleNotFoundError as problem:
        raise MissingExtraError("tensorrt", "tensorrt", "building or running a TensorRT engine") from problem
    except (ImportError, OSError) as problem:
        raise UserError(
            f"The package tensorrt is installed but does not load: {problem}. Its libraries must match the CUDA "
            "version of this machine's driver; install tensorrt again, or tensorrt-cu12 for an older driver."
        ) from problem
    version = str(api.__version__)
    if int(version.partition(".")[0]) < _OLDEST:
        raise UserError(f"{PRODUCT} {version} is too old: expected {_OLDEST} or later, for strongly typed networks.")
    return api
