"""The README's table: real detectors and classifiers, cut, proven, exported, built and timed.

    python -m benchmarks.table                    # all networks, resumes where it stopped
    python -m benchmarks.table yolov5n --fresh    # one, from the start

One process a row; every row is a JSON file in benchmarks/results/table/, and `benchmarks/results/table.md` is made of
them. Networks with real weights are FastestDet, NanoDet-m, YOLOv5n and the CIFAR ResNets (see `benchmarks.zoo`); the
Ultralytics ones are built from their YAML with random weights, so they have no accuracy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

import channelcut as cc
from benchmarks.zoo.data import require_assets
from benchmarks.zoo.registry import ENTRIES, Entry
from channelcut import prune
from channelcut.bench.environment import environment
from channelcut.bench.measure import BenchOptions
from channelcut.bench.onnx import measure_onnx
from channelcut.building import build_engine
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically
from channelcut.core.progress import silent
from channelcut.core.result import PruneResult
from channelcut.recovery import recalibrate
from channelcut.sources import open_source

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "table"
BUDGETS: dict[str, dict[str, Any]] = {"keep=0.5": {"keep": 0.5}, "macs=0.7": {"macs": 0.7}}
ULTRALYTICS = ("yolov8n", "yolo11n", "yolo26n")
ALIGN = 8
CALIBRATION_IMAGES = {"coco": 128, "cifar": 512}  # all that coco128 train has
ROW_LIMIT_S = 900


@dataclass(frozen=True)
class Network:
    """One network of the table; `entry` holds its data where it has real weights."""

    name: str
    load: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    entry: Entry | None = None


def networks() -> dict[str, Network]:
    """All rows' networks by name."""
    found = {}
    for name, entry in ENTRIES.items():
        found[name] = Network(name, lambda e=entry: e.load(require_assets()), entry.input_shape, entry)  # type: ignore[misc]
    for name in ULTRALYTICS:
        found[name] = Network(name, open_source(f"ultralytics:{name}.yaml").build, (1, 3, 640, 640))
    return found


def row(network: Network, budget: str) -> dict[str, Any]:
    """Everything that the table says of one network and one budget."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network.load()
    example = torch.rand(network.input_shape)
    start = time.perf_counter()
    result = prune(model, example, **BUDGETS[budget], align=ALIGN)
    seconds = time.perf_counter() - start
    plan, proof = result.plan, result.proof
    found: dict[str, Any] = {
        "network": network.name,
        "budget": budget,
        "align": ALIGN,
        "input": "x".join(map(str, network.input_shape)),
        "macs": [plan.before.macs, plan.after.macs],
        "params": [plan.before.params, plan.after.params],
        "groups": len(result.groups.groups),
        "pins": len(result.groups.pins),
        "proof": proof.to_dict(),
        "stage_seconds": dict(result.seconds),
        "prune_s": seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        found |= deployment(model, result, example, Path(folder))
    if network.entry is not None:
        found["accuracy"] = accuracy(network.entry, model, result)
    return {**found, "environment": environment(1), "command": "python -m benchmarks.table"}


def deployment(model: nn.Module, result: PruneResult, example: Tensor, folder: Path) -> dict[str, Any]:
    """ONNX parity, the latency ratio and the engine."""
    exports = {
        name: cc.export(module, folder / f"{name}.onnx", example)
        for name, module in (("original", model), ("pruned", result.model))
    }
    measured = measure_onnx(folder / "original.onnx", folder / "pruned.onnx", BenchOptions(time_limit_s=40))
    engine = build_engine(folder / "pruned.onnx", "tensorrt_rtx", "sm89", folder / "pruned.engine", silent)
    return {
        "onnx_error": {name: report.max_relative_error for name, report in exports.items()},
        "onnx_simplifier": {name: report.simplifier for name, report in exports.items()},
        "latency_ms": [measured.baseline.median_ms, measured.candidate.median_ms],
        "latency_ratio": [measured.ratio, measured.ratio_low, measured.ratio_high],
        "latency_samples": len(measured.baseline.samples_ms),
        "latency_warnings": list(measured.warnings),
        "engine": {"capability": engine.capability, "size_mib": engine.size_mib, "build_s": engine.build_s},
    }


def accuracy(entry: Entry, model: nn.Module, result: PruneResult) -> dict[str, Any]:
    """The measures of the original, as cut, and after batch-norm recalibration."""
    images = entry.calibration(CALIBRATION_IMAGES["cifar" if "top1" in entry.published else "coco"])
    tuned, recalibration = recalibrate(result.model, list(torch.split(images, 64)))
    return {
        "original": entry.evaluate(model),
        "as_cut": entry.evaluate(result.model),
        "recalibrated": entry.evaluate(tuned),
        "calibration_images": recalibration.images,
        "reference": entry.published,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | budget | MACs | parameters | proof, error | ONNX, error | latency ratio [95 %] | accuracy: "
        "original → as cut → recalibrated | SM89 engine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratio, low, high = r["latency_ratio"]
        lines.append(
            f"| {r['network']} | {r['budget']} | {giga(r['macs'][0])} → {giga(r['macs'][1])} | "
            f"{r['params'][0] / 1e6:.2f} → {r['params'][1] / 1e6:.2f} M | {r['proof']['max_relative_error']:.0e} | "
            f"{r['onnx_error']['pruned']:.0e} | {ratio:.2f} [{low:.2f}, {high:.2f}] | {accuracy_text(r)} | "
            f"{r['engine']['size_mib']:.1f} MiB |"
        )
    return "\n".join(lines) + "\n"


def giga(macs: float) -> str:
    """Multiply-accumulates for people."""
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


def accuracy_text(r: dict[str, Any]) -> str:
    """The first measure of each state."""
    if "accuracy" not in r:
        return "–"
    measure = next(iter(r["accuracy"]["original"]))
    values = [r["accuracy"][state][measure] for state in ("original", "as_cut", "recalibrated")]
    return f"{measure} " + " → ".join(f"{v:.4f}" if measure == "top1" else f"{v:.3f}" for v in values)


def write_table() -> None:
    """Make table.md of the rows that are there."""
    order = {name: i for i, name in enumerate([*ENTRIES, *ULTRALYTICS])}
    rows = [json.loads(path.read_text()) for path in ROWS.glob("*.json")]
    rows = sorted((r for r in rows if "error" not in r), key=lambda r: (order[r["network"]], r["budget"]))
    if rows:
        e = rows[0]["environment"]
        head = f"Made by `python -m benchmarks.table` on {e}.\n\n" if e else ""
        write_atomically(RESULTS / "table.md", (head + table(rows)).encode())


def main() -> None:
    """Run the rows that are not there yet, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="all by default")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--row", nargs=2, metavar=("NETWORK", "BUDGET"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.row:
        name, budget = flags.row
        try:
            found = row(networks()[name], budget)
        except ChannelcutError as error:
            found = {"network": name, "budget": budget, "error": str(error)}
        write_atomically(ROWS / f"{name}-{budget}.json", json.dumps(found, indent=1, default=str).encode())
        return
    names = flags.networks or list(networks())
    wanted = [(name, budget) for name in names for budget in BUDGETS]
    todo = [(n, b) for n, b in wanted if flags.fresh or not (ROWS / f"{n}-{b}.json").exists()]
    for name, budget in track(todo, description="rows"):
        command = [sys.executable, "-m", "benchmarks.table", "--row", name, budget]
        done = subprocess.run(command, timeout=ROW_LIMIT_S, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"{name} {budget} failed: {done.stderr.strip().splitlines()[-1:]}")
    write_table()
    if (RESULTS / "table.md").exists():
        print((RESULTS / "table.md").read_text())


if __name__ == "__main__":
    main()
