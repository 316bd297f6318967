"""Tables and plans for a GPU: layers timed there, plans at shares of the time by these, corrected by what cuts take.

PyTorch with channels-last, fp16 and CUDA graphs, at batch 1 and 32: `python -m benchmarks.gpu --plans DIR`. Nothing is
carried over: networks have drawn weights, on which no time depends, YOLO26n at 640 px, NanoDet-m at 320, timm's at 224;
those whose library is not installed are left out, by name. Tables stay in DIR, so that another run goes on. Every plan
is made as `channelcut.prune(latency=...)` makes it: cut, timed beside the original, corrected, until what is measured
is what was asked for, or is shown to be out of reach. What each attempt was predicted to take stands beside what it
took.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import channelcut as cc
from benchmarks.gpu_files import SIZES, built
from channelcut.bench.environment import environment
from channelcut.bench.layers.clock import MeasureOptions
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically
from channelcut.cost.measured import MeasuredCost

NETWORKS = ("resnet50", "yolo26n", "nanodet_m", "mobilenetv2_100", "resnet18")
TARGETS = (0.7, 0.5)
LAYERS = MeasureOptions(half_width=0.05)
_RESERVE_S = 60.0  # of the limit, for the plans of a network


@dataclass(frozen=True)
class Where:
    """What everything is timed on.

    folder: of the table. backend, precision: as for `channelcut.measure`; one that needs no GPU makes a dry run.
    layers: how these are timed.
    """

    folder: Path
    backend: str = "torch_cuda"
    precision: str = "fp16"
    layers: MeasureOptions = LAYERS

    @property
    def table(self) -> Path:
        """The file of the layers' times."""
        return self.folder / f"{self.backend}-{self.precision}.jsonl"


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
    done = {(row["model"], row["batch"], row["backend"], row["precision"]) for row in rows}
    every = [(name, batch) for name in names for batch in batches]
    left = [case for case in every if (*case, where.backend, where.precision) not in done]
    where.folder.mkdir(parents=True, exist_ok=True)
    for place, (name, batch) in enumerate(left):
        try:
            model, shape = build(name)
        except (ImportError, ChannelcutError) as problem:
            print(f"{name}: left out: {_words(problem)}")
            continue
        seconds = limit_s - (time.monotonic() - start) - _RESERVE_S
        # One network after the other: a table that is not whole when time is up is gone on with by another run.
        found = rows_of(model, shape, batch, where, seconds) if seconds > 0 else []
        if not found:
            print(f"{len(left) - place} networks and batches left; run again to go on")
            return len(left) - place
        case = {"model": name, "batch": batch, "backend": where.backend, "precision": where.precision}
        rows += [case | row for row in found]
        data = {"command": "python -m benchmarks.gpu --plans DIR", "environment": environment(1), "rows": rows}
        write_atomically(out, json.dumps(data, indent=1, default=str).encode())
        write_atomically(out.with_suffix(".md"), table(rows).encode())
    return 0


def rows_of(model: nn.Module, shape: tuple[int, ...], batch: int, where: Where, seconds: float) -> list[dict[str, Any]]:
    """The plans of a network at one batch, predicted and measured; none where time was too short for its table."""
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    begin = time.monotonic()
    try:
        groups = cc.analyze(model, x)
        cost = cc.measure(
            model, x, groups=groups, backend=where.backend, precision=where.precision, batch=batch, table=where.table,
            options=replace(where.layers, limit_s=max(seconds, 1.0)),
        )  # fmt: skip
    except (ChannelcutError, RuntimeError) as problem:
        return [{"target": target, "error": _words(problem)} for target in TARGETS]
    if time.monotonic() - begin >= seconds:
        return []
    facts = {"table_s": time.monotonic() - begin, "full_ms": cost.full_ms, "step": cost.step, "notes": list(cost.notes)}
    return [{"target": target} | facts | planned(model, cost, target, x) for target in TARGETS]


def planned(model: nn.Module, cost: MeasuredCost, target: float, x: torch.Tensor) -> dict[str, Any]:
    """One budget: every attempt, predicted and measured, and what is left of the MACs; or why it cannot be met."""
    begin = time.monotonic()
    try:
        result = cc.prune(model, x, latency=target, cost=cost, restore="none", importance="l2")
    except (ChannelcutError, RuntimeError) as problem:
        return {"error": _words(problem), "plan_s": time.monotonic() - begin}
    options = result.plan.options
    return {
        "macs": result.plan.macs_ratio,
        "kept_importance": options.get("kept_importance"),
        "trials": options["trials"],
        "plan_s": time.monotonic() - begin,
    }


def _words(problem: Exception) -> str:
    return " ".join(str(problem).split())[:400]


def _trial(trial: Mapping[str, Any]) -> str:
    return f"{trial['predicted']:.3f} → {trial['ratio']:.3f} ({trial['low']:.3f} to {trial['high']:.3f})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = "model", "batch", "backend", "precision", "step", "asked", "predicted → measured, by attempt", "MACs"
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        where = row["backend"] + ("" if row["backend"] == "torch_cuda" else " (dry run, no GPU)")
        cells = [
            row["model"],
            str(row["batch"]),
            where,
            row["precision"],
            str(row.get("step", "–")),
            str(row["target"]),
        ]
        if "error" in row:
            cells += [row["error"], "–"]
        else:
            cells += ["; ".join(_trial(trial) for trial in row["trials"]), f"{row['macs']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
