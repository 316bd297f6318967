"""The back ends whose layers can be timed one by one, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.bench.layers.clock import LayerClock

CLOCKS = ("onnxruntime",)


def clock_of(backend: str, threads: int = 1, precision: str = "fp32") -> LayerClock:
    """The clock of a back end; what it needs is imported here.

    Raises:
        UserError: there is none of that name, or it has no such precision.
    """
    if threads < 1:
        raise UserError(f"The number of threads is {threads}; expected at least 1.")
    name = backend.strip().lower().replace("-", "_")
    if name == "onnxruntime":
        if precision != "fp32":
            raise UserError(f"ONNX Runtime's layers are timed in fp32 on the CPU; {precision!r} is not measured.")
        from channelcut.bench.layers.onnxruntime import OnnxRuntimeClock

        return OnnxRuntimeClock(threads)
    raise UserError(f"There is no back end called {backend!r} whose layers can be timed; known: {', '.join(CLOCKS)}.")
