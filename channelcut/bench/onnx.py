"""Time a pruned ONNX model against its original with ONNX Runtime on the CPU."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from channelcut.bench.measure import DEFAULTS, BenchOptions, Progress, Work, measure
from channelcut.core.errors import UserError
from channelcut.core.measurement import Measurement
from channelcut.engine.onnxruntime import OnnxRuntimeRunner, load
from channelcut.engine.protocol import Array, EngineOptions
from channelcut.export.inputs import random_array


def measure_onnx(
    original: Path,
    pruned: Path,
    options: BenchOptions = DEFAULTS,
    on_progress: Progress | None = None,
) -> Measurement:
    """Interleaved times of both files on the same random, image-like inputs; see `measure.measure`.

    An open first axis gets `options.batch`. Raises `UserError` for a file that is not ONNX, inputs that differ between
    the two, or other open axes.
    """
    settings = EngineOptions(threads=options.threads)
    # Where a session's weights happen to lie in memory moves its time by a few per cent, and the later session often
    # fares worse. So each file is loaded twice, in mirrored order, and its calls alternate between its two sessions.
    loaded = [load(Path(path), settings) for path in (original, pruned, pruned, original)]
    runners = [loaded[0], loaded[1]]
    if runners[0].inputs != runners[1].inputs:
        raise UserError(
            f"The two ONNX files have different inputs ({_described(runners[0])} and {_described(runners[1])}), so "
            "their times cannot be compared. Export both from the same example input."
        )
    inputs, batch = _inputs(runners[0], options)
    prepared = [runner.prepared(inputs) for runner in loaded]
    baseline, candidate = alternating(prepared[0], prepared[3]), alternating(prepared[1], prepared[2])
    return measure(baseline, candidate, replace(options, batch=batch), on_progress)


def alternating(first: Work, second: Work) -> Work:
    """A call that runs one of the two, by turns."""
    turns = itertools.cycle((first, second))

    def call() -> object:
        return next(turns)()

    return call


def _inputs(runner: OnnxRuntimeRunner, options: BenchOptions) -> tuple[dict[str, Array], int]:
    """Random inputs by name, and how many items one call computes."""
    generator = np.random.default_rng(options.seed)
    made: dict[str, Array] = {}
    for name, (shape, dtype) in runner.inputs.items():
        if any(extent is None for extent in shape[1:]):
            raise UserError(
                f"Input {name!r} has open axes besides the batch: {shape}. Export with the resolution that you deploy."
            )
        extents = [options.batch if extent is None else extent for extent in shape]
        made[name] = random_array(extents, dtype, generator)
    batch = next((a.shape[0] for a in made.values() if a.ndim), 1)
    return made, batch


def _described(runner: OnnxRuntimeRunner) -> str:
    return ", ".join(f"{name} {shape} {np.dtype(dtype)}" for name, (shape, dtype) in runner.inputs.items())
