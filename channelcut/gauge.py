"""How long a cut takes beside its original: both as deployed, on the back end that will run them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from channelcut.adapters import deployed_form
from channelcut.bench.measure import BenchOptions, measure
from channelcut.bench.onnx import measure_onnx
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import UserError
from channelcut.core.inputs import of_batch, positional_inputs, shapes_of
from channelcut.core.measurement import Measurement, Ratio
from channelcut.core.progress import Stopwatch
from channelcut.latency.clocks import clock_of
from channelcut.onnx_out.deployed import onnx_from_deployed

Lower = Callable[[Path, Path], object]
"""Writes a float32 file in other precisions."""

Gauging = Callable[..., Measurement]
"""Times a cut, as `Gauge` does."""

BENCH = BenchOptions(time_limit_s=10.0)


@dataclass
class Gauge(AbstractContextManager["Gauge"]):
    """Times cuts of one network against it; used as a context, which holds the files.

    Args:
        model: the original.
        example: an example input, as for `channelcut.prune`.
        deploy: which form of both is timed.
        backend: what runs them, see `engine.registry`.
        precision: what both compute in: `fp32`, or another one whose layers the back end is timed in.
        bench: how they are timed.
        watch: takes the time of it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> from channelcut.gauge import Gauge
        >>> model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)).eval()
        >>> x = torch.rand(1, 3, 32, 32)
        >>> with Gauge(model, x) as gauge:
        ...     measured = gauge(cc.prune(model, x, keep=0.25).model)
        >>> measured.baseline.name
        'original'
    """

    model: nn.Module
    example: Any
    deploy: Deploy = DEFAULT
    backend: str = "onnxruntime"
    bench: BenchOptions = BENCH
    watch: Stopwatch = field(default_factory=Stopwatch)
    precision: str = "fp32"
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Gauge:
        self._folder = tempfile.TemporaryDirectory()
        self._written(self.model, "original")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __call__(self, smaller: nn.Module, lower: Lower | None = None) -> Measurement:
        """The times of the original and of a cut, in turns; of the cut in other precisions where these are written."""
        cut = self._written(smaller, "pruned")
        if lower is not None:
            float32, cut = cut, self._path("lowered")
            with self.watch.stage("convert"):
                lower(float32, cut)
        with self.watch.stage("time"):
            return self._timed(self._path("original"), cut).named("original", "pruned")

    def _timed(self, original: Path, cut: Path) -> Measurement:
        report: Callable[[int, int], None] = lambda done, total: self.watch.progress("time", done, total)  # noqa: E731
        if self.precision == "fp32":
            return measure_onnx(original, cut, self.bench, report, self.backend)
        clock = clock_of(self.backend, self.bench.threads, self.precision)  # as the layers were timed in it
        return measure(clock.network(original), clock.network(cut), self.bench, report)

    def _written(self, model: nn.Module, name: str) -> Path:
        path = self._path(name)
        with self.watch.stage("export"):
            form = deployed_form(model, positional_inputs(model, self.example), self.deploy)
            onnx_from_deployed(form, path)
        return path

    def _path(self, name: str) -> Path:
        assert self._folder is not None, "a Gauge is used as a context: with Gauge(...) as gauge"
        return Path(self._folder.name) / f"{name}.onnx"


def gauge_for(
    model: nn.Module, example: Any, cost: Any, deploy: Deploy = DEFAULT, watch: Stopwatch | None = None
) -> Gauge:
    """The gauge of cuts that are planned by a measured cost: on its back end, threads and batch.

    Args:
        model: the original.
        example: an example input, as for `channelcut.prune`; of its size are the times.
        cost: what `channelcut.measure` returned; its `target` and `shapes` say what it was measured with. Where a
            mixed cost writes cuts in its precisions, its `target` is of the first.
        deploy: which form of both is timed.
        watch: takes the time of it.

    Raises:
        UserError: the cost was measured at another size than that of the example.
    """
    bench = replace(BENCH, threads=cost.target.threads)
    timed = _as_measured(positional_inputs(model, example), getattr(cost, "shapes", ()))
    return Gauge(model, timed, deploy, cost.target.backend, bench, watch or Stopwatch(), cost.target.precision)


def _as_measured(inputs: tuple[Any, ...], measured: tuple[tuple[int, ...], ...]) -> tuple[Any, ...]:
    """The inputs at the batch of those that a cost was measured with."""
    given = shapes_of(inputs)
    if not measured or given == measured:
        return inputs
    if [shape[1:] for shape in given] != [shape[1:] for shape in measured]:
        raise UserError(
            f"cost was measured with inputs of {_words(measured)}, and the example is {_words(given)}: a cut would be "
            "planned for one size and timed at another. Measure with inputs of the size that is deployed, and prune "
            "with the same ones: cost = channelcut.measure(model, x)."
        )
    return of_batch(inputs, next(shape[0] for shape in measured if shape))


def _words(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) or "one number" for shape in shapes)


def ratio_of(measured: Measurement) -> Ratio:
    """The ratio that counts: in processor time of the thread that worked, where that is known, else in wall time."""
    return measured.thread or Ratio(measured.ratio, measured.ratio_low, measured.ratio_high)
