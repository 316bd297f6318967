"""A cut YOLO26n, trained on other classes by Ultralytics, killed in the second of three epochs, and resumed.

    CHANNELCUT_ASSETS=... python -m benchmarks.ultralytics_training    # writes results/ultralytics_training.json

The network has the COCO weights of the assets, loses channels by `keep=0.9` and is trained on bccd (205 images, three
classes) at 160 pixels. The process that trains is killed by SIGKILL in its second epoch; another one goes on with its
last.pt. A step that has been done is not done again, so that the script can be called anew where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file

import channelcut as cc
from benchmarks.zoo.data import require_assets
from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically

FILE = Path(__file__).parent / "results" / "ultralytics_training.json"
KEEP, EPOCHS, SIZE, BATCH, KILLED_IN = 0.9, 3, 160, 16, (1, 4)
NAMES = ("RBC", "WBC", "Platelets")


def main() -> None:
    """Cut, train until killed, resume, and write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "channelcut-ultralytics-training"))
    parser.add_argument("--step", choices=("first", "second"), help="run one of the two trainings in this process")
    given = parser.parse_args()
    work = Path(given.work).resolve()
    if given.step:
        _first(work) if given.step == "first" else _second(work)
        return
    work.mkdir(parents=True, exist_ok=True)
    last = work / "runs" / "cut" / "weights" / "last.pt"
    if not (work / "killed.json").exists():
        shutil.rmtree(work / "runs", ignore_errors=True)
        _cut(work)
        status = _child(work, "first")
        assert status == -signal.SIGKILL, f"the first training ended with {status}"
        write_atomically(work / "killed.json", json.dumps({"status": status, "epoch": _epoch(last)}).encode())
    if not (work / "resumed.json").exists():
        assert _child(work, "second") == 0
    write_atomically(FILE, (json.dumps(_found(work), indent=1) + "\n").encode())
    print(FILE.read_text())


def _cut(work: Path) -> None:
    """The cut network as a checkpoint, and the data with labels of its own, since their cache lies beside these."""
    from ultralytics import YOLO

    torch.set_num_threads(1)
    source = require_assets()
    model: Any = YOLO("yolo26n.yaml").model
    tensors = load_file(source / "weights" / "yolo26n_coco.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    result = cc.prune(model.eval(), torch.rand(1, 3, SIZE, SIZE), keep=KEEP, align=8)
    cc.ultralytics.save_checkpoint(result, work / "pruned.pt")
    shutil.rmtree(work / "data", ignore_errors=True)
    shutil.copytree(source / "bccd", work / "data")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    text = f"path: {work / 'data'}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    (work / "data.yaml").write_text(text)


def _first(work: Path) -> None:
    """Train, and be killed in the second epoch."""
    model = cc.ultralytics.YOLO(work / "pruned.pt")
    batches = []

    def kill(trainer: Any) -> None:
        batches.append(trainer.epoch)
        if (trainer.epoch, batches.count(trainer.epoch)) == KILLED_IN:
            os.kill(os.getpid(), signal.SIGKILL)

    model.add_callback("on_train_batch_end", kill)
    model.train(
        data=str(work / "data.yaml"), epochs=EPOCHS, imgsz=SIZE, batch=BATCH, optimizer="AdamW", lr0=1e-3, plots=False,
        project=str(work / "runs"), name="cut", exist_ok=True, seed=0,
    )  # fmt: skip


def _second(work: Path) -> None:
    """Go on with the checkpoint that the killed process left."""
    model = cc.ultralytics.YOLO(work / "runs" / "cut" / "weights" / "last.pt")
    first = []
    model.add_callback("on_train_start", lambda trainer: first.append(trainer.start_epoch))
    metrics = model.train(resume=True)
    found = {"start_epoch": first[0], "metrics": {name: float(value) for name, value in metrics.results_dict.items()}}
    write_atomically(work / "resumed.json", json.dumps(found).encode())


def _child(work: Path, step: str) -> int:
    command = [sys.executable, "-m", "benchmarks.ultralytics_training", "--work", str(work), "--step", step]
    start = perf_counter()
    status = subprocess.run(command, check=False).returncode
    print(f"{step}: status {status} after {perf_counter() - start:.0f} s")
    return status


def _epoch(last: Path) -> int:
    return int(torch.load(last, weights_only=False)["epoch"])  # written a moment ago by this script


def _found(work: Path) -> dict[str, Any]:
    """Losses of each epoch, and whether every shape is that of the plan."""
    from ultralytics import YOLO, __version__

    run = work / "runs" / "cut"
    with (run / "results.csv").open() as file:
        rows = [{name.strip(): float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    original, trained = YOLO("yolo26n.yaml").model, YOLO(run / "weights" / "best.pt").model
    plan = cc.Plan.from_dict(trained._channelcut["plan"])
    wrong = [
        name
        for name, tensor in original.state_dict().items()
        if tuple(trained.state_dict()[name].shape) != plan.shape(name, tensor.shape)
    ]
    losses = [sum(value for name, value in row.items() if name.startswith("train/")) for row in rows]
    return {
        "command": "python -m benchmarks.ultralytics_training", "network": "yolo26n, COCO weights", "keep": KEEP,
        "data": "bccd, train and val", "imgsz": SIZE, "batch": BATCH, "epochs": EPOCHS, "ultralytics": __version__,
        "killed": json.loads((work / "killed.json").read_text()),
        "resumed": json.loads((work / "resumed.json").read_text()),
        "train_loss": losses, "loss_falls": all(a > b for a, b in pairwise(losses)),
        "tensors": len(original.state_dict()), "wrong_shapes": wrong,
        "changes": [change["step"] for change in plan.changes],
        "rows": rows, "environment": environment(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
