"""Where the time goes on other back ends than ONNX Runtime, traced back to the layers of the ONNX files.

A time is given to the layer whose weight a kernel reads. TensorRT names a layer of an engine after the ONNX nodes that
it is made of, joined by " + "; that was not run on a GPU yet. Widths, operations and bytes are those of the ONNX files.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from channelcut.bench.inputs import inputs_for
from channelcut.bench.layers.clock import Kernel, LayerClock
from channelcut.bench.profile import layer_times, layers_of, merged, paired
from channelcut.core.errors import UserError
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.registry import require

BACKENDS = ("tensorrt", "tensorrt_rtx")


def profile_engines(
    original: Path, pruned: Path, backend: str, options: EngineOptions, *, runs: int = 30, multiple: int = 8
) -> dict[str, Any]:
    """Build both files for this machine's GPU, time every layer, in turns; the same values as `profile.profile_pair`.

    `options`: those of the build and of the run. What is memory-bound is not judged: the balance of the GPU is not
    measured. Raises `UserError` without a GPU, or for files that cannot be built.
    """
    name = backend.replace("-", "_")
    if name not in BACKENDS:
        raise UserError(f"Engines are built by {' or '.join(BACKENDS)}; {backend!r} builds none.")
    module = require(name)
    plain = replace(options, graph=False)  # a recorded graph has no layers
    with tempfile.TemporaryDirectory() as folder:
        times: list[dict[str, float]] = []
        paths = (original, pruned)
        for side, path in enumerate(paths):
            module.build(path, Path(folder) / f"{side}.engine", plain)
        runners: list[Any] = [module.load(Path(folder) / f"{side}.engine", plain) for side in (0, 1)]
        for side in (0, 1, 1, 0):
            inputs, _ = inputs_for(runners[side], plain.batch[1], seed=0)
            times.append(runners[side].layer_times(inputs, max(1, runs // 2)))
    halves = [layers_from_engine(path, found) for path, found in zip((*paths, *paths[::-1]), times, strict=True)]
    found = paired(merged(halves[0], halves[3]), merged(halves[1], halves[2]), None, multiple)
    return found | {"backend": name}


def profile_kernels(
    original: Path, pruned: Path, clock: LayerClock, *, runs: int = 30, multiple: int = 8
) -> dict[str, Any]:
    """The same of what a back end that times layers makes of both files as they are, such as OpenVINO.

    Raises `UserError` where it does not run the files.
    """
    paths = (original, pruned, pruned, original)
    halves = [layers_from_kernels(path, clock.kernels(path, max(1, runs // 2))) for path in paths]
    found = paired(merged(halves[0], halves[3]), merged(halves[1], halves[2]), None, multiple)
    return found | {"backend": clock.target().backend}


def layers_from_kernels(path: Path, kernels: Iterable[Kernel]) -> dict[str, dict[str, Any]]:
    """Give the kernels of a running file to the layers whose weights they read; the others are summed by operator."""
    facts = layer_times(path, 1)
    names, _ = layers_of(path)
    rows: dict[str, dict[str, Any]] = {}
    for kernel in kernels:
        known = sorted({names[name] for name in kernel.names if name in names})
        _add(rows, facts, known[0] if kernel.layer and known else f"all {kernel.op}", kernel.op, kernel.ms)
    return rows


def layers_from_engine(path: Path, times: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Give an engine's layer times, in ms, to the layers of its ONNX file, as `profile.layer_times` describes them."""
    facts = layer_times(path, 1)
    names, _ = layers_of(path)
    rows: dict[str, dict[str, Any]] = {}
    for said, ms in times.items():
        known = [names[part] for part in re.split(r"\s*\+\s*", said) if part in names]
        _add(rows, facts, known[0] if known else said, "–", ms)
    return rows


def _add(rows: dict[str, dict[str, Any]], facts: Mapping[str, dict[str, Any]], layer: str, op: str, ms: float) -> None:
    """Add to a layer's time; `facts`: what is known of the layers of the file."""
    old = facts.get(layer, {"op": op, "macs": 0, "bytes": 0, "width": None, "intensity": 0.0})
    rows.setdefault(layer, {**old, "us": 0.0})["us"] += 1000 * ms
