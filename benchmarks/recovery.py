"""What recovery wins back: ResNets on CIFAR-10 at 2.1x fewer MACs, five detectors (COCO weights) at 0.8 and 0.9.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.recovery           # results/recovery.json, .md
    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.recovery --rows yolo26n

Every row cuts the network (ResNet-20 by l2, its batch norms measured anew; the others as channelcut ranks by default,
compensated) and recovers it; `scratch` and `rewound` train the same shape by labels alone, from drawn weights or from
the original's after one epoch. The first training images of CIFAR-10 teach. Options are chosen by the accuracy on the
last 1,000 training images, which teach nothing (the original has seen them); that on test images stands beside it.
The detectors learn from `imagenet1000` and the train half of coco128, without labels; where a row says `repeat`, from
the latter so many times an epoch (what is held back is then not all unseen), and are ranked and compensated by those
images of `benchmarks.accuracy`, half of them COCO's. They are evaluated on the val half of coco128: those of
Ultralytics at 320 px unless the row says otherwise, the others at their own size, by their own preprocessing and
decoding, and taught by what a function reads in their outputs (`raw outputs`: by every number of these). A row that is
there is not measured again, and one that was killed goes on with its checkpoint, so that the script can be called anew
where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import channelcut as cc
from benchmarks.accuracy import ULTRALYTICS
from benchmarks.accuracy import seen_files as accuracy_files
from benchmarks.error_profile import error_profile
from benchmarks.rows import rows_in, write_rows
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
from benchmarks.zoo.resnet_cifar import accuracy, load_resnet20, load_resnet56, preprocess
from channelcut.adapters.ultralytics.evaluation import evaluate
from channelcut.bench.environment import environment
from channelcut.core.accelerator import accelerator, device_of
from channelcut.core.copies import private_copy
from channelcut.core.result import PruneResult
from channelcut.recovering.folder import result_in
from channelcut.recovery.distil.start import drawn

RESULTS = Path(__file__).parent / "results" / "recovery"
CALIBRATED, CHOSEN = 512, 1000
SIZE, SHOWN = 320, 16
"""Of Ultralytics' detectors; images on which errors of parts are measured."""
MACS = 1 / 2.1
CIFAR = cc.RecoverOptions(batch=64, augment=("flip", "scale", "colour"))
BATCHES = {"batch_norm": "batch", "learning_rate": 3e-3}
LONGER = {"taught": 5000} | BATCHES
LONG = {"taught": 49000, "epochs": 13, "learning_rate": 2e-3, "test": 10000}
FOUR = LONG | {"epochs": 4}
LABELS_ALONE = {"labels": True, "output": 0.0, "features": 0.0}
BRIEF = {"macs": 0.4, "taught": 4096, "epochs": 3, "test": 10000}
SHORT, MIDDLE = {"taught": 1024, "epochs": 4}, {"taught": 4096, "epochs": 4}
ROWS: dict[str, dict[str, Any]] = {
    "resnet20 frozen": SHORT | {"batch_norm": "frozen"},
    "resnet20 frozen, lr 3e-4": SHORT | {"batch_norm": "frozen", "learning_rate": 3e-4},
    "resnet20 frozen, lr 3e-3": SHORT | {"batch_norm": "frozen", "learning_rate": 3e-3},
    "resnet20 batch norm of batches, lr 3e-3": SHORT | BATCHES,
    "resnet20 batch norm recalibrated": SHORT | {"batch_norm": "recalibrate"},
    "resnet20 batch norm of batches": SHORT | {"batch_norm": "batch"},
    "resnet20 labels": SHORT | {"labels": True},
    "resnet20 labels, weight 0.1": SHORT | {"labels": True, "task": 0.1},
    "resnet20 labels alone": SHORT | LABELS_ALONE,
    "resnet20 outputs alone": SHORT | {"features": 0.0},
    "resnet20 no warm-up": SHORT | {"warmup": 0.0},
    "resnet20 no augmentation": SHORT | {"augment": ()},
    "resnet20 sparsified, batch norm of batches, lr 3e-3": SHORT | BATCHES | {"sparsify": 2, "epochs": 2},
    "resnet20 sparsified, 5,000": LONGER | {"sparsify": 1, "epochs": 1},
    "resnet20 not sparsified, 5,000": LONGER | {"epochs": 2},
    "resnet20 scratch": SHORT | {"labels": True, "init": "scratch"},
    "resnet56 default": MIDDLE,
    **{
        f"resnet56 2.5x, {norms}, lr {rate:g}": BRIEF | {"batch_norm": norms, "learning_rate": rate}
        for rate in (1e-3, 3e-3, 1e-4)
        for norms in ("frozen", "batch")
    },
    "resnet56 labels": MIDDLE | {"labels": True},
    "resnet56 long": FOUR,
    "resnet56 frozen, long": FOUR | {"batch_norm": "frozen", "learning_rate": 1e-3},
    "resnet56 long, scratch": FOUR | LABELS_ALONE | {"init": "scratch"},
    "resnet56 long, rewound": FOUR | LABELS_ALONE | {"init": "rewind"},
    "resnet56 two hours": LONG,
    "resnet56 scratch": LONG | LABELS_ALONE | {"init": "scratch"},
    "resnet56 rewound": LONG | LABELS_ALONE | {"init": "rewind"},
    "yolo26n 0.8": {"macs": 0.8, "epochs": 8, "batch": 16},
    "yolov8n 0.8": {"macs": 0.8, "epochs": 8, "batch": 16},
    "yolo11n 0.8": {"macs": 0.8, "epochs": 8, "batch": 16},
    "yolo26n 0.8 long": {"macs": 0.8, "epochs": 24, "learning_rate": 3e-4, "batch": 16},
    "yolo26n 0.8, batches of 8": {"macs": 0.8, "epochs": 8},
    "yolov8n 0.8, batches of 8": {"macs": 0.8, "epochs": 8},
    "yolo11n 0.8, batches of 8": {"macs": 0.8, "epochs": 8},
    "nanodet_m 0.8, batches of 8": {"macs": 0.8, "epochs": 8},
    "yolov5n 0.8, batches of 8": {"macs": 0.8, "epochs": 8},
    "nanodet_m 0.8, raw outputs": {"macs": 0.8, "epochs": 8, "raw": True},
    "yolov5n 0.8, raw outputs": {"macs": 0.8, "epochs": 8, "raw": True},
    "yolo26n 0.8 at 640 px": {"macs": 0.8, "epochs": 4, "size": 640},
    "nanodet_m 0.8, COCO eight times": {"macs": 0.8, "epochs": 4, "repeat": 8, "learning_rate": 1e-4},
    "yolov5n 0.8, COCO eight times": {"macs": 0.8, "epochs": 2, "repeat": 8, "learning_rate": 1e-4},
    "yolo26n 0.8, COCO eight times": {"macs": 0.8, "epochs": 4, "repeat": 8, "learning_rate": 1e-4},
    "yolo26n 0.8, 4 passes, lr 3e-4": {"macs": 0.8, "epochs": 8, "passes": 4, "learning_rate": 3e-4},
    "yolo26n 0.8, 4 passes, lr 1e-4": {"macs": 0.8, "epochs": 8, "passes": 4, "learning_rate": 1e-4},
    "yolo26n 0.7, 4 passes, lr 1e-4": {"macs": 0.7, "epochs": 4, "passes": 4, "learning_rate": 1e-4},
    "yolo26n 0.8 in four rounds": {"macs": 0.8, "epochs": 2, "rounds": 4},
}
ROWS |= {
    f"{network} {macs}, batches of 8": {"macs": macs, "epochs": 4}
    for network in (*ULTRALYTICS, "nanodet_m", "yolov5n")
    for macs in (0.9, 0.7, 0.5)
}


def main() -> None:
    """Measure what is missing, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="*", help="pattern of the rows to measure")
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "channelcut-recovery"))
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, chosen in ROWS.items():
        if not given.table and fnmatch(name, f"{given.rows}*") and name not in rows_in(RESULTS):
            work = Path(given.work) / name.replace(" ", "-")
            measure = classifier if name.startswith("resnet") else detector
            row = measure(name, dict(chosen), work)
            said = {"command": f"python -m benchmarks.recovery --rows {name!r}", "options": chosen}
            rows = rows_in(RESULTS) | {name: row | said | {"environment": environment(1)}}
            write_rows(RESULTS, {"rows": rows}, table(rows))
            print(name, json.dumps(row), flush=True)
    rows = rows_in(RESULTS)
    write_rows(RESULTS, {"rows": rows}, table(rows))


def seen_files(network: str) -> list[Path]:
    """The files that rank, restore and teach a network, and those by which its options are chosen."""
    if network.startswith("resnet"):
        return cifar_files("train")
    return [
        file
        for part in ("imagenet1000", "coco128/images/train")
        for file in sorted((require_assets() / part).rglob("*.*"))
        if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    ]


def test_files(network: str) -> list[Path]:
    """The files that a network is judged by, which nothing is chosen by."""
    return cifar_files("test") if network.startswith("resnet") else split_files("coco128", "val")


def classifier(name: str, chosen: dict[str, Any], work: Path, cut: Path | None = None) -> dict[str, Any]:
    """Cut a ResNet (or read its `cut`), teach it, and judge it before and after."""
    load = load_resnet20 if name.startswith("resnet20") else load_resnet56
    model = load(require_assets()).eval()
    taught, epochs, count = chosen.pop("taught"), chosen.pop("epochs"), chosen.pop("test", CHOSEN)
    labelled = chosen.pop("labels", False)
    sparsify = chosen.pop("sparsify", 0)
    images, labels = cifar_images(seen_files(name))
    small, x = name.startswith("resnet20"), torch.rand(1, 3, 32, 32)
    asked: dict[str, Any] = {"macs": chosen.pop("macs", MACS), "importance": "l2" if small else "fisher"}
    asked |= {"calibration": preprocess(images[:CALIBRATED])}
    inputs, start = preprocess(images[:taught]), model
    if sparsify:
        how: Any = {"epochs": sparsify, "options": replace(CIFAR, **chosen), "out": work / "sparsify"}
        start = cc.sparsify(model, x, inputs, progress=Said(), **how, **asked)
    result = cut_once(start, x, asked | {"restore": "recalibrate" if small else "compensate"}, cut)
    if not epochs:
        return {}
    data: Any = TensorDataset(inputs, labels[:taught]) if labelled else inputs
    loss: Any = (lambda network, batch: F.cross_entropy(network(batch[0]), batch[1])) if labelled else None
    if chosen.get("init") == "rewind":
        chosen["rewind"] = early_weights(model, TensorDataset(inputs, labels[:taught]))
    lessons: dict[str, Any] = {"options": replace(CIFAR, **chosen), "out": work, "progress": Said()}
    found, spent = _timed(partial(cc.recover, model, result, data, epochs=epochs, loss=loss, **lessons))
    test_images, test_labels = cifar_images(test_files(name), count)
    splits = {
        "chosen_on": (preprocess(images[-CHOSEN:]), labels[-CHOSEN:]),
        "test": (preprocess(test_images), test_labels),
    }
    networks = {"original": model, "before": result.model, "after": found.model}
    scores = {
        split: {which: accuracy(on_accelerator(network), *given) for which, network in networks.items()}
        for split, given in splits.items()
    }
    return {"metric": "accuracy", "test_images": count, **scores, **spent}


@dataclass(frozen=True)
class Taught:
    """A detector, its images, what makes inputs of them, its judge, and inputs that show its errors.

    images: teach. calibration: rank and restore. detections: reads the outputs of one whose library is not known.
    """

    model: nn.Module
    images: Any
    calibration: Any
    preprocessing: cc.Preprocessing | None
    detections: Callable[[Any], dict[str, Tensor]] | None
    judge: Callable[[nn.Module], float]
    shown: Tensor


def early_weights(model: nn.Module, data: TensorDataset) -> dict[str, Tensor]:
    """The state of this architecture after an epoch from drawn weights, to rewind to (SGD, seed 0, labels alone)."""
    network = on_accelerator(drawn(model, seed=0)[0]).train()
    device = device_of(network)
    step = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for images, labels in DataLoader(data, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(0)):
        step.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(images.to(device)), labels.to(device)))
        step.step()
    return network.cpu().state_dict()


def cut_once(model: nn.Module, x: Tensor, asked: dict[str, Any], folder: Path | None) -> PruneResult:
    """The cut of a network: what stands in the folder, as of another machine, else a new one, which is left there."""
    if folder is not None and (folder / "plan.json").is_file():
        return result_in(folder, model, x)
    result = cc.prune(model, x, **asked)
    if folder is not None:
        cc.save(result, folder)
    return result


def detector(name: str, chosen: dict[str, Any], work: Path, cut: Path | None = None) -> dict[str, Any]:
    """Cut a detector (or read its `cut`), teach it, and judge it before and after."""
    macs, epochs, rounds = chosen.pop("macs"), chosen.pop("epochs"), chosen.pop("rounds", 1)
    passes = chosen.pop("passes", 1)
    size, repeat, raw = chosen.pop("size", SIZE), chosen.pop("repeat", 1), chosen.pop("raw", False)
    with tempfile.TemporaryDirectory() as folder:
        own = _taught(name.partition(" ")[0], work / "images", Path(folder), size, repeat)
        own = replace(own, detections=None) if raw else own
        asked: dict[str, Any] = {"macs": macs, "align": 8, "calibration": own.calibration}
        asked |= {"preprocessing": own.preprocessing, "detections": own.detections, "passes": passes}
        options = cc.RecoverOptions(preprocessing=own.preprocessing, **chosen)
        taught: dict[str, Any] = {"epochs": epochs, "out": work, "options": options, "progress": Said()}
        x = own.shown[:1]
        result = cut_once(own.model, x, asked, cut)
        if not epochs:
            return {}
        teach = partial(cc.recover, own.model, result, own.images, detections=own.detections, **taught)
        if rounds > 1:
            teach = partial(cc.prune_in_rounds, own.model, x, own.images, rounds=rounds, **taught, **asked)
        found, spent = _timed(teach)
        spent["images_seen"] *= rounds
        states = {"original": own.model, "before": result.model, "after": found.model}
        return {
            "metric": "mAP50-95",
            "test_images": 128,
            "test": {state: own.judge(network) for state, network in states.items()},
            "errors": {
                "before": error_profile(own.model, result.model, result.plan, own.shown),
                "after": error_profile(own.model, found.model, found.plan, own.shown),
            },
        } | spent


def _taught(name: str, links: Path, folder: Path, size: int, repeat: int) -> Taught:
    files, few = seen_files(name), accuracy_files(name)
    often = [file for file in files if "coco128" in file.parts] * (repeat - 1)
    if name not in ULTRALYTICS:
        entry = ENTRIES[name]
        assert entry.prepare is not None  # classifiers alone have none
        images = torch.stack([entry.prepare(read_image(file)) for file in files])
        judge = partial(entry.evaluate, batch_size=16, data=[sample_of(file) for file in test_files(name)])
        model = entry.load(require_assets()).eval()
        places = {file: place for place, file in enumerate(files)}
        taught = Subset(cast(Any, images), [*places.values(), *(places[file] for file in often)]) if often else images
        chosen = images[[places[file] for file in few]] if often else images
        found = entry.detections
        return Taught(model, taught, chosen, None, found, lambda net: float(judge(net)["map"]), images[-SHOWN:])
    for number, file in enumerate([*files, *often]):
        link = links / str(max(0, number - len(files) + 1)) / file.relative_to(require_assets())
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(file.resolve())
    data, how = data_folder(folder, test_files(name)), cc.Preprocessing("letterbox")

    def fitted(chosen: list[Path]) -> Tensor:
        return torch.stack([yolov5.preprocess(read_image(file), size=size)[0] for file in chosen])

    judge = partial(evaluate, data=data, imgsz=size)
    calibration: Any = fitted(few) if often else links
    shown = fitted(files[-SHOWN:])
    return Taught(coco_model(name), links, calibration, how, None, lambda net: float(judge(net)["map"]), shown)


def on_accelerator(network: nn.Module) -> nn.Module:
    """The network where it is judged: a copy on the GPU, where there is one."""
    device = accelerator(network)
    return network if device.type == "cpu" else private_copy(network).to(device)


def _timed(teach: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What was taught, and what is to be said of it."""
    start, busy = perf_counter(), process_time()
    found = teach()
    done = found.recovery
    return found, {
        "macs": found.plan.macs_ratio,
        "params": found.plan.params_ratio,
        "seed": 0,
        "images": done.images,
        "images_seen": done.images * done.epochs,
        "steps": done.steps,
        "loss": [done.before, done.after],
        "history": done.history,
        "notes": done.notes,
        "wall_s": perf_counter() - start,
        "processor_s": process_time() - busy,
    }


class Said:
    """A line now and then."""

    def __init__(self) -> None:
        self.said = perf_counter()
        self.text = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print where it is, once a minute."""
        if perf_counter() - self.said > 60:
            self.said = perf_counter()
            print(f"  {stage} {done}/{total} {self.text}", file=sys.stderr, flush=True)

    def note(self, stage: str, text: str) -> None:  # noqa: ARG002  there is one stage that says anything
        """Keep it for the next line."""
        self.text = text


HEAD = (
    "# Recovery",
    "",
    "`python -m benchmarks.recovery`; one thread, other work beside it; environments are in recovery.json.",
)


def table(rows: dict[str, Any], head: Sequence[str] = HEAD) -> str:
    """The rows in Markdown, below what is said of them all."""
    lines = [
        *head,
        "",
        "| row | MACs | images seen | labels | chosen on, before → after | test: original, before → after | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        chosen = row.get("chosen_on")
        words = f"{chosen['before']:.4f} → **{chosen['after']:.4f}**" if chosen else "–"
        test = row["test"]
        labels = "yes" if row["options"].get("labels") else "no"
        after = f"**{test['after']:.4f}** ({row['test_images']:,})"
        lines.append(
            f"| {name} | {row['macs']:.3f} | {row['images_seen']:,} | {labels} | "
            f"{words} | {test['original']:.4f}, {test['before']:.4f} → {after} | "
            f"{row['wall_s']:.0f} s, {row['processor_s']:.0f} s |"
        )
    for name, row in rows.items():
        if errors := row.get("errors"):
            lines += [
                "",
                f"Where {name} departs from its original (squared error of a part's kept channels, as a share of their "
                f"variance; median of its layers; {SHOWN} images): part, before → after",
                "",
                "; ".join(
                    f"{part} {error:.2f} → {errors['after'].get(part, 0.0):.2f}"
                    for part, error in errors["before"].items()
                ),
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
