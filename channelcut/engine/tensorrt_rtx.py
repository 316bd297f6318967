"""TensorRT-RTX: engines built ahead of time, on machines without a GPU, for named compute capabilities."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.engine.driver import cuda_problem
from channelcut.engine.protocol import DEFAULTS, BuildProgress, EngineOptions, EngineReport
from channelcut.engine.tensorrt_common import build_engine, open_session
from channelcut.engine.tensorrt_runner import TensorRTRunner, runner_from_engine

NAME = "tensorrt_rtx"
PRODUCT = "TensorRT-RTX"


def supported_capabilities() -> tuple[str, ...]:
    """Return the compute capabilities that the installed version builds for, from its own list: ("sm75", ...)."""
    names = (name.lower() for name in _api().ComputeCapability.__members__)
    return tuple(name for name in names if name not in {"none", "current"})


def build(
    onnx: Path, engine: Path, options: EngineOptions = DEFAULTS, on_progress: BuildProgress | None = None
) -> EngineReport:
    """Write an engine for `options.capability` ("sm89", "sm89,sm120"); no GPU is needed for a named one.

    Without a name the engine is for this machine's GPU. Raises `UserError` for a capability that the library does not
    offer (listing those it does), an operator that it cannot parse (naming it), or a file that is not ONNX.
    """
    check(options)
    api, names = _api(), options.capabilities

    def configure(config: Any) -> str:
        members = [getattr(api.ComputeCapability, n.upper()) for n in names] or [api.ComputeCapability.CURRENT]
        config.num_compute_capabilities = len(members)
        for index, member in enumerate(members):
            if not config.set_compute_capability(member, index):
                raise UserError(f"{PRODUCT} {api.__version__} refuses the compute capability {member.name} here.")
        return ",".join(names) or "current"

    return build_engine(open_session(api, PRODUCT, times_kernels=False), onnx, engine, options, on_progress, configure)


engine_from_onnx = build


def load(engine: Path, options: EngineOptions = DEFAULTS) -> TensorRTRunner:
    """Return a runner on this machine's GPU; raises `UserError` without one, or for an engine built for another."""
    return runner_from_engine(open_session(_api(), PRODUCT), engine, options)


def check(options: EngineOptions = DEFAULTS) -> None:
    """Refuse what cannot be built here.

    Raises `MissingExtraError` without the library, and `UserError` for a capability that it does not offer (listing
    those it does), or where none is named and this machine has no GPU.
    """
    api, names, supported = _api(), options.capabilities, supported_capabilities()
    unknown = [name for name in names if name not in supported]
    if unknown:
        raise UserError(
            f"{PRODUCT} {api.__version__} cannot build for {', '.join(map(repr, unknown))}; it offers "
            f"{', '.join(supported)}. For another GPU, build with the tensorrt backend on a machine that has it."
        )
    problem = None if names else cuda_problem()
    if problem is not None:
        raise UserError(
            f"No compute capability is named, so the engine would be for this machine's GPU, but {problem}. Name the "
            f"target: one of {', '.join(supported)}."
        )


def _api() -> Any:
    try:
        return importlib.import_module("tensorrt_rtx")
    except ModuleNotFoundError as problem:
        raise MissingExtraError("tensorrt-rtx", "rtx", "building or running a TensorRT-RTX engine") from problem
    except (ImportError, OSError) as problem:
        raise UserError(
            f"The package tensorrt-rtx is installed but does not load: {problem}. Install it again, for this platform "
            "and Python version."
        ) from problem
