"""Cut networks of Ultralytics' tasks, with a training that broke off: made once a test file, when first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics_data import tiny_data

import channelcut as cc
from channelcut.core.record import record_of

pytest.importorskip("ultralytics", reason="Ultralytics is not installed: pip install 'channelcut[ultralytics]'")
try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError) as error:
    pytest.skip(f"Ultralytics trains with torchvision, which does not load ({error})", allow_module_level=True)

import ultralytics

YOLO = cc.ultralytics.YOLO
TASKS = {
    "detect": "yolo26n.yaml",
    "segment": "yolo26n-seg.yaml",
    "pose": "yolo26n-pose.yaml",
    "obb": "yolo26n-obb.yaml",
    "classify": "yolo26n-cls.yaml",
}
SMALL: dict[str, Any] = {
    "imgsz": 64, "batch": 4, "nbs": 4, "warmup_epochs": 0, "optimizer": "SGD", "lr0": 0.02, "plots": False,
    "verbose": False,
}  # fmt: skip


class Stop(Exception):
    """Ends a training after its first epoch, as a crash does."""


@dataclass
class Cut:
    """A cut network of a task, its checkpoint, its data, and a training of it that broke off after an epoch."""

    original: nn.Module
    result: cc.PruneResult
    folder: Path
    data: str
    last: Path
    seen: list[str]

    @property
    def file(self) -> Path:
        return self.folder / "pruned.pt"


_MADE: dict[str, Cut] = {}


def halved(original: nn.Module, *, proven: bool) -> cc.PruneResult:
    """Half of every group; the proof, which other tests look at, takes most of the time."""
    x = torch.rand(1, 3, 64, 64)
    if proven:
        return cc.prune(original, x, keep=0.5)
    groups = cc.analyze(original, x, probe=False)
    plan = cc.plan(original, groups, keep=0.5)
    none = cc.Proof(False, float("nan"), 0.0, 0.0, (), "not run", "own")
    return cc.PruneResult(cc.apply(original, plan), plan, none, groups, plan)


def made(root: Path, task: str, architecture: str = "") -> Cut:
    """A cut network of a task, and a broken-off training of it, made when it is first asked for."""
    name = architecture or TASKS[task]
    if name not in _MADE:
        folder = root / name
        folder.mkdir()
        original = ultralytics.YOLO(name).model
        original.names = {i: ("B" if i == 5 else f"class {i}") for i in original.names}
        result = halved(original, proven=name == "yolov8n.yaml")
        cc.ultralytics.save_checkpoint(result, folder / "pruned.pt", allow_unproven=True)
        data, seen = tiny_data(folder / "data", task), []
        model = YOLO(folder / "pruned.pt")

        def broken(trainer: Any) -> None:
            seen.append(trainer.epoch)
            raise Stop

        model.add_callback("on_model_save", broken)
        with pytest.raises(Stop):
            model.train(data=data, epochs=2, project=str(folder / "runs"), save_period=1, val=False, **SMALL)
        last = next((folder / "runs").rglob("last.pt"))
        _MADE[name] = Cut(original, result, folder, data, last, seen)
    return _MADE[name]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def assert_as_planned(model: Any, cut: Cut, plan: cc.Plan | None = None) -> cc.Plan:
    """Every shape is what the plan makes of the original's."""
    record = record_of(model)
    assert record is not None
    plan = plan or record.plan
    assert plan.kept == cut.result.plan.kept
    assert shapes(model) == {name: plan.shape(name, t.shape) for name, t in cut.original.state_dict().items()}
    return plan


def assert_moved(model: nn.Module, cut: Cut) -> None:
    """Training has changed the weights of the first, of a middle and of the last layers, not only the head."""
    before, after = cut.result.model.state_dict(), model.state_dict()
    moved = [n for n in before if n.endswith("weight") and before[n].shape == after[n].shape
             and not torch.equal(before[n].half().float(), after[n].half().float())]  # fmt: skip
    assert {"model.0.conv.weight", "model.2.cv1.conv.weight"} <= set(moved)
    assert len(moved) > 0.5 * sum(name.endswith("weight") for name in before)
