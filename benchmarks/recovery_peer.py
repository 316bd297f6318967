"""Recovery beside Torch-Pruning: ResNet-56 at 2.1x and 2.5x fewer MACs, the same images, epochs and lesson for both.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.recovery_peer     # results/recovery_peer.json, .md

Every cut starts from the same original and is judged on CIFAR-10's 10,000 test images. The lesson is plain, since that
of `recover` needs a plan: the uncut network's logits on the first `TAUGHT` training images, without labels, mean
squared error, AdamW with a cosine, batch norms by their batches. Our cut learns by `recover` besides. A row that is
there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

import channelcut as cc
from benchmarks.accuracy_peer import peer_cut
from benchmarks.rows import rows_in, write_rows
from benchmarks.zoo.data import cifar10, require_assets
from benchmarks.zoo.resnet_cifar import accuracy, load_resnet56, preprocess
from channelcut.bench.environment import environment
from channelcut.core.copies import private_copy
from channelcut.recovery.distil.augment import augmented, draws

RESULTS = Path(__file__).parent / "results" / "recovery_peer"
CALIBRATED, TAUGHT, EPOCHS, BATCH, RATE, SEED = 512, 4096, 3, 64, 3e-3, 0
RATIOS = (2.1, 2.5)
AUGMENT = ("flip", "scale", "colour")


class Bench:
    """The original and its images; cuts leave one part in `ratio` of its MACs."""

    def __init__(self) -> None:
        self.ratio = RATIOS[0]
        self.model = load_resnet56(require_assets()).eval()
        self.x = torch.rand(1, 3, 32, 32)
        self.taught = preprocess(cifar10("train", 50000)[0][:TAUGHT])
        images, self.labels = cifar10("test", 10000)
        self.test = preprocess(images)

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 on the test images."""
        return accuracy(model.eval(), self.test, self.labels)

    def ours(self) -> Any:
        """Our cut, compensated."""
        return cc.prune(self.model, self.x, macs=1 / self.ratio, calibration=self.taught[:CALIBRATED])

    def peers(self, criterion: str) -> tuple[nn.Module, float]:
        """That of Torch-Pruning, and the share of the MACs that it leaves."""
        model, left, _, _ = peer_cut(self.model, self.x, self.taught[:CALIBRATED], criterion, 1 / self.ratio, 1)
        return model, left

    def plain(self, student: nn.Module) -> nn.Module:
        """A copy of a cut, taught by the original's logits."""
        student = private_copy(student).train()
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=1e-4)
        steps = EPOCHS * math.ceil(TAUGHT / BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
        step = 0
        for epoch in range(EPOCHS):
            order = torch.randperm(TAUGHT, generator=torch.Generator().manual_seed(epoch + SEED))
            for part in torch.split(order, BATCH):
                images = augmented(self.taught[part], AUGMENT, draws(len(part), SEED, step))
                with torch.no_grad():
                    wanted = self.model(images)
                optimizer.zero_grad(set_to_none=True)
                _squared(student(images), wanted).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                step += 1
        return student.eval()


def _squared(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().mean()


def ours_plain(bench: Bench) -> dict[str, Any]:
    """Our compensated cut by the plain lesson."""
    result = bench.ours()
    learnt = bench.plain(result.model)
    return {"macs": result.plan.macs_ratio, "before": bench.accuracy(result.model), "after": bench.accuracy(learnt)}


def ours_recovered(bench: Bench) -> dict[str, Any]:
    """Our compensated cut by `recover`."""
    result = bench.ours()
    options = cc.RecoverOptions(batch=BATCH, augment=AUGMENT, seed=SEED)
    found: Any = cc.recover(bench.model, result, bench.taught, epochs=EPOCHS, options=options)
    said = {"macs": result.plan.macs_ratio, "before": bench.accuracy(result.model), "notes": found.recovery.notes}
    return {**said, "after": bench.accuracy(found.model)}


def theirs(criterion: str) -> Callable[[Bench], dict[str, Any]]:
    """A cut of Torch-Pruning by the plain lesson."""

    def row(bench: Bench) -> dict[str, Any]:
        model, left = bench.peers(criterion)
        return {"macs": left, "before": bench.accuracy(model), "after": bench.accuracy(bench.plain(model))}

    return row


ROWS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "channelcut, recover": ours_recovered,
    "channelcut, plain lesson": ours_plain,
    "Torch-Pruning l2, plain lesson": theirs("l2"),
    "Torch-Pruning taylor, plain lesson": theirs("taylor"),
}


def main() -> None:
    """Measure what is missing."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows, bench = rows_in(RESULTS), Bench()
    for bench.ratio, (way, measure) in product(RATIOS, ROWS.items()):
        name = f"{way}, {bench.ratio}x"
        if name in rows:
            continue
        start = process_time()
        said = {"images_seen": TAUGHT * EPOCHS, "seed": SEED, "command": "python -m benchmarks.recovery_peer"}
        rows[name] = {**said, **measure(bench), "processor_s": process_time() - start}
        rows[name]["environment"] = environment(1)
        content = {"original": bench.accuracy(bench.model), "rows": rows}
        write_rows(RESULTS, content, table(content))
        print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)


def table(content: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "# Recovery beside Torch-Pruning",
        "",
        f"`python -m benchmarks.recovery_peer`: ResNet-56, CIFAR-10, original {content['original']:.4f}, cut to",
        f"1 / 2.1 and 1 / 2.5 of its MACs; {TAUGHT:,} unlabelled training images, {EPOCHS} epochs; top-1 on the",
        "10,000 test images.",
        "",
        "| cut and lesson | MACs | before | after | processor time |",
        "|---|---|---|---|---|",
    ]
    for name, row in content["rows"].items():
        lines.append(
            f"| {name} | {row['macs']:.3f} | {row['before']:.4f} | {row['after']:.4f} | {row['processor_s']:.0f} s |"
        )
    for name, row in content["rows"].items():
        lines += [line for note in row.get("notes", ()) for line in ("", f"{name}: {note}")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
