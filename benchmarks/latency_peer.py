"""Accuracy at equal measured latency: planned by time, by MACs, uniformly, and by Torch-Pruning.

    CHANNELCUT_ASSETS=... python -m benchmarks.latency_peer            # results/latency_peer.json, .md; resumes
    CHANNELCUT_ASSETS=... python -m benchmarks.latency_peer resnet56 --targets 0.7 --table FILE

Every way is asked for more or less of its own measure (time, MACs, a ratio) until the network that it leaves takes a
share of the original's time within 3 %, as ONNX Runtime measures it (one thread, processor time of that thread). All
are then restored alike: batch norms measured anew on the same unlabelled images; ours compensated besides, which needs
a plan. Ours rank by the criterion that channelcut takes with images, and are ranked and compensated by what a function
reads in the outputs where the row says `detections`; Torch-Pruning ranks by magnitude, and by Taylor where the network
is a classifier. Accuracy and images are those of `benchmarks.accuracy`. The second table turns the question around: how
fast is ours where it is as accurate as another way's network, read off the line between its nearest rows:

    CHANNELCUT_ASSETS=... python -m benchmarks.latency_peer --ways "time*" --targets 0.9 0.8 0.6 0.4
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import nn

import channelcut as cc
from benchmarks.accuracy import DETECTIONS, Network, opened
from benchmarks.accuracy_peer import CRITERIA, peer_cut
from benchmarks.rows import rows_in, write_rows
from channelcut.bench.environment import environment
from channelcut.bench.layers.processor import processor
from channelcut.core.errors import BudgetError
from channelcut.core.measurement import Ratio
from channelcut.core.result import PruneResult
from channelcut.gauge import Gauge, ratio_of
from channelcut.recovery import recalibrate

RESULTS = Path(__file__).parent / "results" / "latency_peer"
NETWORKS, TARGETS, ROUNDS, TOLERANCE = ("resnet56", "nanodet_m", "yolov5n"), (0.7, 0.5), 6, 0.03
TIME = "time"
Made = tuple[nn.Module, PruneResult | None]


class Bench:
    """One network, with what its layers take, and the images that choose."""

    def __init__(self, network: Network, table: Path | None) -> None:
        self.network, self.chosen = network, network.images[:512]
        self.cost = cc.measure(network.model, network.example, table=table)

    def pruned(self, limit: str, align: int | str, share: float) -> Made:
        """By channelcut, as cut; `limit`: what a share is asked of."""
        asked: dict[str, Any] = {limit: math.sqrt(share) if limit == "keep" else share}
        if limit == "latency":
            asked["cost"] = _Believed(self.cost)
        model, example = self.network.model, self.network.example
        found = cc.prune(
            model, example, calibration=self.chosen, restore="none", align=align, detections=self.network.detections,
            **asked,
        )  # fmt: skip
        return found.model, found

    def by_peer(self, criterion: str, align: int, share: float) -> Made:
        """By Torch-Pruning, as cut."""
        model, example = self.network.model, self.network.example
        return peer_cut(model, example, self.chosen, criterion, share, align)[0], None

    def ways(self, name: str) -> Iterator[tuple[str, Callable[[float], Made]]]:
        """What is compared: how a network is made for a share of what each way limits."""
        step, least = self.cost.step, self.network.align
        read = DETECTIONS * (self.network.detections is not None)
        yield f"{TIME}{read}", partial(self.pruned, "latency", "auto")
        for limit, words, aligns in (("macs", "MACs", {step, least}), ("keep", "uniform", {step})):
            for align in sorted(aligns):
                yield f"{words}, align {align}{read}", partial(self.pruned, limit, align)
        for criterion in CRITERIA.get(name, ()):
            for align in (8, 16):
                yield f"Torch-Pruning {criterion}, round_to {align}", partial(self.by_peer, criterion, align)


class _Believed:
    """A measured cost without a `target`: `prune` plans by it, and this script closes the loop as for the others."""

    def __init__(self, cost: Any) -> None:
        self.cost, self.step, self.fine = cost, cost.step, cost.fine

    def __call__(self, widths: Any) -> float:
        """As the cost says."""
        return float(self.cost(widths))

    def pairwise(self, steps: Any) -> Any:
        """As the cost says."""
        return self.cost.pairwise(steps)

    def on(self, groups: Any) -> _Believed:
        """For other groups."""
        return _Believed(self.cost.on(groups))


def at_latency(build: Callable[[float], Made], target: float, gauge: Gauge) -> tuple[Made, Ratio, int]:
    """The network that a way leaves at a share of the time: bisection on what it is asked for.

    Raises:
        BudgetError, ValueError: it leaves none that is as fast.
    """
    low, high, asked, best = 0.0, 1.0, target, None
    for tried in range(1, ROUNDS + 1):
        try:
            made = build(asked)
        except (BudgetError, ValueError):
            if best is None and asked < 0.05:
                raise
            low, asked = asked, (asked + high) / 2
            continue
        found = ratio_of(gauge(made[0]))
        off = abs(found.estimate / target - 1)
        if best is None or off < abs(best[1].estimate / target - 1):
            best = (made, found, tried)
        if off <= TOLERANCE:
            break
        low, high = (asked, high) if found.estimate < target else (low, asked)
        asked = min(max(asked * target / found.estimate, (3 * low + high) / 4), (low + 3 * high) / 4)
    if best is None:
        raise ValueError("no network was made")
    return best


def row(bench: Bench, build: Callable[[float], Made], target: float, gauge: Gauge) -> dict[str, Any]:
    """One way at one share: time, and accuracy restored alike."""
    start = process_time()
    try:
        (model, result), found, tried = at_latency(build, target, gauge)
    except Exception as error:  # noqa: BLE001  whatever a way ends in is its row
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    network = bench.network
    tuned, _ = recalibrate(model, list(torch.split(bench.chosen, 64)))
    states = {"recalibrated": network.evaluate(tuned)}
    if result is not None:
        done = cc.compensate(network.model, result, bench.chosen, detections=network.detections)
        states["compensated"] = network.evaluate(done.model)
    macs = None if result is None else result.plan.macs_ratio
    return {**vars(found), "tried": tried, "macs": macs, "states": states, "processor_s": process_time() - start}


def main() -> None:
    """Measure what is missing, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    parser.add_argument("--ways", default="*", help="pattern of the ways to measure")
    parser.add_argument("--table", type=Path, help="of layer times; by default the one in the cache directory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_in(RESULTS)
    for name in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            network = opened(name, Path(folder))
            bench = Bench(network, given.table)
            with Gauge(network.model, network.example) as gauge:
                for target in given.targets:
                    for way, build in bench.ways(name):
                        key = f"{name} {target:g} {way} {processor()}"
                        if key not in rows and fnmatch(way, given.ways):
                            said = {"network": name, "target": target, "way": way, "processor": processor()}
                            said |= {"environment": environment(1)}
                            said |= {"command": f"python -m benchmarks.latency_peer {name} --targets {target:g}"}
                            rows[key] = said | row(bench, build, target, gauge)
                            _write(rows)
                            print(key, json.dumps(rows[key]), file=sys.stderr, flush=True)
    _write(rows)


def _write(rows: Mapping[str, Any]) -> None:
    write_rows(RESULTS, {"rows": rows}, table(rows))


def table(rows: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "# Accuracy at equal latency",
        "",
        "`python -m benchmarks.latency_peer`: ONNX Runtime, one thread, processor time of that thread, other work",
        "beside it. Time is a share of the original's, as measured; accuracy is top-1 on the 10,000 test images of",
        "CIFAR-10, or mAP50-95 on the 128 images of coco128 val.",
        "",
        "| network | processor | asked | way | measured | MACs | recalibrated | compensated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in rows.values():
        start = f"| {found['network']} | {found['processor']} | {found['target']} | {found['way']} | "
        if "failed" in found:
            lines.append(f"{start}{found['failed']} | | | |")
            continue
        cells = [_metric(found["states"].get(state)) for state in ("recalibrated", "compensated")]
        macs = "" if found["macs"] is None else f"{found['macs']:.3f}"
        lines.append(f"{start}{found['estimate']:.3f} | {macs} | {' | '.join(cells)} |")
    return "\n".join([*lines, *equal_accuracy(rows.values())]) + "\n"


def equal_accuracy(rows: Collection[Mapping[str, Any]]) -> list[str]:
    """How fast ours is where it is as accurate as the others' networks, in Markdown.

    The accuracy of each is the better one of those that it was restored to. Between two measured rows of ours, and
    between the fastest or slowest of them and nothing, no more is said than that: a row beyond them has a bound.
    """
    read = {row["network"] for row in rows if row["way"] == TIME + DETECTIONS}
    ours: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["way"] == TIME + DETECTIONS * (row["network"] in read) and "failed" not in row:
            ours.setdefault((row["network"], row["processor"]), []).append((_best(row), row["estimate"]))
    lines = [
        "",
        "## Latency at equal accuracy",
        "",
        "Ours as fast as the line between its two nearest rows says; `≤` where its fastest row is more accurate still.",
        "",
        "| network | processor | beside | accuracy | its time | ours | ours / its |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        place = row["network"], row["processor"]
        if "failed" in row or row["way"].startswith(TIME) or place not in ours:
            continue
        wanted, took = _best(row), row["estimate"]
        sign, share = _reached(sorted(ours[place]), wanted)
        beside = f"{row['way']} at {row['target']}"
        quotient = "" if math.isnan(share) else f"{sign}{share / took:.2f}"
        said = "not reached" if math.isnan(share) else f"{sign}{share:.3f}"
        lines.append(f"| {' | '.join(place)} | {beside} | {wanted:.4g} | {took:.3f} | {said} | {quotient} |")
    return lines


def _reached(ours: Sequence[tuple[float, float]], wanted: float) -> tuple[str, float]:
    """The share of the time at which an accuracy is reached, of (accuracy, time) in order; NaN where it is not."""
    enough = [pair for pair in ours if pair[0] >= wanted]
    if not enough:
        return "", math.nan
    accuracy, time = min(enough, key=lambda pair: pair[1])
    below = [pair for pair in ours if pair[0] < wanted and pair[1] < time]
    if not below:
        return "≤ ", time
    least, fast = max(below, key=lambda pair: pair[1])
    return "", fast + (time - fast) * (wanted - least) / (accuracy - least)


def _best(row: Mapping[str, Any]) -> float:
    return max(float(found.get("top1", found.get("map"))) for found in row["states"].values())


def _metric(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['top1']:.4f}" if "top1" in found else f"{found['map']:.3f}"


if __name__ == "__main__":
    main()
