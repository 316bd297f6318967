"""Widths and precisions together: ResNet-56 on CIFAR-10 by OpenVINO, at measured shares of its time.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.mixed      # results/mixed.json, .md

Layers are timed in float32 and int8, one thread. `precision`: no channel goes, and the layers are those with which the
network is quickest within the output error. Its measured share of the time is a budget for the two other ways beside
those that are given: `width`, all in float32, and `both`, in one program. Ranked by fisher on 64 and compensated with
512 training images, 64 of which calibrate int8; accuracy is that of the file on 2,000 test images. The share of
the final file is measured once more, by what OpenVINO's calls take in turns. A row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import channelcut as cc
from benchmarks.rows import rows_in, write_rows
from benchmarks.zoo.data import cifar10, require_assets
from benchmarks.zoo.resnet_cifar import load_resnet56, preprocess
from channelcut.allocation.mixed import quickest
from channelcut.bench.engines import Comparison, measure_files
from channelcut.bench.environment import environment
from channelcut.bench.measure import BenchOptions
from channelcut.closing import lowering_of
from channelcut.cost.bilinear import full_widths
from channelcut.gauge import ratio_of
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.runtime import session_from_model
from channelcut.precision.mixed import LayersLowered

RESULTS = Path(__file__).parent / "results" / "mixed"
BACKEND, TARGETS, MAX_ERROR = "openvino", (0.5, 0.4), 0.02
CALIBRATED, INT8, JUDGED = 512, 64, 2000
X = torch.zeros(1, 3, 32, 32)


class Bench:
    """The network, its images, and what it takes in both precisions."""

    def __init__(self, tables: Path | None, max_error: float) -> None:
        self.model = load_resnet56(require_assets()).eval()
        self.calibration = preprocess(cifar10("train", CALIBRATED)[0])
        images, labels = cifar10("test", JUDGED)
        self.judged = (preprocess(images).numpy(), labels.numpy())
        self.groups = cc.analyze(self.model, X)
        costs = {}
        for precision in ("fp32", "int8"):
            table = None if tables is None else tables / f"{BACKEND}.{precision}.jsonl"
            costs[precision] = cc.measure(
                self.model, X, groups=self.groups, backend=BACKEND, precision=precision, table=table
            )
        self.full_ms = {precision: cost.full_ms for precision, cost in costs.items()}
        self.float32 = costs["fp32"]
        self.cost = cc.mixed_cost(
            self.model, X, costs, self.calibration[:INT8], groups=self.groups, max_error=max_error
        )

    def original(self) -> dict[str, Any]:
        """The network as it is."""
        return self.row(self.model, None, {})

    def precision(self) -> dict[str, Any]:
        """The quickest precisions alone."""
        chosen = quickest(self.cost, full_widths(self.groups.groups))
        return self.row(self.model, LayersLowered(self.cost, chosen), {})

    def cut(self, target: float, *, both: bool) -> dict[str, Any]:
        """Widths, with or without precisions, at a share of the time."""
        cost: Any = self.cost if both else self.float32
        result = cc.prune(self.model, X, latency=target, cost=cost, importance="fisher", calibration=self.calibration)
        said = {"trials": result.plan.options["trials"], "macs": result.plan.macs_ratio}
        return self.row(result.model, lowering_of(self.cost, result.plan), said)

    def row(self, model: nn.Module, lower: LayersLowered | None, said: Mapping[str, Any]) -> dict[str, Any]:
        """A file: its share of the time, its accuracy, and what its precisions do to its outputs."""
        with tempfile.TemporaryDirectory() as folder:
            original, path = Path(folder) / "original.onnx", Path(folder) / "smaller.onnx"
            cc.export(self.model, original, X)
            cc.export(model, path, X)
            found: dict[str, Any] = {"layers": {}, "error": 0.0}
            if lower is not None:
                made = lower(path, Path(folder) / "lowered.onnx")
                path = made.path
                found = {"layers": dict(Counter(lower.layers.values())), "error": made.error}
                found |= {"refused": len(made.refused), "asked_error": made.asked_error}
            compared = Comparison(original, path, BACKEND, stages=False, memory=False)
            ratio = ratio_of(measure_files(compared, BenchOptions(time_limit_s=20.0)))
            return {
                "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, **found,
                "accuracy": accuracy(path, *self.judged), **said,
            }  # fmt: skip


def accuracy(path: Path, images: Any, labels: Any) -> float:
    """The share of images whose class a file finds."""
    session = session_from_model(load_onnx(path))
    name = session.get_inputs()[0].name
    guesses = [int(session.run(None, {name: image[None]})[0].argmax()) for image in images]
    return float(np.mean(np.array(guesses) == labels))


def main() -> None:
    """Measure what is missing, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS, help="shares of the time")
    parser.add_argument("--max-error", type=float, default=MAX_ERROR, help="output error (default 0.02)")
    parser.add_argument("--tables", type=Path, help="folder of layer times; by default the cache directory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_in(RESULTS)
    bench = Bench(given.tables, given.max_error)
    command = " ".join(["python -m benchmarks.mixed", *sys.argv[1:]])

    def measured(key: str, work: Any) -> dict[str, Any]:
        if key not in rows:
            try:
                rows[key] = work() | {"command": command}
            except cc.BudgetError as problem:
                rows[key] = {"refused": str(problem), "command": command}
            content = {"rows": rows, "full_ms": bench.full_ms, "max_error": given.max_error}
            write_rows(RESULTS, content | {"environment": environment(1)}, table(content))
            print(key, {k: v for k, v in rows[key].items() if k != "trials"}, file=sys.stderr, flush=True)
        return dict(rows[key])

    measured("original", bench.original)
    alone = measured("precision", bench.precision)
    for target in (round(alone["ratio"], 2), *given.targets):
        for way in ("width", "both"):
            measured(f"{way} {target:g}", lambda: bench.cut(target, both=way == "both"))  # noqa: B023  run at once


def table(content: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    full = ", ".join(f"{ms:.2f} ms in {name}" for name, ms in content["full_ms"].items())
    lines = [
        "# Widths and precisions together",
        "",
        "`python -m benchmarks.mixed`: ResNet-56 on CIFAR-10 by OpenVINO, one thread of an AVX2 processor on which",
        f"other work ran (uncut: {full}; output error of the precisions at most {content['max_error']:g}). Accuracy",
        f"on {JUDGED} test images, after compensation, without training.",
        "",
        "| way, budget | measured | MACs | int8 layers | error of int8 | accuracy | plans |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in content["rows"].items():
        if "ratio" not in row:
            lines.append(f"| {key} | {row['refused'][:160]} | | | | | |")
            continue
        interval = f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        lines.append(
            f"| {key} | {interval} | {row.get('macs', 1):.3f} | {row['layers'].get('int8', 0)} | {row['error']:.3f} | "
            f"{row['accuracy']:.3f} | {len(row.get('trials', ())) or '–'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
