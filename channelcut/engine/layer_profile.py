"""The time of every layer of a TensorRT engine, by the profiler interface that all three libraries share.

Written against the documented API and type-checked; its control flow is tested on a stand-in. It has not run on a GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from channelcut.core.errors import UserError


def layer_profiler(api: Any) -> Any:
    """Return an instance of a subclass of the vendor's `IProfiler`; `runs` holds one dict a run, layer to ms.

    A layer that is reported several times in one run is summed.
    """

    class LayerProfiler(api.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProfiler.__init__(self)
            self.runs: list[dict[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            # Called from C++, through which no exception may pass: nothing here can fail but for want of memory.
            if self.runs:
                self.runs[-1][layer_name] = self.runs[-1].get(layer_name, 0.0) + float(ms)

    return LayerProfiler()


def timed_layers(
    api: Any, product: str, context: Any, run: Callable[[], None], runs: int, warm_up: int = 3
) -> dict[str, float]:
    """Run `run` (one inference, waited for) with a profiler on the context; return the median ms of every layer.

    The profiler is taken off again at the end. The layers are apart in time then, so that their sum is more than one
    inference takes. Raises `UserError` where the library reports nothing.
    """
    profiler = layer_profiler(api)
    context.profiler = profiler
    context.enqueue_emits_profile = False  # reported below, once the stream is idle
    try:
        for number in range(warm_up + runs):
            if number >= warm_up:
                profiler.runs.append({})
            run()
            if not context.report_to_profiler():
                raise UserError(
                    f"{product} {api.__version__} reports no layer times for this engine. Expected an engine that runs "
                    "without a CUDA graph; build it again with this version."
                )
    finally:
        context.profiler = None
    names = dict.fromkeys(name for found in profiler.runs for name in found)
    return {name: statistics.median([found.get(name, 0.0) for found in profiler.runs]) for name in names}
