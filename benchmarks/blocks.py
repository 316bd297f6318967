"""Depth beside width: ResNet-56 on CIFAR-10 without some residual blocks, the rest of the budget met by widths.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.blocks      # results/blocks.json, .md

Under each budget: widths alone, `blocks="auto"` (one program), and the 2, 4, 7 and 10 blocks without which the outputs
move least. Ranked by fisher on 64 and compensated with 512 training images; accuracy is that on the last 1,000 training
images, which calibrate nothing, so that what is learnt here was not learnt from test images. `latency` is that of the
roofline of a T4 in fp16 at one image. A row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor

import channelcut as cc
from benchmarks.rows import rows_in, write_rows
from benchmarks.zoo.data import cifar10, require_assets
from benchmarks.zoo.resnet_cifar import accuracy, load_resnet56, preprocess
from channelcut.bench.environment import environment
from channelcut.cost.bilinear import full_widths
from channelcut.cost.roofline import roofline
from channelcut.coupling.branches import residual_blocks
from channelcut.recovery.rescale import distance, outputs_of

RESULTS = Path(__file__).parent / "results" / "blocks"
BUDGETS = {"macs 0.476": {"macs": 0.476}, "macs 0.35": {"macs": 0.35}, "latency 0.5": {"latency": 0.5}}
COUNTS = (2, 4, 7, 10)
CALIBRATED, JUDGED, COMPARED = 512, 1000, 64
X = torch.zeros(1, 3, 32, 32)


class Bench:
    """The network, its images, its cost on a T4, and its blocks, the least missed first."""

    def __init__(self) -> None:
        self.model = load_resnet56(require_assets()).eval()
        images, labels = cifar10("train", 50000)
        self.calibration = preprocess(images[:CALIBRATED])
        self.judged: tuple[Tensor, Tensor] = (preprocess(images[-JUDGED:]), labels[-JUDGED:])
        self.groups = cc.analyze(self.model, X)
        self.cost = roofline(self.groups, "t4", "fp16")
        batch: Any = ((self.calibration[:COMPARED],), {})
        wanted = [outputs_of(self.model, batch)]
        moved = {
            block.module: distance(
                cc.drop_blocks(self.model, X, [block.module], groups=self.groups).model, [batch], wanted
            )
            for block in residual_blocks(self.groups.graph)
        }
        self.order = sorted(moved, key=lambda path: moved[path])

    def row(self, budget: dict[str, float], blocks: str | list[str] | None) -> dict[str, Any]:
        """One cut: what went, what it costs, and how accurate it is."""
        begin = process_time()
        timed = {"cost": self.cost, "align": 1} if "latency" in budget else {}
        asked: Any = {**budget, **timed, "blocks": blocks, "importance": "fisher", "calibration": self.calibration}
        result = cc.prune(self.model, X, **asked)
        groups = cc.analyze(result.model, X)
        whole = self.cost(full_widths(self.groups.groups))
        return {
            "dropped": list(result.plan.dropped),
            "macs": result.plan.macs_ratio,
            "roofline": self.cost.on(groups)(full_widths(groups.groups)) / whole,
            "accuracy": accuracy(result.model, *self.judged),
            "processor_s": process_time() - begin,
        }


def main() -> None:
    """Measure what is missing, a row at a time."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows = rows_in(RESULTS)
    bench = Bench()
    ways: dict[str, Any] = {"widths alone": None, "auto": "auto"}
    ways |= {f"{count} least missed": bench.order[:count] for count in COUNTS}
    for name, budget in BUDGETS.items():
        for way, blocks in ways.items():
            key = f"{name}, {way}"
            if key in rows:
                continue
            rows[key] = bench.row(budget, blocks)
            content = {"command": "python -m benchmarks.blocks", "environment": environment(1), "rows": rows}
            write_rows(RESULTS, content, table(rows))
            print(key, json.dumps(rows[key]), file=sys.stderr, flush=True)


def table(rows: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "# Depth beside width",
        "",
        "`python -m benchmarks.blocks`: ResNet-56 on CIFAR-10, compensated with 512 images, judged on 1,000 training",
        "images that calibrate nothing; nothing trained. The environment is in blocks.json.",
        "",
        "| budget, way | blocks gone | MACs | roofline of a T4 | accuracy |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {len(row['dropped'])} | {row['macs']:.3f} | {row['roofline']:.3f} | {row['accuracy']:.3f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
