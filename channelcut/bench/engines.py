"""Time two files against each other on any backend: interleaved, on the same inputs, with what surrounds the times.

The optional parts of a runner that are used where they are there: `stages(inputs)` with `upload()`, `compute()` and
`download()`, each of which returns when it is done; `wait`, "spin" or "block", how the host waits for the device;
`device_memory_bytes`. No GPU runner has been timed by this code on a GPU yet.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from channelcut.bench.inputs import described, inputs_for
from channelcut.bench.measure import DEFAULTS, BenchOptions, Progress, Work, measure
from channelcut.bench.memory import peak_memory
from channelcut.bench.pinning import pinned
from channelcut.bench.suppression import suppression_of
from channelcut.core.errors import UserError
from channelcut.core.measurement import Latency, Measurement, suppression_words
from channelcut.engine.protocol import Arrays, EngineOptions
from channelcut.engine.registry import require
from channelcut.onnx_out.files import file_bytes, load_onnx
from channelcut.onnx_out.subnormal import subnormal_weights

STAGES = ("upload", "compute", "download")
_STAGE_ROUNDS, _STAGE_S = 200, 2.0


@dataclass(frozen=True)
class Comparison:
    """What to compare and what to tell beside the times.

    backend: a name of `engine.registry`. An .onnx file is built into an engine first where the backend is not
    onnxruntime. capability: for that build. wait: "spin" or "block", for runners that know both. stages: time copies
    to the device, computation and copies back apart. memory: run each file once in a process of its own for its peak
    memory. pin: cores to run on, empty for all. cuda: the package that TensorRT engines run through, "bindings" or
    "pycuda"; None: whichever imports. size: height and width for inputs that leave them open.
    """

    baseline: Path
    candidate: Path
    backend: str = "onnxruntime"
    capability: str | None = None
    wait: str | None = None
    stages: bool = True
    memory: bool = True
    pin: tuple[int, ...] = ()
    cuda: str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.wait not in (None, "spin", "block"):
            raise UserError(f"--wait {self.wait!r} is unknown: use spin or block.")


def measure_files(
    what: Comparison, options: BenchOptions = DEFAULTS, on_progress: Progress | None = None
) -> Measurement:
    """Interleaved times of both files on the same random, image-like inputs; see `measure.measure`.

    The measurement's `details` hold sizes, peak memory, the stages' times, the cores and the way of waiting. Raises
    `UserError` for files that the backend cannot load and inputs that differ between the two.
    """
    with pinned(what.pin) as cores, _built(what) as (baseline, candidate):
        settings = EngineOptions(threads=options.threads, capability=what.capability, cuda=what.cuda)
        backend = require(what.backend)
        # Where a session's weights happen to lie in memory moves its time by a few per cent, and the later session
        # often fares worse. So each file is loaded twice, in mirrored order, and its calls alternate between the two.
        loaded: list[Any] = [backend.load(path, settings) for path in (baseline, candidate, candidate, baseline)]
        notes = _wait(loaded, what.wait)
        if loaded[0].inputs != loaded[1].inputs:
            raise UserError(
                f"The two files have different inputs ({described(loaded[0])} and {described(loaded[1])}), so their "
                "times cannot be compared. Export both from the same example input."
            )
        inputs, batch = inputs_for(loaded[0], options.batch, options.seed, what.size)
        prepared = [runner.prepared(inputs) for runner in loaded]
        works = alternating(prepared[0], prepared[3]), alternating(prepared[1], prepared[2])
        found = measure(*works, replace(options, batch=batch), on_progress)
        details: dict[str, Any] = {"backend": what.backend, "batch": batch, "pinned_cores": list(cores), **notes}
        details["suppression"] = _suppression(what)
        details["file_bytes"] = {"baseline": file_bytes(baseline), "candidate": file_bytes(candidate)}
        if what.stages:
            details["stages"] = stage_times((loaded[0], loaded[1]), inputs)
        if what.memory:
            details["memory"] = {
                name: peak_memory(path, what.backend, (options.threads, options.batch), what.cuda, what.size)
                for name, path in (("baseline", baseline), ("candidate", candidate))
            }
    warned = _subnormal(("baseline", what.baseline), ("candidate", what.candidate))
    if "one side only" in (words := suppression_words(details["suppression"])):
        warned.append(
            f"suppression is {words}: the two do not do the same work. Time two files with it or two without "
            "(--nms chooses, of Ultralytics' detectors)"
        )
    return replace(found, details=details, warnings=(*found.warnings, *warned))


def _suppression(what: Comparison) -> dict[str, str]:
    """Where each side's boxes are suppressed; empty where nothing is known of either."""
    found = {"baseline": suppression_of(what.baseline), "candidate": suppression_of(what.candidate)}
    return found if any(found.values()) else {}


def _subnormal(*files: tuple[str, Path]) -> list[str]:
    """A warning for each ONNX file with subnormal weights, whose time is theirs."""
    found = []
    for name, path in files:
        count, total = subnormal_weights(load_onnx(path)) if path.suffix.lower() == ".onnx" else (0, 0)
        if count:
            found.append(
                f"{count:,} of the {total:,} weights of the {name} are subnormal (below 1.2e-38), over which "
                "processors take many times as long: its time may be theirs. `channelcut export` writes none"
            )
    return found


def stage_times(runners: tuple[Any, Any], inputs: Arrays) -> dict[str, Any]:
    """Median and 95th percentile of every stage in ms, in turns; `compute` alone where a runner has none."""
    works = [_stages(runner, inputs) for runner in runners]
    times: list[dict[str, list[float]]] = [{name: [] for name in side} for side in works]
    end = time.perf_counter() + _STAGE_S
    for turn in range(_STAGE_ROUNDS):
        for side in (0, 1) if turn % 2 else (1, 0):
            for name, work in works[side].items():
                start = time.perf_counter()
                work()
                times[side][name].append(max(time.perf_counter() - start, 1e-9) * 1000)
        if time.perf_counter() > end:
            break
    return {
        label: {name: _summary(name, samples) for name, samples in side.items()}
        for label, side in zip(("baseline", "candidate"), times, strict=True)
    }


def alternating(first: Work, second: Work) -> Work:
    """A call that runs one of the two, by turns."""
    turns = itertools.cycle((first, second))

    def call() -> object:
        return next(turns)()

    return call


def _summary(name: str, samples: list[float]) -> dict[str, float]:
    latency = Latency(name, tuple(samples))
    return {"median_ms": latency.median_ms, "p95_ms": latency.p95_ms, "samples": len(samples)}


def _stages(runner: Any, inputs: Arrays) -> dict[str, Work]:
    staged = getattr(runner, "stages", None)
    if staged is None:
        return {"compute": runner.prepared(inputs)}
    parts = staged(inputs)
    return {name: getattr(parts, name) for name in STAGES}


def _wait(runners: list[Any], wait: str | None) -> dict[str, Any]:
    """Tell every runner how to wait; a runner on the CPU computes in the calling thread and has no such choice."""
    if wait is None:
        return {}
    if not all(hasattr(runner, "wait") for runner in runners):
        return {"wait": "not applicable: this backend's calls return when the work is done"}
    for runner in runners:
        runner.wait = wait
    return {"wait": wait}


@contextmanager
def _built(what: Comparison) -> Iterator[tuple[Path, Path]]:
    """Both files as the backend loads them: .onnx files become engines in a temporary folder, unless they run as is."""
    paths = (what.baseline, what.candidate)
    if what.backend.replace("-", "_").startswith("onnxruntime"):
        yield paths
        return
    settings = EngineOptions(capability=what.capability, resolution=None if what.size is None else (what.size,) * 3)
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for place, path in enumerate(paths):
            engine = path
            if path.suffix.lower() == ".onnx":
                engine = Path(folder) / f"{place}.engine"
                require(what.backend).build(path, engine, settings)
            made.append(engine)
        yield made[0], made[1]
