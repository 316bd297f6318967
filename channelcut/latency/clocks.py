"""The back ends whose layers can be timed one by one, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.bench.layers.clock import LayerClock

CLOCKS = ("onnxruntime", "openvino", "torch_cuda", "tensorrt", "tensorrt_rtx")
_PRECISIONS = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
    "torch_cuda": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16"),
    "tensorrt_rtx": ("fp32", "fp16"),
}


def profile_on(
    backend: str, original: Path, pruned: Path, *, runs: int = 30, threads: int = 1, multiple: int = 8
) -> dict[str, Any]:
    """The time of every layer of both files on a back end, see `bench.profile.profile_pair`.

    Raises:
        UserError: there is no such back end here, or it does not run the files.
    """
    if backend == "onnxruntime":
        from channelcut.bench.profile import profile_pair

        return profile_pair(original, pruned, runs=runs, threads=threads, multiple=multiple)
    from channelcut.bench.profile_engine import profile_kernels

    return profile_kernels(original, pruned, clock_of(backend, threads), runs=runs, multiple=multiple)


def precisions_of(backend: str) -> tuple[str, ...]:
    """What the layers of a back end are timed in; nothing is imported.

    Raises:
        UserError: there is none of that name.
    """
    name = backend.strip().lower().replace("-", "_") if isinstance(backend, str) else ""
    if name not in CLOCKS:
        raise UserError(
            f"There is no back end called {backend!r} whose layers can be timed; known: {', '.join(CLOCKS)}."
        )
    return _PRECISIONS[name]


def clock_of(backend: str, threads: int = 1, precision: str = "fp32") -> LayerClock:
    """The clock of a back end; what it needs is imported here.

    Raises:
        UserError: there is none of that name, or it has no such precision.
    """
    from channelcut.core.inputs import check_whole  # which imports torch: the command line asks this file for names

    check_whole(threads, "threads")
    known, name = precisions_of(backend), backend.strip().lower().replace("-", "_")
    if precision not in known:
        raise UserError(f"The layers of {name} are timed in {' or '.join(known)}; {precision!r} is asked for.")
    if name == "torch_cuda":
        from channelcut.bench.layers.torch import TorchClock

        return TorchClock(precision)
    if name in ("tensorrt", "tensorrt_rtx"):
        from channelcut.bench.layers.tensorrt import TensorRTClock

        return TensorRTClock(name, precision)
    if name == "openvino":
        from channelcut.bench.layers.openvino import OpenVINOClock

        return OpenVINOClock(threads, precision)
    from channelcut.bench.layers.onnxruntime import OnnxRuntimeClock

    return OnnxRuntimeClock(threads, precision)
