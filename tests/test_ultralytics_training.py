"""Training a cut network with Ultralytics: every task and every entry point keeps the shapes of the plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator
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
    "imgsz": 64, "batch": 4, "warmup_epochs": 0, "optimizer": "SGD", "lr0": 0.02, "plots": False, "verbose": False,
}  # fmt: skip
ENTRY = "class Entry"


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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("ultralytics")
    _MADE.clear()


def made(root: Path, task: str, architecture: str = "") -> Cut:
    """A cut network of a task, and a broken-off training of it, made when it is first asked for."""
    name = architecture or TASKS[task]
    if name not in _MADE:
        folder = root / name
        folder.mkdir()
        original = ultralytics.YOLO(name).model
        original.names = {i: ("B" if i == 5 else f"class {i}") for i in original.names}
        result = cc.prune(original, torch.rand(1, 3, 64, 64), keep=0.5)
        cc.ultralytics.save_checkpoint(result, folder / "pruned.pt")
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


@pytest.mark.parametrize("task", TASKS)
def test_load_and_save(root: Path, task: str) -> None:
    cut = made(root, task)
    theirs = ultralytics.YOLO(cut.file)
    assert theirs.task == task
    assert type(theirs.model) is type(cut.original)
    assert_as_planned(theirs.model, cut)
    assert all(
        torch.equal(a, b)
        for a, b in zip(theirs.model.state_dict().values(), cut.result.model.state_dict().values(), strict=True)
    )
    YOLO(cut.file).save(str(cut.folder / "again.pt"))
    assert_as_planned(YOLO(cut.folder / "again.pt").model, cut)


@pytest.mark.parametrize("task", TASKS)
def test_predict_and_val(root: Path, task: str) -> None:
    cut = made(root, task)
    image = next(Path(cut.data if task == "classify" else Path(cut.data).parent).rglob("val/**/*.png"))
    for model in (YOLO(cut.file), ultralytics.YOLO(cut.file)):
        assert model.predict(str(image), imgsz=64, verbose=False)[0] is not None
        assert_as_planned(model.model, cut)
    model = YOLO(cut.last)
    metrics = model.val(data=cut.data, imgsz=64, batch=4, plots=False, verbose=False, project=str(cut.folder / "val"))
    assert "fitness" in metrics.results_dict
    assert_as_planned(model.model, cut)


@pytest.mark.parametrize("task", TASKS)
def test_train_broke_off(root: Path, task: str) -> None:
    """What stands in last.pt after an epoch: the cut network, moved, told apart from the uncut one."""
    cut = made(root, task)
    assert cut.seen == [0]
    for path in (cut.last, cut.last.with_name("epoch0.pt")):
        saved = torch.load(path, weights_only=False)
        assert saved["ema"].state_dict()["model.0.conv.weight"].dtype == torch.float16
        assert saved["ema"].yaml["backbone"][0][2].startswith("this network was cut by channelcut")
    model = YOLO(cut.last)
    plan = assert_as_planned(model.model, cut)
    assert [change["step"] for change in plan.changes] == ["other classes", "train"]
    assert_moved(model.model, cut)


@pytest.mark.parametrize("task", TASKS)
def test_resume(root: Path, task: str) -> None:
    cut = made(root, task)
    model, epochs = YOLO(cut.last), []
    model.add_callback("on_train_epoch_start", lambda trainer: epochs.append(trainer.epoch))
    before = copy.deepcopy(model.model.state_dict())
    copied = cut.last.read_bytes()
    model.train(resume=True)
    cut.last.with_name("resumable.pt").write_bytes(copied)
    assert epochs == [1]
    assert model.ckpt_path is None or model.trainer.best.exists()
    plan = assert_as_planned(model.model, cut)
    assert [change["step"] for change in plan.changes] == ["other classes", "train"]
    assert_moved(model.model, cut)
    assert any(not torch.equal(old, model.model.state_dict()[name]) for name, old in before.items())
    assert all(p.requires_grad for name, p in model.model.named_parameters() if ".dfl" not in name)
    assert_as_planned(ultralytics.YOLO(model.trainer.best).model, cut)


@pytest.mark.parametrize("task", TASKS)
def test_export(root: Path, task: str) -> None:
    cut = made(root, task)
    for kind in (YOLO, ultralytics.YOLO):
        model = kind(cut.file)
        path = model.export(format="torchscript", imgsz=64, verbose=False)
        assert_as_planned(model.model, cut)
        assert Path(path).exists()
