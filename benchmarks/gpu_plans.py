"""Tables and plans for a GPU: layers timed there, plans at shares of the time by these, and what the cuts really take.

PyTorch with channels-last, fp16 and CUDA graphs, at batch 1 and 32: `python -m benchmarks.gpu --plans DIR`. Nothing is
carried over: networks have drawn weights, on which no time depends, YOLO26n at 640 px, NanoDet-m at 320, timm's at 224;
those whose library is not installed are left out, by name. Tables stay in DIR, so that another run goes on. What a plan
is predicted to take stands beside what it takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import channelcut as cc
from benchmarks.gpu_files import SIZES, built
from channelcut.adapters import deployed_form, deployed_groups
from channelcut.bench.environment import environment
from channelcut.bench.inputs import inputs_for
from channelcut.bench.layers.clock import MeasureOptions
from channelcut.bench.layers.torch import TorchClock
from channelcut.bench.measure import BenchOptions, measure
from channelcut.core.deployed import DEFAULT
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically
from channelcut.core.groups import Groups
from channelcut.cost.measured import MeasuredCost
from channelcut.cost.table import Table
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.torch_cuda import runner_from_onnx
from channelcut.latency.measuring import measured
from channelcut.onnx_out.deployed import onnx_from_deployed

NETWORKS = ("resnet50", "yolo26n", "nanodet_m", "mobilenetv2_100", "resnet18")
TARGETS = (0.7, 0.5)
LAYERS = MeasureOptions(half_width=0.05)
_RESERVE_S = 20.0  # of the limit, for the plans of a network


@dataclass(frozen=True)
class Where:
    """What everything is timed on. device: `cuda`, or `cpu` for a dry run. seconds: for each pair of networks.

    layers: how these are timed.
    """

    folder: Path
    device: str = "cuda"
    precision: str = "fp16"
    seconds: float = 3.0
    layers: MeasureOptions = LAYERS


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with drawn weights, and the shape of one input of it."""
    torch.manual_seed(0)
    if name in ("yolo26n", "nanodet_m"):
        side = SIZES.get(name, 640)
        return built(name), (3, side, side)
    import timm

    return timm.create_model(name, pretrained=False).eval(), (3, 224, 224)


def run(
    out: Path,
    where: Where,
    limit_s: float,
    *,
    names: Sequence[str] = NETWORKS,
    batches: Sequence[int] = (1, 32),
    build: Callable[[str], tuple[nn.Module, tuple[int, ...]]] = network,
) -> int:
    """Measure what `out` does not hold yet until `limit_s` is used; returns how many networks and batches remain."""
    start, known = time.monotonic(), json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    rows: list[dict[str, Any]] = known.get("rows", [])
    done = {(row["model"], row["batch"], row["device"], row["precision"]) for row in rows}
    every = [(name, batch) for name in names for batch in batches]
    left = [case for case in every if (*case, where.device, where.precision) not in done]
    for place, (name, batch) in enumerate(left):
        try:
            model, shape = build(name)
        except (ImportError, ChannelcutError) as problem:
            print(f"{name}: left out: {' '.join(str(problem).split())[:200]}")
            continue
        seconds = limit_s - (time.monotonic() - start) - _RESERVE_S
        # One network after the other: a table that is not whole when time is up is gone on with by another run.
        found = rows_of(model, shape, batch, where, seconds) if seconds > 0 else []
        if not found:
            print(f"{len(left) - place} networks and batches left; run again to go on")
            return len(left) - place
        case = {"model": name, "batch": batch, "device": where.device, "precision": where.precision}
        rows += [case | row for row in found]
        data = {"command": "python -m benchmarks.gpu --plans", "environment": environment(1), "rows": rows}
        write_atomically(out, json.dumps(data, indent=1, default=str).encode())
        write_atomically(out.with_suffix(".md"), table(rows).encode())
    return 0


def rows_of(model: nn.Module, shape: tuple[int, ...], batch: int, where: Where, seconds: float) -> list[dict[str, Any]]:
    """The plans of a network at one batch, predicted and measured; none where time was too short for its table."""
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    files = where.folder / "original.onnx", where.folder / "pruned.onnx"
    where.folder.mkdir(parents=True, exist_ok=True)
    try:
        onnx_from_deployed(deployed_form(model, (x,), DEFAULT), files[0])
        groups = deployed_groups(model, cc.analyze(model, x), DEFAULT)
        begin = time.monotonic()
        cost = cost_of(files[0], groups, where, seconds)
    except (ChannelcutError, RuntimeError) as problem:
        return [{"error": " ".join(str(problem).split())[:400]}]
    if time.monotonic() - begin >= seconds:
        return []
    facts = {"table_s": time.monotonic() - begin, "full_ms": cost.full_ms, "step": cost.step, "notes": list(cost.notes)}
    return [{"target": t} | facts | planned(model, groups, cost, t, x, files, where) for t in TARGETS]


def cost_of(file: Path, groups: Groups, where: Where, seconds: float) -> MeasuredCost:
    """The cost of a deployed file, by the table of the device."""
    clock = TorchClock(where.precision, where.device)
    target = clock.target()
    options = replace(where.layers, limit_s=max(seconds, 1.0))
    return measured(file, groups, clock, Table.open(target, where.folder / target.file_name), options)


def planned(
    model: nn.Module,
    groups: Groups,
    cost: MeasuredCost,
    target: float,
    x: torch.Tensor,
    files: tuple[Path, Path],
    where: Where,
) -> dict[str, Any]:
    """One plan by the table, cut and timed beside the original."""
    try:
        plan = cc.plan(model, groups, latency=target, cost=cost)
        small = cc.apply(model, plan)
        onnx_from_deployed(deployed_form(small, (x,), DEFAULT), files[1])
        found = timed(files, where, len(x))
    except (ChannelcutError, RuntimeError) as problem:
        return {"error": " ".join(str(problem).split())[:400]}
    predicted = cost(np.array([group.kept for group in plan.groups], np.int64)) / cost.full_ms
    kept = plan.options.get("kept_importance")
    return {"predicted": predicted, "macs": plan.macs_ratio, "kept_importance": kept, "measurement": found}


def timed(files: tuple[Path, Path], where: Where, batch: int) -> dict[str, Any]:
    """Both files in turns, each through one CUDA graph."""
    options = EngineOptions(precision=where.precision, graph=True)
    works = []
    for file in files:
        runner = runner_from_onnx(file, options, where.device)
        inputs, _ = inputs_for(runner, batch, seed=0)
        works.append(runner.prepared(inputs))
    device = "cuda" if where.device == "cuda" else "cpu stand-in"
    how = BenchOptions(time_limit_s=where.seconds, min_rounds=4, batch=batch, device=device)
    return measure(works[0], works[1], how).to_dict()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = "model", "batch", "device", "precision", "step", "asked", "predicted", "measured (95 %)", "ms", "MACs"
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        where = "cuda" if row["device"] == "cuda" else f"{row['device']} (dry run, no GPU)"
        cells = [row["model"], str(row["batch"]), where, row["precision"], str(row.get("step", "–"))]
        m = row.get("measurement")
        if m is None:
            cells += [str(row.get("target", "–")), row["error"], *["–"] * 3]
        else:
            ratio = f"{m['ratio']:.3f} ({m['ratio_low']:.3f} to {m['ratio_high']:.3f})"
            sides = (m[side]["statistics"]["median_ms"] for side in ("baseline", "candidate"))
            cells += [str(row["target"]), f"{row['predicted']:.3f}", ratio, " → ".join(f"{ms:.2f}" for ms in sides)]
            cells.append(f"{row['macs']:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
