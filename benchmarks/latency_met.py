"""Budgets of time, met in measurement: five YOLOs and twenty models of the zoo, each at 0.7 and 0.5 of its time.

    python -m benchmarks.latency_met                      # results/latency_met.json, .md; goes on where it stopped
    python -m benchmarks.latency_met ultralytics:yolo26n.yaml --targets 0.7 --table FILE
    python -m benchmarks.latency_met ultralytics:yolo26n.yaml --nms false       # its one-to-one head
    python -m benchmarks.latency_met --unaligned 20             # random plans of yolo26n at 0.8 of its MACs beside ours

Each network has random weights, on which times do not depend, and the input that its library says. Its layers are timed
(`cc.measure`), it is pruned to the budget by `cc.prune(latency=...)`, and the result is timed once more beside the
original, by a measurement that chose nothing: ONNX Runtime, one thread, processor time of that thread. The twenty are
drawn from torchvision and timm (seed 0). Rows are of one processor each: another one's stand beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import nn

import channelcut as cc
from benchmarks.rows import write_rows
from benchmarks.zoo.catalogue import names, open_zoo
from channelcut.bench.environment import environment
from channelcut.bench.layers.processor import processor
from channelcut.core.deployed import Deploy
from channelcut.core.plan import Plan
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.gauge import BENCH, Gauge, ratio_of
from channelcut.latency.halved import narrowed
from channelcut.sources import open_source

RESULTS = Path(__file__).parent / "results" / "latency_met"
ZOO = Path(__file__).parent / "results" / "zoo"
YOLOS = tuple(f"ultralytics:{name}.yaml" for name in ("yolo26n", "yolo11n", "yolov8n", "yolo26s", "yolo26m"))
TARGETS, DRAWN, TOLERANCE = (0.7, 0.5), 20, 0.03
AGAIN = replace(BENCH, time_limit_s=20.0, seed=1)
HEADS = {"none": None, "false": False}
"""Of Ultralytics' models, as `--nms` of the command line takes them."""


def drawn() -> list[str]:
    """The networks of the zoo, by lot."""
    known = [f"{zoo}:{name}" for zoo in ("torchvision", "timm") for name in names(zoo, ZOO)]
    return random.Random(0).sample(known, DRAWN)


def opened(name: str) -> tuple[nn.Module, Any]:
    """A network with random weights, and an example."""
    torch.manual_seed(0)
    if name.startswith("ultralytics:"):
        return open_source(name).open()
    zoo, _, model = name.partition(":")
    example = open_zoo(zoo).example(model)
    return example.model, example.inputs


def met(name: str, target: float, table: Path | None, deploy: Deploy) -> dict[str, Any]:
    """The network pruned to a share of its time, and timed anew; or why there is none."""
    model, example = opened(name)
    start = process_time()
    try:
        cost = cc.measure(model, example, table=table, deploy=deploy)
        measured = process_time()
        result = cc.prune(model, example, latency=target, cost=cost, deploy=deploy)
    except (cc.UserError, cc.ProofError) as error:
        return {"refused": str(error), "processor_s": process_time() - start}
    spent = {"measure_s": measured - start, "prune_s": process_time() - measured}
    options = result.plan.options
    with Gauge(model, example, deploy, bench=AGAIN) as gauge:
        found = ratio_of(gauge(result.model))
    said = {"ratio": found.estimate, "low": found.low, "high": found.high, "macs": result.plan.macs_ratio}
    return {**said, "full_ms": cost.full_ms, "align": options["align"], "trials": options["trials"], **spent}


def unaligned(count: int, table: Path | None) -> dict[str, Any]:
    """Random plans of YOLO26n at 0.8 of its MACs, any widths, each beside the original; and ours at these MACs."""
    model, example = opened(YOLOS[0])
    groups = cc.analyze(model, example)
    macs = network_costs(model, groups)["macs"]
    whole, rows = full_widths(groups.groups), []
    with Gauge(model, example) as gauge:
        for seed in range(count):
            widths = _random_widths(groups, macs, whole, seed)
            found = ratio_of(gauge(narrowed(model, groups, widths)))
            rows.append({"macs": macs(widths) / macs(whole), **vars(found)})
            print(f"unaligned {seed}: {found.estimate:.3f}", file=sys.stderr, flush=True)
        cost = cc.measure(model, example, groups=groups, table=table)
        plan: Plan = cc.plan(model, groups, macs=0.8, cost=cost)
        ours = ratio_of(gauge(cc.apply(model, plan)))
    return {"rows": rows, "ours": {"macs": plan.macs_ratio, "align": plan.options["align"], **vars(ours)}}


def _random_widths(groups: cc.Groups, macs: Any, whole: Any, seed: int) -> Any:
    """Random shares of all groups, scaled together until 0.8 of the MACs are left."""
    shares = np.random.default_rng(seed).uniform(0.5, 1.0, len(whole))
    low, high = 0.0, 2.0
    for _ in range(30):
        scale = (low + high) / 2
        widths = _nearest(groups, np.clip(shares * scale, 0.1, 1.0))
        low, high = (scale, high) if macs(widths) < 0.8 * macs(whole) else (low, scale)
    return widths


def _nearest(groups: cc.Groups, shares: Any) -> Any:
    found = [g.widths[np.argmin(np.abs(g.widths - s * g.width))] for g, s in zip(groups.groups, shares, strict=True)]
    return np.array(found, np.int64)


def main() -> None:
    """Measure what is missing, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="by default the five YOLOs and twenty of the zoo")
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    parser.add_argument("--table", type=Path, help="of layer times; by default the one in the cache directory")
    parser.add_argument("--nms", choices=tuple(HEADS), default="none", help="the head of Ultralytics' models")
    parser.add_argument("--unaligned", type=int, default=0, metavar="N", help="random plans instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS.with_suffix(".json")
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    device, deploy = processor(), Deploy(nms=HEADS[given.nms])
    head = f" --nms {given.nms}" if given.nms != "none" else ""
    if given.unaligned:
        content.setdefault("unaligned", {})[device] = unaligned(given.unaligned, given.table)
        _write(file, content)
        return
    for name in given.networks or (*YOLOS, *drawn()):
        for target in given.targets:
            key = f"{name}{head} {target:g} {device}"
            if key not in content["rows"]:
                said = {"network": name + head, "target": target, "processor": device}
                said |= {"environment": environment(1)}
                said |= {"command": f"python -m benchmarks.latency_met {name}{head} --targets {target:g}"}
                content["rows"][key] = said | met(name, target, given.table, deploy)
                _write(file, content)
                print(
                    key, {k: v for k, v in content["rows"][key].items() if k != "trials"}, file=sys.stderr, flush=True
                )


def _write(file: Path, content: dict[str, Any]) -> None:
    write_rows(file, content, table_of(content))


def table_of(content: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "# Budgets of time, met in measurement",
        "",
        "`python -m benchmarks.latency_met`: ONNX Runtime, one thread, processor time of that thread, other work",
        "beside it; shares of the original's time. The last plan's prediction stands beside what a measurement found",
        "that chose nothing. Seconds are of processor time: to time layers (0 where the table had them), and to plan,",
        "build, time and prove. `--nms false` is the one-to-one head, which needs no suppression; without it a YOLO",
        "has its one-to-many head, and suppression is timed on neither side.",
    ]
    for device in sorted({row["processor"] for row in content["rows"].values()}):
        lines += _of_device([row for row in content["rows"].values() if row["processor"] == device], device)
        if found := content.get("unaligned", {}).get(device):
            lines += ["", _beside_random(found)]
    return "\n".join(lines) + "\n"


def _beside_random(found: Mapping[str, Any]) -> str:
    ratios, ours = np.array([row["estimate"] for row in found["rows"]]), found["ours"]
    return (
        f"Of {len(ratios)} random plans of yolo26n with 0.8 of its MACs and any widths {int((ratios > 1).sum())} are "
        f"slower than the original and {int((ratios > 0.97).sum())} slower or within 3 %; the median takes "
        f"{np.median(ratios):.3f} of its time. A plan for these MACs at the step that was measured "
        f"({ours['align']}) takes {ours['estimate']:.3f}."
    )


def _of_device(rows: Sequence[Mapping[str, Any]], device: str) -> list[str]:
    """The rows of one processor, and how many of them meet their budget."""
    lines = [
        "",
        f"## {device}",
        "",
        "| network | uncut | budget | measured | predicted | plans | MACs | align | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['network']} | | {row['target']} | refused: {row['refused'][:260]} | | | | | |")
            continue
        last = min(row["trials"], key=lambda trial: abs(trial["ratio"] - row["ratio"]))
        lines.append(
            f"| {row['network']} | {row['full_ms']:.1f} ms | {row['target']} | {row['ratio']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f}) | {last['predicted']:.3f} | {len(row['trials'])} | "
            f"{row['macs']:.3f} | {row['align']} | {row['measure_s']:.0f} s, {row['prune_s']:.0f} s |"
        )
    done = [row for row in rows if "refused" not in row]
    within = sum(row["ratio"] <= row["target"] * (1 + TOLERANCE) for row in done)
    slower = sum(row["high"] >= 1 for row in done)
    return [
        *lines,
        "",
        f"{within} of {len(done)} within 3 % of the budget or below it; {slower} not faster than dense.",
    ]


if __name__ == "__main__":
    main()
