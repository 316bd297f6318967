"""Accuracy as cut, recalibrated and compensated: ResNet-56 on CIFAR-10, YOLO26n, YOLO11n and YOLOv8n on coco128 val.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.accuracy                 # all that is missing
    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.accuracy resnet56 --importance l2

Nothing is trained and no label is read but to evaluate: ResNet-56 is restored on 512 training images and judged on all
10,000 test images; the detectors on the 128 images of coco128 train (which they have seen) and 128 of ImageNet, judged
on the 128 of coco128 val. What is written is not measured again, so that the script can be called anew where it
stopped: results/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import channelcut as cc
from benchmarks.ultralytics_map import coco_model, data_folder
from benchmarks.zoo.data import coco128, fit_image, read_image, require_assets
from benchmarks.zoo.registry import ENTRIES
from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically
from channelcut.core.result import PruneResult
from channelcut.recovery import recalibrate

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
SEED = 0
SIZE = 416
CIFAR_IMAGES, COCO_IMAGES, FURTHER_IMAGES = 512, 128, 128
DETECTORS = ("yolo26n", "yolo11n", "yolov8n")
BUDGETS = {"resnet56": (1 / 2.1, 1 / 2.5)} | dict.fromkeys(DETECTORS, (0.9, 0.8, 0.7, 0.5))


@dataclass(frozen=True)
class Network:
    """A trained network, the unlabelled images that restore it, and how it is judged."""

    model: nn.Module
    example: Tensor
    images: Tensor
    evaluate: Callable[[nn.Module], dict[str, float]]
    align: int


def seen_files(network: str) -> list[Path]:
    """The files that a network is scored, restored and chosen by."""
    assets = require_assets()
    if network == "resnet56":
        return sorted((assets / "cifar10" / "train").iterdir())
    further = sorted((assets / "imagenet1000").glob("*.jpg"))[:: 1000 // FURTHER_IMAGES][:FURTHER_IMAGES]
    return [*sorted((assets / "coco128" / "images" / "train").iterdir())[:COCO_IMAGES], *further]


def test_files(network: str) -> list[Path]:
    """The files that a network is judged by, which nothing is chosen by."""
    folder = Path("cifar10", "test") if network == "resnet56" else Path("coco128", "images", "val")
    return sorted((require_assets() / folder).iterdir())


def resnet56() -> Network:
    """ResNet-56 on all 10,000 test images."""
    entry = ENTRIES["resnet56"]
    images = entry.calibration(CIFAR_IMAGES)
    return Network(entry.load(require_assets()), torch.rand(1, 3, 32, 32), images, entry.evaluate, 1)


def detector(name: str, data: str) -> Network:
    """A detector of Ultralytics with COCO weights on coco128 val."""
    from channelcut.adapters.ultralytics.evaluation import evaluate

    photographs = [sample.image for sample in coco128("train", COCO_IMAGES)]
    photographs += [read_image(path) for path in seen_files(name)[COCO_IMAGES:]]
    images = torch.stack([fit_image(image, SIZE, "centre", 114)[0] for image in photographs]) / 255

    def judge(model: nn.Module) -> dict[str, float]:
        found = evaluate(model, data, imgsz=SIZE)
        return {key: float(found[key]) for key in ("map", "map50")}

    return Network(coco_model(name), torch.rand(1, 3, SIZE, SIZE), images, judge, 8)


def rows_of(network: Network, macs: float, importance: str | None, images: int) -> dict[str, dict[str, Any]]:
    """The states of one cut."""
    chosen = network.images[:: max(1, len(network.images) // images)][:images]
    watch = _Watch()
    result = cc.prune(
        network.model, network.example, macs=macs, align=network.align, importance=importance, calibration=chosen,
        restore="none",
    )  # fmt: skip
    said = {"macs": result.plan.macs_ratio, "params": result.plan.params_ratio, "images": len(chosen)}
    said |= {"importance": result.plan.options["importance"], "align": network.align}
    found = {"as cut": {**said, **watch.lap(), **network.evaluate(result.model)}}
    watch = _Watch()
    tuned, _ = recalibrate(result.model, list(torch.split(chosen, 64)))
    found["recalibrated"] = {**said, **watch.lap(), **network.evaluate(tuned)}
    found["compensated"] = {**said, **_compensated(network, result, chosen)}
    return found


def _compensated(network: Network, result: PruneResult, images: Tensor) -> dict[str, Any]:
    watch = _Watch()
    done = cc.compensate(network.model, result, images)
    spent = watch.lap()
    assert done.compensation is not None
    said = done.compensation.to_dict()
    layers = sorted(said.pop("layers"), key=lambda row: -row["after"])
    return {**spent, **network.evaluate(done.model), "compensation": {**said, "worst": layers[:10]}}


class _Watch:
    """Wall and processor time."""

    def __init__(self) -> None:
        self.wall, self.process = time.perf_counter(), time.process_time()

    def lap(self) -> dict[str, float]:
        """Seconds since the start."""
        return {"wall_s": time.perf_counter() - self.wall, "process_s": time.process_time() - self.process}


def main() -> None:
    """Measure what is missing, a cut at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(BUDGETS))
    parser.add_argument("--macs", type=float, nargs="+", help="shares of the MACs (default those of the table)")
    parser.add_argument("--importance", help="criterion (default the one that channelcut takes with images)")
    parser.add_argument("--images", type=int, default=1 << 20, help="the most images to use")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rows: dict[str, Any] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        data = data_folder(Path(folder))
        for name in given.networks:
            network = resnet56() if name == "resnet56" else detector(name, data)
            images = min(given.images, len(network.images))
            common = {"network": name, "seed": SEED, "test_images": 10_000 if name == "resnet56" else 128}
            common |= {"command": " ".join(["python -m benchmarks.accuracy", *sys.argv[1:]])}
            _add(rows, f"{name} original", common, lambda n=network: n.evaluate(n.model))  # type: ignore[misc]
            for macs in given.macs or BUDGETS[name]:
                key = f"{name} {macs:.3f} {given.importance or 'default'} {images}"
                if f"{key} compensated" not in rows:
                    for state, row in rows_of(network, macs, given.importance, images).items():
                        _add(rows, f"{key} {state}", {**common, "state": state, "budget": macs}, lambda r=row: r)  # type: ignore[misc]


def _add(rows: dict[str, Any], key: str, common: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Measure a row that is missing, and write all."""
    if key in rows:
        return
    rows[key] = {**common, **measure(), "torch": torch.__version__}
    content = {"environment": environment(1), "rows": rows}
    write_atomically(RESULTS, (json.dumps(content, indent=1) + "\n").encode())
    print(key, {k: v for k, v in rows[key].items() if isinstance(v, float)}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
