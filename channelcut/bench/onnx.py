"""Time a pruned ONNX model against its original."""

from __future__ import annotations

from pathlib import Path

from channelcut.bench.engines import Comparison, measure_files
from channelcut.bench.measure import DEFAULTS, BenchOptions, Progress
from channelcut.core.measurement import Measurement


def measure_onnx(
    original: Path,
    pruned: Path,
    options: BenchOptions = DEFAULTS,
    on_progress: Progress | None = None,
    backend: str = "onnxruntime",
) -> Measurement:
    """Interleaved times of both files on the same random, image-like inputs; see `engines.measure_files`.

    An open first axis gets `options.batch`. Raises `UserError` for a file that is not ONNX, inputs that differ between
    the two, or other open axes.
    """
    compared = Comparison(Path(original), Path(pruned), backend, stages=False, memory=False)
    return measure_files(compared, options, on_progress)
