"""Training a cut network with Ultralytics: every task and every entry point keeps the shapes of the plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ultralytics_cut import _MADE, TASKS, YOLO, assert_as_planned, assert_moved, made, ultralytics

# From a checkpoint. Older releases end in an AttributeError (`kpt_shape`), with networks of their own too.
PREDICTS_KEYPOINTS = tuple(map(int, ultralytics.__version__.split(".")[:3])) >= (8, 4, 175)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("ultralytics")
    _MADE.clear()


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
        if task == "pose" and not PREDICTS_KEYPOINTS:
            continue  # nor does it of networks of its own
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
