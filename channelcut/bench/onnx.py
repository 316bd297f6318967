"""Time a pruned ONNX model against its original with ONNX Runtime on the CPU."""

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
) -> Measurement:
    """Interleaved times of both files on the same random, image-like inputs; see `engines.measure_files`.

    An open first axis gets `options.batch`. Raises `UserError` for a file that is not ONNX, inputs that differ between
    the two, or other open axes.
    """
    return measure_files(Comparison(Path(original), Path(pruned), stages=False, memory=False), options, on_progress)
