"""Milliseconds from measured layers against milliseconds of networks that were really cut, on this machine.

    python -m benchmarks.latency                           # four networks, 50 random choices of widths each
    python -m benchmarks.latency --choices 10 --models yolo26n --table FILE     # goes on where it stopped

Every group keeps a random share between a quarter and all of its channels, as a multiple of the step that was found
(series `aligned`), or any number of them (series `any`, half as many). The network is cut, written as it is deployed,
and timed beside the uncut one in turns for at most 15 s: processor time of one thread, with the 95 % interval of the
ratio. Predicted is its share of the uncut network's time; what multiply-accumulates predict stands beside. Weights are
random: times do not depend on them. Cuts are not proven, and files are not compared with their modules: neither
changes a file. Staircases are times of lone layers. Results of several targets (processor, back end, version) stand
beside one another.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import channelcut as cc
from channelcut.adapters import deployed_form, deployed_groups
from channelcut.allocation import admissible_widths
from channelcut.allocation.steps import width_alignment
from channelcut.bench.environment import environment
from channelcut.bench.layers.clock import LayerClock, MeasureOptions, timed
from channelcut.bench.measure import BenchOptions, measure
from channelcut.core.deployed import DEFAULT
from channelcut.core.files import write_atomically
from channelcut.core.groups import Groups
from channelcut.core.quiet import quietly
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.cost.kinds import Entry, LayerKind, Widths
from channelcut.cost.measured import MeasuredCost
from channelcut.cost.table import Table
from channelcut.gauge import ratio_of
from channelcut.latency.clocks import clock_of
from channelcut.latency.halved import narrowed
from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.onnx_out.dynamic import OpenAxes
from channelcut.onnx_out.files import save_onnx
from channelcut.onnx_out.recording import exported
from channelcut.onnx_out.simplify import simplified_by_onnxsim

RESULTS = Path(__file__).parent / "results"
MODELS = {
    "resnet50": "torchvision:resnet50",
    "yolo26n": "ultralytics:yolo26n.yaml",
    "yolov8n": "ultralytics:yolov8n.yaml",
    "nanodet_m": "",
}
SERIES = ("aligned", "any")
LEAST = 0.25  # of each group's channels
BENCH = BenchOptions(time_limit_s=15.0, warmup_s=0.3)
SQUARE = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)), ("strides", (1, 1)))
POINT = (("kernel_shape", (1, 1)), ("strides", (1, 1)))
# A kind, what is held, and which side is varied.
STAIRS = {
    "3×3, 64 → C, 40×40": (SQUARE, "cout", 64),
    "3×3, C → 64, 40×40": (SQUARE, "cin", 64),
    "1×1, 128 → C, 40×40": (POINT, "cout", 128),
    "1×1, C → 128, 40×40": (POINT, "cin", 128),
}
SWEEP = (*range(8, 129, 8), 12, 20, 28, 31, 33, 36, 44, 52, 60, 63, 65, 100, 127)


class _Tensors(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.model = module

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(tensor_leaves(self.model(*inputs)))


def opened(name: str) -> tuple[nn.Module, Any]:
    """The network with random weights, and an example."""
    torch.manual_seed(0)
    if name == "nanodet_m":
        from benchmarks.zoo import nanodet

        return nanodet.build().eval(), torch.rand(1, 3, nanodet.INPUT_SIZE, nanodet.INPUT_SIZE)
    from channelcut.sources import open_source

    model, example = open_source(MODELS[name]).open()
    return model, example


def written(model: nn.Module, example: Any, path: Path) -> None:
    """The deployed form as a file, simplified as `export` does it, without the comparison."""
    form = deployed_form(model, (example,), DEFAULT)
    module = _Tensors(form.module).eval()
    with torch.no_grad(), quietly():
        outputs = [f"output{i}" for i in range(len(module(*form.inputs)))]
        recorded, _, _ = exported(module, form.inputs, (["images"], outputs), OpenAxes(batch=False, size=False), 20)
        save_onnx(simplified_by_onnxsim(recorded), path)


def drawn(groups: Groups, align: int, seed: int) -> NDArray[np.int64]:
    """A random width of every group."""
    generator = np.random.default_rng(seed)
    found = []
    for group in groups.groups:
        choices = admissible_widths(group.widths, width_alignment(groups, group, align))
        wanted = generator.uniform(LEAST, 1.0) * group.width
        found.append(int(choices[np.argmin(np.abs(choices - wanted))]))
    return np.array(found, np.int64)


class Network:
    """One network with its cost, ready to be cut."""

    def __init__(self, name: str, table: Path | None, clock: LayerClock, seconds: float | None) -> None:
        self.model, self.example = opened(name)
        groups = cc.analyze(self.model, self.example)
        self.groups = deployed_groups(self.model, groups, DEFAULT)
        self.clock, start = clock, time.perf_counter()
        options = MeasureOptions() if seconds is None else MeasureOptions(limit_s=seconds)
        self.cost: MeasuredCost = cc.measure(
            self.model, self.example, groups=groups, backend=clock.target().backend, table=table, options=options
        )
        self.seconds = time.perf_counter() - start
        self.macs = network_costs(self.model, self.groups)["macs"]
        self.full = full_widths(self.groups.groups)

    def facts(self) -> dict[str, Any]:
        """What was measured of the uncut network."""
        return {
            "full_ms": self.cost.full_ms,
            "lone_sum_ms": self.cost.lone_ms,
            "scale": list(self.cost.scale),
            "step": self.cost.step,
            "layers": len(self.cost.layers),
            "others_share": sum(o.full_ms for o in self.cost.others) / self.cost.lone_ms,
            "measure_s": self.seconds,
            "notes": list(self.cost.notes),
        }

    def row(self, series: str, seed: int, whole: Path, folder: Path) -> dict[str, Any]:
        """One choice of widths, predicted and measured, as shares of the uncut network's time."""
        widths = drawn(self.groups, self.cost.step if series == "aligned" else 1, seed)
        written(narrowed(self.model, self.groups, widths), self.example, folder / "cut.onnx")
        runs = [self.clock.network(path) for path in (whole, folder / "cut.onnx")]
        found = measure(runs[0], runs[1], BENCH)
        ratio = ratio_of(found)
        return {
            "series": series,
            "seed": seed,
            "measured": ratio.estimate,
            "interval": [ratio.low, ratio.high],
            "predicted": self.cost(widths) / self.cost.full_ms,
            "macs": self.macs(widths) / self.macs(self.full),
            "original_ms": found.baseline.median_ms,
            "widths": widths.tolist(),
        }


def staircases(clock: LayerClock, table: Path | None) -> dict[str, dict[int, float]]:
    """Times of a few lone layers by the width of one side, in ms."""
    times = Table.open(clock.target(), table)
    found: dict[str, dict[int, float]] = {}
    for name, (attributes, side, other) in STAIRS.items():
        kind = LayerKind("Conv", (1,), (40, 40), attributes, ("Relu",))
        entries = [Entry(kind, Widths(other, c) if side == "cout" else Widths(c, other)) for c in SWEEP]
        for rows in timed(
            clock, times.missing(entries), MeasureOptions(), lambda *_: None, times.facts.get("reference_ms")
        ):
            times.add(rows)
        known = times.medians(kind)
        found[name] = {c: known[e.widths] for c, e in sorted(zip(SWEEP, entries, strict=True)) if e.widths in known}
    return found


def errors(rows: Sequence[dict[str, Any]], by: str = "predicted") -> NDArray[np.float64]:
    """The relative error of every row."""
    return np.array([abs(row[by] / row["measured"] - 1) for row in rows])


def table_of(targets: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Predicted and measured times",
        "",
        "`python -m benchmarks.latency`, see the module's text.",
    ]
    for target, data in sorted(targets.items()):
        lines += ["", f"## {target}", "", *_predictions(data), "", "Staircases, ms by the width C:", "", *_stairs(data)]
    return "\n".join(lines) + "\n"


def _predictions(data: Mapping[str, Any]) -> list[str]:
    lines = [
        "| network | uncut | lone layers and the rest, summed | widths | choices | share of time left | "
        "error: median, 90 %, max | within 10 % | measured to, median | error by MACs: median, max |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in data["models"].items():
        for series in SERIES:
            rows = [row for row in found["rows"] if row["series"] == series]
            if not rows:
                continue
            error, macs = errors(rows), errors(rows, "macs")
            spread = [row["measured"] for row in rows]
            lines.append(
                f"| {name} | {found['facts']['full_ms']:.1f} ms | {found['facts']['lone_sum_ms']:.1f} ms | "
                f"{'multiples of ' + str(found['facts']['step']) if series == 'aligned' else 'any'} | {len(rows)} | "
                f"{min(spread):.2f} to {max(spread):.2f} | {np.median(error):.1%}, {np.quantile(error, 0.9):.1%}, "
                f"{error.max():.1%} | {int((error <= 0.1).sum())} of {len(rows)} | "
                f"±{np.median([(r['interval'][1] - r['interval'][0]) / 2 / r['measured'] for r in rows]):.1%} | "
                f"{np.median(macs):.1%}, {macs.max():.1%} |"
            )
    return lines


def _stairs(data: Mapping[str, Any]) -> list[str]:
    stairs = data.get("staircases", {})
    widths = sorted({int(c) for times in stairs.values() for c in times})
    lines = ["| C | " + " | ".join(stairs) + " |", "|---|" + "---|" * len(stairs)]
    for c in widths:
        cells = [times.get(c, times.get(str(c))) for times in stairs.values()]
        lines.append(f"| {c} | " + " | ".join("–" if ms is None else f"{ms:.3f}" for ms in cells) + " |")
    return lines


def run(out: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Measure what `out` does not hold yet; writes it after every row."""
    clock = clock_of(flags.backend)
    targets: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["targets"] if out.is_file() else {}
    data = targets.setdefault(str(clock.target()), {"models": {}})
    data["command"] = "python -m benchmarks.latency"

    def save() -> None:
        data["environment"] = environment(1)
        write_atomically(out, json.dumps({"targets": targets}, indent=1, default=str).encode())
        write_atomically(out.with_suffix(".md"), table_of(targets).encode())

    for name in flags.models:
        rows = data["models"].get(name, {}).get("rows", [])
        wanted = [(s, i) for i in range(flags.choices) for s in SERIES if s == "aligned" or i < flags.choices // 2]
        missing = [key for key in wanted if key not in {(row["series"], row["seed"]) for row in rows}]
        if not missing and not flags.again:
            continue
        network = Network(name, flags.table, clock, flags.seconds)
        data["models"][name] = {"facts": network.facts(), "rows": rows}
        for row in rows:  # what was measured stays; what is predicted is of this table
            row["predicted"] = network.cost(np.array(row["widths"])) / network.cost.full_ms
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.onnx"
            written(network.model, network.example, whole)
            save()
            for series, seed in missing:
                rows.append(network.row(series, seed, whole, Path(folder)))
                row = rows[-1]
                print(f"{name} {series} {seed}: {row['predicted']:.3f} for {row['measured']:.3f}", flush=True)
                save()
    if not data.get("staircases"):
        data["staircases"] = staircases(clock, flags.table)
    save()
    return targets


def main() -> None:
    """Parse and run."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    flags.add_argument("--choices", type=int, default=50, help="random choices of widths for each network")
    flags.add_argument("--again", action="store_true", help="predict anew where all was measured")
    flags.add_argument("--backend", default="onnxruntime")
    flags.add_argument("--table", type=Path, help="of layer times; by default the one in the cache directory")
    flags.add_argument("--seconds", type=float, help="limit for the layers of each network")
    flags.add_argument("--out", type=Path, default=RESULTS / "latency.json")
    chosen = flags.parse_args()
    torch.set_num_threads(1)
    print(table_of(run(chosen.out, chosen)))


if __name__ == "__main__":
    main()
