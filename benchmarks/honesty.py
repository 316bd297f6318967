"""Is the benchmark fooled? Two copies of one model, a model that is 5 % slower, and one pair measured twice.

    python -m benchmarks.honesty                # writes benchmarks/results/honesty.json and honesty.md; resumes
    python -m benchmarks.honesty --fresh        # from the start

`copies`: a file against its byte-for-byte copy; the 95 % interval should contain 1, in 19 of 20 repetitions on average.
`delay`: the same, where each call of the candidate waits busily for another 5 % of its time; the interval should
lie above 1. `twice`: a network and a narrower one, measured twice; the intervals should overlap.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.progress import track

from channelcut.bench.engines import Comparison, alternating, measure_files
from channelcut.bench.environment import environment
from channelcut.bench.inputs import inputs_for
from channelcut.bench.measure import BenchOptions, measure
from channelcut.bench.pinning import default_cores, pinned
from channelcut.core.files import write_atomically
from channelcut.core.measurement import Measurement
from channelcut.engine.onnxruntime import load

RESULTS = Path(__file__).parent / "results"
DELAY = 0.05
REPEATS = 10
OPTIONS = BenchOptions(warmup_s=0.3, time_limit_s=4.0, target_half_width=0.004)


def network(path: Path, width: int, depth: int = 6, side: int = 64) -> Path:
    """Write `depth` 3×3 convolutions with ReLU of that width as ONNX; random weights, the same every time."""
    generator = np.random.default_rng(0)
    nodes, weights, flow = [], [], "image"
    for i in range(depth):
        shape = (width, width if i else 3, 3, 3)
        values = (generator.standard_normal(shape) / np.sqrt(9 * shape[1])).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("Conv", [flow, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        flow = f"r{i}"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])]
    outputs = [helper.make_tensor_value_info(flow, TensorProto.FLOAT, [1, width, side, side])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def delayed(work: Callable[[], object], share: float) -> Callable[[], None]:
    """The work, followed by a busy wait of `share` of the time that this very call took."""

    def call() -> None:
        start = time.perf_counter()
        work()
        end = time.perf_counter() + share * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass

    return call


def copies(folder: Path) -> dict[str, Any]:
    """The interval of a file against its copy."""
    first = network(folder / "a.onnx", 32)
    second = Path(shutil.copy(first, folder / "b.onnx"))
    return interval(measure_files(comparison(first, second), OPTIONS))


def delay(folder: Path) -> dict[str, Any]:
    """The interval of a file whose calls take 5 % longer against the file."""
    path = network(folder / "a.onnx", 32)
    with pinned(default_cores(1)):
        runners = [load(path) for _ in range(4)]
        inputs, _ = inputs_for(runners[0], 1, 0)
        works = [runner.prepared(inputs) for runner in runners]
        baseline = alternating(works[0], works[3])
        return interval(measure(baseline, delayed(alternating(works[1], works[2]), DELAY), OPTIONS))


def twice(folder: Path) -> dict[str, Any]:
    """Both intervals of one pair."""
    pair = comparison(network(folder / "a.onnx", 32), network(folder / "b.onnx", 16))
    return {"first": interval(measure_files(pair, OPTIONS)), "second": interval(measure_files(pair, OPTIONS))}


def comparison(first: Path, second: Path) -> Comparison:
    """Both files, on one core."""
    return Comparison(first, second, stages=False, memory=False, pin=default_cores(1))


def interval(found: Measurement) -> dict[str, Any]:
    """The ratio, its interval and how much was measured."""
    return {
        "ratio": found.ratio,
        "low": found.ratio_low,
        "high": found.ratio_high,
        "samples": len(found.baseline.samples_ms),
        "cv": found.baseline.cv,
    }


def passed(kind: str, row: dict[str, Any]) -> bool:
    """Whether a repetition says what it should."""
    if kind == "copies":
        return bool(row["low"] <= 1 <= row["high"])
    if kind == "delay":
        return bool(row["low"] > 1)
    return bool(max(row[r]["low"] for r in row) <= min(row[r]["high"] for r in row))


def wrong(kind: str, row: dict[str, Any]) -> bool:
    """Whether the interval excludes the truth, or claims the opposite; an interval that is merely wide is not wrong."""
    return not passed(kind, row) if kind != "delay" else bool(row["high"] < 1)


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The results as Markdown."""
    said = {
        "copies": "two copies: the interval contains 1",
        "delay": f"{DELAY:.0%} delay: the interval lies above 1",
        "twice": "one pair twice: the intervals overlap",
    }
    lines = ["| demonstration | passed | said the contrary | ratios | widest half-interval |", "|---|---|---|---|---|"]
    for kind, found in rows.items():
        single = [r for row in found for r in ((row["first"], row["second"]) if kind == "twice" else (row,))]
        if single:
            good = sum(passed(kind, row) for row in found)
            bad = sum(wrong(kind, row) for row in found)
            low, high = min(r["ratio"] for r in single), max(r["ratio"] for r in single)
            widest = max((r["high"] - r["low"]) / 2 for r in single)
            lines.append(f"| {said[kind]} | {good} of {len(found)} | {bad} | {low:.4f} to {high:.4f} | {widest:.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, and write the results after every repetition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="forget the results that are there")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    flags = parser.parse_args()
    path = flags.out / "honesty.json"
    rows: dict[str, list[dict[str, Any]]] = {"copies": [], "delay": [], "twice": []}
    if path.exists() and not flags.fresh:
        rows |= json.loads(path.read_text())["rows"]
    kinds = {"copies": copies, "delay": delay, "twice": twice}
    missing = [(turn, kind) for turn in range(flags.repeats) for kind in kinds if turn >= len(rows[kind])]
    for _, kind in track(missing, "honesty"):
        with tempfile.TemporaryDirectory() as folder:
            rows[kind].append(kinds[kind](Path(folder)))
        data = {"delay": DELAY, "environment": environment(1), "rows": rows}
        write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())
        write_atomically(flags.out / "honesty.md", table(rows).encode())
    print(table(rows))


if __name__ == "__main__":
    main()
