"""How good the widths under a limit are, and how long they take to find: gap, time, and against a greedy descent.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.allocator              # what is missing
    python -m benchmarks.allocator --networks yolo26m

The loss is the sum that the program minimises (`allocation.worth`), the gap what it may be above the least one at most,
and the descent (`allocation.descent`) is the greedy one, which removes what loses least per unit of cost and gives back
what still fits. Networks without trained weights here are scored by l2 on drawn ones, those with by fisher on images.
`small` is enumerated: all of its widths are looked at. Seconds are of the allocation alone: analysis and scores are not
in them. A row that has been written is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import channelcut as cc
from benchmarks.rows import rows_in, write_rows
from benchmarks.ultralytics_map import coco_model
from benchmarks.zoo.data import coco128, fit_image, require_assets
from benchmarks.zoo.registry import ENTRIES
from channelcut.adapters import deployed_groups
from channelcut.allocation import Budget, allocate
from channelcut.allocation.budget import steps_and_means
from channelcut.allocation.descent import descend
from channelcut.allocation.program import Solution
from channelcut.allocation.worth import losses_at
from channelcut.bench.environment import environment
from channelcut.core.deployed import DEFAULT
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs
from channelcut.core.progress import Stopwatch
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.cost.protocol import WidthCost
from channelcut.cost.roofline import roofline
from channelcut.ranking import Criterion
from channelcut.scoring import unit_of

RESULTS = Path(__file__).parent / "results" / "allocator"
BUDGETS, SEED, IMAGES, SIZE = (0.7, 0.5), 0, 32, 320
ROOFLINES = (("avx512", "fp32"), ("orin-nano", "fp16"), ("a100", "fp16"))
COSTS = (*(("macs", align) for align in (1, 8, 16)), ("params", 8), *ROOFLINES)


@dataclass(frozen=True)
class Case:
    """A network, an example input, and the images that rank its channels; none: by l2."""

    model: nn.Module
    example: Tensor
    images: Tensor | None = None


def ultralytics(name: str) -> Case:
    """Of the YAML, with drawn weights."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(SEED)
    return Case(DetectionModel(f"{name}.yaml", verbose=False).eval(), torch.rand(1, 3, 640, 640))


def coco() -> Case:
    """YOLO26n with COCO weights."""
    images = [fit_image(sample.image, SIZE, "centre", 114)[0] for sample in coco128("train", IMAGES)]
    return Case(coco_model("yolo26n"), torch.rand(1, 3, SIZE, SIZE), torch.stack(images) / 255)


def resnet50() -> Case:
    """Torchvision's, with drawn weights."""
    import torchvision

    torch.manual_seed(SEED)
    return Case(torchvision.models.resnet50(weights=None).eval(), torch.rand(1, 3, 224, 224))


def cifar(name: str) -> Case:
    """A trained network for CIFAR-10."""
    entry = ENTRIES[name]
    return Case(entry.load(require_assets()).eval(), torch.rand(entry.input_shape), entry.calibration(IMAGES))


class Small(nn.Module):
    """A stream with two blocks: five groups, few enough to be enumerated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.a, self.b = nn.Conv2d(16, 24, 3, 1, 1), nn.Conv2d(24, 16, 3, 1, 1)
        self.c, self.d, self.e = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 10)."""
        x = torch.relu(self.stem(x))
        x = x + self.b(torch.relu(self.a(x)))
        x = self.e(torch.relu(self.d(torch.relu(self.c(x)))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def small() -> Case:
    """`Small` with drawn weights."""
    torch.manual_seed(SEED)
    return Case(Small().eval(), torch.rand(1, 3, 32, 32))


NETWORKS: dict[str, Callable[[], Case]] = {
    "small": small,
    "resnet50": resnet50,
    "yolo26n": lambda: ultralytics("yolo26n"),
    "yolo26m": lambda: ultralytics("yolo26m"),
    "resnet56 trained": lambda: cifar("resnet56"),
    "yolo26n trained": coco,
}


def rows_of(name: str, known: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a network that are not known."""
    keys = {f"{name} {' '.join(map(str, cost))} {budget}": (cost, budget) for cost in COSTS for budget in BUDGETS}
    missing = {key: what for key, what in keys.items() if key not in known}
    if not missing:
        return
    case = NETWORKS[name]()
    groups = cc.analyze(case.model, case.example)
    groups = deployed_groups(case.model, groups, DEFAULT)
    batches: list[Inputs] = [] if case.images is None else [((part,), {}) for part in torch.split(case.images, 16)]
    criterion = Criterion("l2" if case.images is None else "fisher", batches)
    scores = criterion.scored(case.model, groups, Stopwatch()).values
    macs = network_costs(case.model, groups)
    for key, ((kind, detail), budget) in missing.items():
        cost: WidthCost = macs[kind] if kind in macs else roofline(groups, kind, str(detail))
        align = int(detail) if kind in macs else roofline(groups, kind, str(detail)).device.tile(str(detail))
        row = {"network": name, "importance": criterion.chosen, "cost_kind": kind, "budget": budget, "align": align}
        row |= {} if kind in macs else {"precision": detail}
        asked = Budget(params=budget, align=align) if kind == "params" else Budget(macs=budget, align=align)
        try:
            yield key, row | measured(groups, scores, asked, cost, unit_of(criterion.chosen))
        except cc.BudgetError as error:
            yield key, row | {"refused": str(error)[:120]}


def measured(groups: Groups, scores: Any, asked: Budget, cost: WidthCost, unit: str) -> dict[str, Any]:
    """One program and what the descent makes of it."""
    assert asked.limit is not None
    wall, processor = perf_counter(), process_time()
    found = allocate(groups, scores, asked, {asked.limit[0]: cost}, unit=unit).solution
    spent = {"seconds": perf_counter() - wall, "cpu_s": process_time() - processor}
    assert isinstance(found, Solution)
    steps, means, _ = steps_and_means(groups, scores, asked)
    losses = losses_at(groups, means, steps, cost, unit)
    limit = asked.limit[1] * cost(full_widths(groups.groups))
    wall = perf_counter()
    other = descend(losses, steps, cost, limit)
    lost = sum(float(v[int(np.searchsorted(s, w))]) for v, s, w in zip(losses, steps, other, strict=True))
    sizes = {"groups": len(steps), "widths": sum(map(len, steps)), "pairs": len(cost.pairwise(steps).pairs)}
    row: dict[str, Any] = {**sizes, **spent}
    row |= {"loss": found.loss, "gap": found.gap, "method": found.method, "cost": found.cost / limit}
    row |= {"descent": lost, "descent_more": lost / found.loss - 1 if found.loss else 0.0}
    row |= {"descent_s": perf_counter() - wall, "descent_cost": cost(other) / limit}
    combinations = float(np.prod([float(len(step)) for step in steps]))
    if combinations <= 200_000:
        row |= {"combinations": combinations, "brute_force": least_of(losses, steps, cost, limit)}
    return row


def least_of(losses: Sequence[Any], steps: Sequence[Any], cost: WidthCost, limit: float) -> float:
    """The least loss within a limit, by the cost of every choice of widths."""
    fitting = (
        sum(float(values[i]) for values, i in zip(losses, places, strict=True))
        for places in itertools.product(*(range(len(step)) for step in steps))
        if cost(np.array([step[i] for step, i in zip(steps, places, strict=True)])) <= limit * (1 + 1e-9)
    )
    return min(fitting)


def main() -> None:
    """Measure what is missing, a row at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_in(RESULTS)
    for network in given.networks:
        for key, row in rows_of(network, list(rows)):
            rows[key] = row
            print(key, json.dumps(row), file=sys.stderr, flush=True)
            content = {"command": "OMP_NUM_THREADS=1 python -m benchmarks.allocator", "seed": SEED}
            content |= {"environment": environment(1), "rows": rows}
            write_rows(RESULTS, content, table(content))


def table(content: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "# Widths under a limit",
        "",
        f"`{content['command']}`, one thread ({content['environment']['cpu']}). The loss is",
        "what the program minimises; the gap is how far it may be above the least one at most; the descent is greedy,",
        "at the same limit. Seconds are wall and processor time of the allocation alone.",
        "",
        "| network | groups, widths, pairs | scores | cost | align | limit | gap | how | descent: loss | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"].values():
        if "refused" in row:
            continue
        cost = " ".join(filter(None, (row["cost_kind"], row.get("precision"))))
        start = f"| {row['network']} | {row['groups']}, {row['widths']}, {row['pairs']} | {row['importance']} | {cost} "
        how = row["method"]
        if "brute_force" in row:
            same = abs(row["brute_force"] - row["loss"]) <= 1e-9 * max(1.0, row["loss"])
            how += f"; {'equals' if same else 'DIFFERS FROM'} the best of {row['combinations']:.0f}"
        gap = "0" if row["gap"] < 1e-8 else f"{100 * row['gap']:.3f} %"
        lines.append(
            f"{start}| {row['align']} | {row['budget']} | {gap} | {how} | +{100 * row['descent_more']:.2f} % | "
            f"{row['seconds']:.2f}, {row['cpu_s']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
