"""Accuracy as cut, recalibrated and compensated: ResNet-56 on CIFAR-10, five detectors on coco128 val.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.accuracy                 # all that is missing
    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.accuracy resnet56 --importance l2
    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.accuracy yolo26n --passes 4
    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.accuracy resnet56 --peer # Torch-Pruning's cut

Nothing is trained and no label is read but to evaluate: ResNet-56 is restored on 512 training images and judged on all
10,000 test images; the detectors on the 128 images of coco128 train (which they have seen) and 128 of ImageNet, judged
on the 128 of coco128 val; NanoDet-m and YOLOv5n, whose library channelcut does not know, with a function that reads
what their outputs detect, and with --raw without. What is written is not measured again, so that the script can be
called anew where it stopped: results/accuracy.json, and accuracy.md made of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import channelcut as cc
from benchmarks.accuracy_peer import CRITERIA as PEER_CRITERIA
from benchmarks.accuracy_peer import peer_cut
from benchmarks.ultralytics_map import coco_model, data_folder
from benchmarks.zoo import yolov5
from benchmarks.zoo.data import (
    cifar_files,
    cifar_images,
    read_image,
    require_assets,
    sample_of,
    split_files,
)
from benchmarks.zoo.registry import ENTRIES
from benchmarks.zoo.resnet_cifar import preprocess
from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically
from channelcut.core.result import PruneResult
from channelcut.recovery import recalibrate

RESULTS = Path(__file__).parent / "results" / "accuracy"
SEED = 0
SIZE = 416
CIFAR_IMAGES, COCO_IMAGES, FURTHER_IMAGES = 512, 128, 128
ULTRALYTICS, OTHERS = ("yolo26n", "yolo11n", "yolov8n"), ("nanodet_m", "yolov5n")
BUDGETS = {"resnet56": (1 / 2.1, 1 / 2.5)} | dict.fromkeys((*ULTRALYTICS, *OTHERS), (0.9, 0.8, 0.7, 0.5))
DETECTIONS = ", detections"
STATES = ("as cut", "recalibrated", "compensated")


@dataclass(frozen=True)
class Network:
    """A trained network, the unlabelled images that restore it, and how it is judged."""

    model: nn.Module
    example: Tensor
    images: Tensor
    evaluate: Callable[[nn.Module], dict[str, float]]
    align: int
    detections: Callable[[Any], dict[str, Tensor]] | None = None


def seen_files(network: str) -> list[Path]:
    """The files that a network is scored, restored and chosen by."""
    if network.startswith("resnet"):
        return cifar_files("train")
    photographs = sorted((require_assets() / "imagenet1000").glob("*.jpg"))
    further = photographs[:: 1000 // FURTHER_IMAGES][:FURTHER_IMAGES]
    return [*split_files("coco128", "train")[:COCO_IMAGES], *further]


def test_files(network: str) -> list[Path]:
    """The files that a network is judged by, which nothing is chosen by."""
    return cifar_files("test") if network.startswith("resnet") else split_files("coco128", "val")


def resnet56() -> Network:
    """ResNet-56 on all 10,000 test images."""
    entry = ENTRIES["resnet56"]
    images = preprocess(cifar_images(seen_files("resnet56"), CIFAR_IMAGES)[0])
    judge = partial(entry.evaluate, data=cifar_images(test_files("resnet56")))
    return Network(entry.load(require_assets()), torch.rand(1, 3, 32, 32), images, judge, 1)


def detector(name: str) -> Network:
    """A detector with its own preprocessing and decoding (see `benchmarks.zoo`) on coco128 val."""
    entry = ENTRIES[name]
    assert entry.prepare is not None  # classifiers alone have none
    images = torch.stack([entry.prepare(read_image(path)) for path in seen_files(name)])
    judge = partial(entry.evaluate, batch_size=16, data=[sample_of(path) for path in test_files(name)])
    return Network(entry.load(require_assets()), torch.rand(entry.input_shape), images, judge, 8, entry.detections)


def ultralytics(name: str, data: str) -> Network:
    """A detector of Ultralytics with COCO weights on coco128 val, by their validator."""
    from channelcut.adapters.ultralytics.evaluation import evaluate

    images = torch.stack([yolov5.preprocess(read_image(path), size=SIZE)[0] for path in seen_files(name)])

    def judge(model: nn.Module) -> dict[str, float]:
        found = evaluate(model, data, imgsz=SIZE)
        return {key: float(found[key]) for key in ("map", "map50")}

    return Network(coco_model(name), torch.rand(1, 3, SIZE, SIZE), images, judge, 8)


def rows_of(network: Network, macs: float, importance: str | None, images: int) -> dict[str, dict[str, Any]]:
    """The states of one cut."""
    chosen = _sample(network, images)
    watch = _Watch()
    result = _cut(network, macs, importance, chosen, restore="none")
    said = _said(network, result, chosen)
    found = {"as cut": {**said, **watch.lap(), **network.evaluate(result.model)}}
    watch = _Watch()
    tuned, _ = recalibrate(result.model, list(torch.split(chosen, 64)))
    found["recalibrated"] = {**said, **watch.lap(), **network.evaluate(tuned)}
    found["compensated"] = {**said, **_compensated(network, result, chosen)}
    return found


def in_passes(network: Network, macs: float, importance: str | None, images: int, passes: int) -> dict[str, Any]:
    """The one state of a cut that is compensated on the way."""
    chosen = _sample(network, images)
    watch = _Watch()
    result = _cut(network, macs, importance, chosen, passes=passes)
    said = _said(network, result, chosen)
    said["importance"] += f", {passes} passes"
    return {"compensated": {**said, **watch.lap(), **network.evaluate(result.model)}}


def _sample(network: Network, images: int) -> Tensor:
    """So many of the images that restore a network."""
    return network.images[:: max(1, len(network.images) // images)][:images]


def _cut(network: Network, macs: float, importance: str | None, images: Tensor, **restoring: Any) -> PruneResult:
    return cc.prune(
        network.model, network.example, macs=macs, align=network.align, importance=importance, calibration=images,
        detections=network.detections, **restoring,
    )  # fmt: skip


def _said(network: Network, result: PruneResult, images: Tensor) -> dict[str, Any]:
    """What all states of a cut have in common."""
    ranked = result.plan.options["importance"] + DETECTIONS * (network.detections is not None)
    said = {"macs": result.plan.macs_ratio, "params": result.plan.params_ratio, "images": len(images)}
    return {**said, "importance": ranked, "align": network.align}


def _compensated(network: Network, result: PruneResult, images: Tensor) -> dict[str, Any]:
    watch = _Watch()
    done = cc.compensate(network.model, result, images, detections=network.detections)
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


def original(network: Network) -> dict[str, dict[str, Any]]:
    """The uncut network."""
    return {"": dict(network.evaluate(network.model))}


def peer_rows(network: Network, macs: float, criterion: str) -> dict[str, dict[str, Any]]:
    """The states of Torch-Pruning's cut, or why there is none."""
    watch = _Watch()
    try:
        cut, left, params, ratio = peer_cut(
            network.model, network.example, network.images[:CIFAR_IMAGES], criterion, macs, network.align
        )
        said = {"macs": left, "params": params, "ratio": ratio, "importance": criterion, "align": network.align}
        found = {"as cut": {**said, **watch.lap(), **network.evaluate(cut)}}
    except Exception as error:  # noqa: BLE001  whatever it ends in is its row
        return {"as cut": {"failed": f"{type(error).__name__}: {error}"[:300], **watch.lap()}}
    watch = _Watch()
    tuned, _ = recalibrate(cut, list(torch.split(network.images, 64)))
    return found | {"recalibrated": {**said, **watch.lap(), **network.evaluate(tuned)}}


def main() -> None:
    """Measure what is missing, a cut at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(BUDGETS))
    parser.add_argument("--macs", type=float, nargs="+", help="shares of the MACs (default those of the table)")
    parser.add_argument("--importance", help="criterion (default the one that channelcut takes with images)")
    parser.add_argument("--images", type=int, default=1 << 20, help="the most images to use")
    parser.add_argument("--raw", action="store_true", help="detectors of no library: every number of an output counts")
    parser.add_argument("--passes", type=int, help="rank, cut and compensate in so many passes")
    parser.add_argument("--peer", action="store_true", help="cut by Torch-Pruning")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rows = Rows()
    with tempfile.TemporaryDirectory() as folder:
        for name in () if given.table else given.networks:
            network = opened(name, Path(folder))
            network = replace(network, detections=None) if given.raw else network
            common = {"network": name, "seed": SEED, "test_images": 10_000 if name == "resnet56" else 128}
            common |= {"command": " ".join(["python -m benchmarks.accuracy", *sys.argv[1:]])}
            rows.add(f"{name} original", common | {"state": "original"}, partial(original, network))
            for macs in given.macs or BUDGETS[name]:
                said = common | {"budget": macs}
                for criterion in PEER_CRITERIA.get(name, ()) if given.peer else ():
                    key = f"{name} {macs:.3f} Torch-Pruning {criterion}"
                    rows.add(key, said, partial(peer_rows, network, macs, criterion))
                if not given.peer:
                    images = min(given.images, len(network.images))
                    way = (given.importance or "default") + DETECTIONS * (network.detections is not None)
                    key = f"{name} {macs:.3f} {way} {images}"
                    if given.passes is None:
                        rows.add(key, said, partial(rows_of, network, macs, given.importance, images))
                    else:
                        measure = partial(in_passes, network, macs, given.importance, images, given.passes)
                        rows.add(f"{key} {given.passes} passes", said, measure)
    write_atomically(RESULTS.with_suffix(".md"), table(rows.found).encode())


def opened(name: str, folder: Path) -> Network:
    """A network of the table by its name."""
    if name == "resnet56":
        return resnet56()
    if name not in ULTRALYTICS:
        return detector(name)
    own = folder / name  # one data set a network, which several in one run would write over
    own.mkdir(exist_ok=True)
    return ultralytics(name, data_folder(own, test_files(name)))


class Rows:
    """The rows that are there, by `<network> <budget> <criterion> <images> <state>`."""

    def __init__(self) -> None:
        file = RESULTS.with_suffix(".json")
        self.found: dict[str, Any] = json.loads(file.read_text())["rows"] if file.exists() else {}

    def add(self, key: str, common: dict[str, Any], measure: Callable[[], dict[str, dict[str, Any]]]) -> None:
        """Measure the states of a cut where one is missing, and write all."""
        if any(known == key or known.startswith(f"{key} ") for known in self.found):
            return
        for state, row in measure().items():
            said = {**common, **({"state": state} if state else {}), **row, "torch": torch.__version__}
            self.found[f"{key} {state}".strip()] = said
            print(key, state, {k: v for k, v in row.items() if isinstance(v, float)}, file=sys.stderr, flush=True)
        content = {"environment": environment(1), "rows": self.found}
        write_atomically(RESULTS.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows in Markdown: a line a cut."""
    lines = [
        "# Accuracy without training",
        "",
        "`python -m benchmarks.accuracy`, one thread, other work beside it. Top-1 on the 10,000 test images of",
        "CIFAR-10, mAP50-95 on the 128 images of coco128 val. Seconds are of processor time: to rank and cut, and to",
        "compensate; of several passes all of it together.",
        "",
        "| network | budget | importance | MACs | parameters | original | as cut | recalibrated | compensated | time |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cuts: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, row in rows.items():
        if not key.endswith(" original"):
            cuts.setdefault(key.removesuffix(f" {row['state']}"), {})[row["state"]] = row
    for key, states in cuts.items():
        first = next(iter(states.values()))
        whole = _measure(rows[f"{first['network']} original"])
        peer = "Torch-Pruning, " if "Torch-Pruning" in key else ""
        start = f"| {first['network']} | {first['budget']:.3f} | {peer}"
        if "failed" in first:
            lines.append(f"{start}{key.split()[-1]} | {first['failed']} | | {whole} | | | | |")
            continue
        cells = [_measure(states[state]) if state in states else "–" for state in STATES]
        seconds = [f"{states[s]['process_s']:.0f} s" for s in ("as cut", "compensated") if s in states]
        lines.append(
            f"{start}{first['importance']} | {first['macs']:.3f} | {first['params']:.3f} | {whole} | "
            f"{' | '.join(cells)} | {', '.join(seconds)} |"
        )
    return "\n".join(lines) + "\n"


def _measure(row: Mapping[str, Any]) -> str:
    return f"{row['top1']:.4f}" if "top1" in row else f"{row['map']:.3f}"


if __name__ == "__main__":
    main()
