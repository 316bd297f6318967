"""Which importance keeps most: accuracy after a cut by every criterion, as cut and after the steps that restore.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.scores                 # what is missing
    python -m benchmarks.scores --networks yolo26n --criteria l2 taylor --budgets 0.9 0.8
    python -m benchmarks.scores --networks yolo26n --criteria fisher "fisher, labels" "fisher, 4 passes" --budgets 0.9

Everything here is chosen on what no final figure uses: detectors score and recalibrate on the first 64 images of
coco128 train and are judged on the other 64 (the pretrained networks have seen both); YOLO26n of blood cells scores on
64 of its training images and is judged on bccd val; ResNet-56 on 256 and 5,000 other training images of CIFAR-10. A row
that has been written is not measured again: the script can be called anew where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

import channelcut as cc
from benchmarks.own_detector import trained
from benchmarks.rows import rows_in, write_rows
from benchmarks.zoo import ultralytics_coco
from benchmarks.zoo.data import cifar_files, cifar_images, read_image, require_assets, sample_of, split_files
from benchmarks.zoo.registry import ENTRIES, Entry
from benchmarks.zoo.resnet_cifar import preprocess
from channelcut.adapters import deployed_groups, weighing_of
from channelcut.adapters.ultralytics.weighing import detections
from channelcut.allocation import Budget, allocate
from channelcut.bench.environment import environment
from channelcut.core.copies import private_copy
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import BudgetError
from channelcut.core.groups import Groups
from channelcut.core.inputs import Inputs
from channelcut.core.labels import Targets
from channelcut.core.plan import Plan
from channelcut.core.progress import Stopwatch
from channelcut.core.sensitivity import Weighing
from channelcut.core.tensors import named_tensors
from channelcut.cost import network_costs
from channelcut.cutting import cut, make_plan
from channelcut.labelled import targets_of
from channelcut.ranking import Criterion
from channelcut.recovery import recalibrate
from channelcut.restoring import compensated
from channelcut.scoring import Sample, Scored, sampled_score, score, unit_of
from channelcut.trying import scored_by_best

RESULTS = Path(__file__).parent / "results" / "scores"
NETWORKS = ("yolo26n", "yolo11n", "yolov8n", "nanodet_m", "yolov5n", "yolo26n_bccd", "resnet56")
CRITERIA = ("l2", "taylor", "fisher", "group-fisher", "reconstruction", "fpgm", "activation")
LABELS, DETECTIONS, PASSES = "labels", "detections", "4 passes"
# Of Ultralytics' networks alone: by their own loss, with boxes that count no more than scores, by YOLO26's other head;
# of the others alone: as a function reads what their outputs detect.
LABELLED = tuple(f"{criterion}, {LABELS}" for criterion in ("fisher", "taylor"))
DETECTING = tuple(f"{criterion}, {DETECTIONS}" for criterion in ("fisher", "taylor"))
IN_PASSES = tuple(f"{criterion}, {PASSES}" for criterion in ("fisher", "taylor"))
WEIGHED: dict[str, Callable[[nn.Module], Weighing]] = {
    "taylor, boxes 1": lambda model: detections(model, DEFAULT, 1.0),
    "taylor, one-to-one": lambda model: detections(model, Deploy(nms=False)),
}
BUDGETS = (0.9, 0.8, 0.7, 0.5)
OWN = "yolo26n_bccd"
SIZE, IMAGES, TRAINING, CIFAR_IMAGES, ALIGN, SEED = 320, 64, 5000, 256, 8, 0


@dataclass(frozen=True)
class Case:
    """One network with everything that all of its rows share."""

    name: str
    entry: Entry
    model: nn.Module
    groups: Groups
    batches: Sequence[Inputs]
    data: Any
    detections: Callable[[Any], dict[str, Tensor]] | None = None

    def judge(self, model: nn.Module) -> float:
        """The accuracy of a network on the images that choose; one of Ultralytics' is folded, which is faster."""
        copy: Any = private_copy(model).eval()
        if hasattr(copy, "fuse"):
            copy.fuse(verbose=False)
        return next(iter(self.entry.evaluate(copy, data=self.data).values()))


Restore = Callable[[Case, Plan, nn.Module], nn.Module]
RESTORE: dict[str, Restore] = {
    "cut": lambda case, plan, small: small,  # noqa: ARG005
    "recalibrated": lambda case, plan, small: recalibrate(small, case.batches)[0],  # noqa: ARG005
    "compensated": lambda case, plan, small: compensated(
        case.model, small, plan, case.batches, weighing_of(case.model, DEFAULT, case.detections), Stopwatch()
    )[0],
}
"""The columns: what is done to a cut before it is judged."""


def seen_files(network: str) -> list[Path]:
    """The files that a network is scored and restored by."""
    if network.startswith("resnet"):
        return cifar_files("train")
    return split_files("bccd" if network == OWN else "coco128", "train")[:IMAGES]


def test_files(network: str) -> list[Path]:
    """The files that a criterion is judged by; of CIFAR-10 they are those that score, with other images in them."""
    if network.startswith("resnet"):
        return cifar_files("train")
    return split_files("bccd", "val") if network == OWN else split_files("coco128", "train")[IMAGES:]


def case(name: str) -> Case:
    """Load a network, analyze it, and read its images."""
    ours = name in ultralytics_coco.NAMES or name == OWN
    entry = ultralytics_coco.entry(name, SIZE) if ours else ENTRIES[name]
    model = trained() if name == OWN else entry.load(require_assets()).eval()
    classifies = name.startswith("resnet")
    if classifies:
        images = preprocess(cifar_images(seen_files(name), CIFAR_IMAGES)[0])
        every = cifar_images(test_files(name), CIFAR_IMAGES + TRAINING)
        data: Any = tuple(part[CIFAR_IMAGES:] for part in every)
    else:
        assert entry.prepare is not None  # classifiers alone have none
        images = torch.stack([entry.prepare(read_image(file)) for file in seen_files(name)])
        data = [sample_of(file) for file in test_files(name)]
    groups = cc.analyze(model, images[:1])
    batches: list[Inputs] = [((part,), {}) for part in torch.split(images, 32)]
    return Case(name, entry, model, deployed_groups(model, groups, DEFAULT), batches, data)


def rows_of(case: Case, criterion: str, budgets: Sequence[float]) -> Any:
    """A row for each budget, by its key."""
    wall, processor = perf_counter(), process_time()
    name, (criterion, _, variant) = criterion, criterion.partition(", ")
    if variant == DETECTIONS:
        case = replace(case, detections=case.entry.detections)
    scored = None
    if variant == PASSES:
        case = replace(case, detections=case.entry.detections)
    elif name in WEIGHED:
        sample = Sample(case.batches, WEIGHED[name](case.model))
        weights = score(case.groups, named_tensors(case.model), "l2")
        scored = sampled_score(case.groups, case.model, criterion, sample, weights)
    else:
        targets = labels(case) if variant == LABELS else None
        chosen = Criterion(criterion, case.batches, targets=targets, detections=case.detections)
        scored = chosen.scored(case.model, case.groups, Stopwatch())
    seconds = {"score_s": perf_counter() - wall, "score_cpu_s": process_time() - processor}
    for budget in budgets:
        wall, processor = perf_counter(), process_time()
        said = in_passes(case, criterion, budget) if scored is None else row_of(case, criterion, budget, scored)
        row = {"network": case.name, "criterion": name, "budget": budget, **said}
        row |= {
            "seed": SEED,
            "images": sum(len(args[0]) for args, _ in case.batches),
            "judged_on": len(case.data[1]) if case.entry.prepare is None else len(case.data),
        }
        row |= {**seconds, "wall_s": perf_counter() - wall, "cpu_s": process_time() - processor}
        yield f"{case.name} {name} {budget}", row


def trial_of(case: Case) -> dict[str, Any]:
    """Which criterion the default takes, and what the cuts that it tried had lost."""
    left_open = Criterion(None, case.batches, detects=True)
    best, _ = scored_by_best(case.model, case.groups, left_open, network_costs(case.model, case.groups), Stopwatch())
    return {"network": case.name, "chosen": str(best.chosen), "tried": dict(best.tried or {})}


def labels(case: Case) -> Targets:
    """The labels of the images that score, by the loss of the network's library."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train.txt").write_text("\n".join(map(str, seen_files(case.name))) + "\n")
        lines = [f"path: {folder}", "train: train.txt", "val: train.txt", "names:"]
        lines += [f"  {index}: {name}" for index, name in case.model.names.items()]  # type: ignore[operator, union-attr]
        (Path(folder) / "data.yaml").write_text("\n".join(lines) + "\n")
        found = targets_of(case.model, f"{folder}/data.yaml", "library", ((torch.rand(1, 3, SIZE, SIZE),), {}))
    assert found is not None
    return found


def row_of(case: Case, criterion: str, budget: float, scored: Scored) -> dict[str, Any]:
    """Cut and judge."""
    costs = network_costs(case.model, case.groups)
    try:
        asked = Budget(macs=budget, align=ALIGN)
        kept = allocate(case.groups, scored.values, asked, costs, unit=unit_of(criterion)).kept
    except BudgetError as error:
        return {"refused": str(error)}
    plan = make_plan(case.model, case.groups, kept, costs)
    small = cut(case.model, plan).eval()
    found: dict[str, Any] = {"macs": plan.macs_ratio, "params": plan.params_ratio, "unseen": list(scored.unseen)}
    return found | {name: case.judge(restore(case, plan, small)) for name, restore in RESTORE.items()}


def in_passes(case: Case, criterion: str, budget: float) -> dict[str, Any]:
    """Cut and compensate in four passes, and judge."""
    images = torch.cat([args[0] for args, _ in case.batches])
    found = cc.prune(
        case.model, images[:1], macs=budget, align=ALIGN, importance=criterion, calibration=images,
        detections=case.detections, passes=4,
    )  # fmt: skip
    step = found.step
    return {"macs": step.macs_ratio, "params": step.params_ratio, "compensated": case.judge(found.model)}


def main() -> None:
    """Measure what is missing, a row at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--criteria", nargs="+", default=CRITERIA)
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS)
    parser.add_argument("--trials", action="store_true", help="which criterion the default takes, and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for network in given.networks if given.trials else ():
        if (key := f"{network} trial") not in rows_in(RESULTS):
            write({key: trial_of(case(network))})
    if given.trials:
        return
    for network in given.networks:
        rows = rows_in(RESULTS)
        wanted = {c: [b for b in given.budgets if f"{network} {c} {b}" not in rows] for c in given.criteria}
        if not any(wanted.values()):
            continue
        found = case(network)
        if f"{network} original" not in rows:
            write({f"{network} original": {"network": network, "cut": found.judge(found.model)}})
        for criterion, budgets in wanted.items():
            for key, row in rows_of(found, criterion, budgets) if budgets else ():
                write({key: row})
                print(key, json.dumps(row), file=sys.stderr, flush=True)


def write(new: dict[str, Any]) -> None:
    """Add rows, and write the table anew."""
    content: dict[str, Any] = {"command": "OMP_NUM_THREADS=1 python -m benchmarks.scores", "align": ALIGN}
    content |= {"environment": environment(1), "rows": rows_in(RESULTS) | new}
    write_rows(RESULTS, content, table(content))


def table(content: dict[str, Any]) -> str:
    """The rows as Markdown: a line for each network and budget, a column for each criterion."""
    rows = content["rows"]
    criteria = [
        c
        for c in (*CRITERIA, *DETECTING, *IN_PASSES, *WEIGHED, *LABELLED)
        if any(row.get("criterion") == c for row in rows.values())
    ]
    lines = [
        "# What a criterion keeps",
        "",
        f"`{content['command']}`, one thread, align {content['align']}. mAP of the detectors on images",
        "64 to 127 of coco128 train (320 px; yolov5n 416), of yolo26n_bccd on the 87 of bccd val, top-1 of resnet56 on",
        f"5,000 training images of CIFAR-10; scored and restored on {IMAGES} ({CIFAR_IMAGES} of CIFAR-10) other",
        "training images. Each cell: as cut / recalibrated / compensated; with `detections` the ranking and the",
        "compensation weigh what these read. Nothing is trained. MACs are of the deployed form. In `4 passes` what is",
        "left is compensated and ranked again three times on the way; of NanoDet-m and YOLOv5n with `detections`.",
        "",
        f"| Network | MACs | {' | '.join(criteria)} |",
        f"|---|---|{'---|' * len(criteria)}",
    ]
    for network in NETWORKS:
        original = rows.get(f"{network} original")
        for budget in BUDGETS:
            found = [rows.get(f"{network} {criterion} {budget}") for criterion in criteria]
            if any(found):
                name = f"{network} ({original['cut']:.3f})" if original else network
                lines.append(f"| {name} | {budget} | {' | '.join(map(cell, found))} |")
    lines += [
        "",
        "What the default tries of Ultralytics' detectors (`--trials`), and what the heads of a cut are off by:",
        "",
    ]
    for row in rows.values():
        if tried := row.get("tried"):
            lost = ", ".join(f"{name} {value:.3g}" for name, value in tried.items())
            lines.append(f"- {row['network']}: {lost}; it takes {row['chosen']}")
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any] | None) -> str:
    """One row in a cell."""
    if row is None or "refused" in row:
        return "-" if row is None else "refused"
    return " / ".join(f"{row[name]:.3f}" if name in row else "-" for name in RESTORE)


if __name__ == "__main__":
    main()
