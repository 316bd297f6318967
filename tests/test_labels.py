"""Labels of Ultralytics' data sets teach by Ultralytics' own loss, and nothing of network, data or process changes."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics_data import tiny_data

import channelcut as cc
from channelcut.adapters import adapter_of
from channelcut.cli import main
from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.tensors import named_tensors

tasks = pytest.importorskip("ultralytics.nn.tasks")
from ultralytics.cfg import get_cfg  # noqa: E402

TRUNK = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]]
HEADS: dict[str, Any] = {
    "detect": ("DetectionModel", ["Detect", ["nc"]]),
    "segment": ("SegmentationModel", ["Segment26", ["nc", 8, 16]]),
    "pose": ("PoseModel", ["Pose26", ["nc", [17, 3]]]),
    "obb": ("OBBModel", ["OBB26", ["nc", 1]]),
    "classify": ("ClassificationModel", ["Classify", ["nc"]]),
}
ALIKE = cc.RecoverOptions(batch=4, held_back=0.3, learning_rate=1e-3)


def network(task: str) -> Any:
    kind, (head, given) = HEADS[task]
    read = -1 if task == "classify" else [1, 2]
    yaml = {"nc": 2, "reg_max": 1, "end2end": True, "backbone": TRUNK, "head": [[read, 1, head, given]]}
    yaml |= {"kpt_shape": [17, 3]} if task == "pose" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(tasks, kind)(yaml, verbose=False)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = None
        with torch.no_grad():
            model.train()(torch.rand(8, 3, 64, 64))
    return model.eval()


@cache
def cut() -> Any:
    return cc.prune(network("detect"), torch.rand(1, 3, 64, 64), keep=0.5)


def labelled(task: str, model: Any, data: str, epochs: int = 4) -> Any:
    try:
        return adapter_of(model).labelled(model, data, (3, 64, 64), None, epochs)
    except UserError as error:
        if "torchvision" in str(error):
            pytest.skip(str(error))
        raise


def process() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index]


@pytest.mark.parametrize("task", HEADS)
def test_the_loss_is_theirs_and_leaves_no_trace(task: str, tmp_path: Path) -> None:
    model, data = network(task), tiny_data(tmp_path, task)
    files, state = sorted(tmp_path.rglob("*")), process()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = set(vars(model))
    found = labelled(task, model, data)
    vary = found.data.varied([0, 1, 3])
    items = [vary(number, seed, 2) for number, seed in ((0, 5), (3, 6))]
    assert torch.equal(vary(0, 5, 2)["img"], items[0]["img"])
    assert not torch.equal(vary(0, 7, 2)["img"], items[0]["img"])
    batch = found.data.joined(items)
    loss = found.loss(model, batch)
    loss.backward()
    assert any(parameter.grad is not None for parameter in model.model[0].parameters())
    assert process() == state
    assert sorted(tmp_path.rglob("*")) == files
    assert set(vars(model)) == attributes
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    theirs: Any = private_copy(model).train()
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.eval()
    theirs.args = get_cfg(overrides={"epochs": 4})
    theirs.criterion = theirs.init_criterion()
    if task != "classify":  # in the third epoch of four
        for _ in range(2):
            theirs.criterion.update()
    wanted = theirs.loss(batch)[0].sum() / (1 if task == "classify" else 2)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_mosaics_are_of_the_images_that_teach_alone(tmp_path: Path) -> None:
    """Every second image is of class 0; those that are held back are of class 1."""
    found = labelled("detect", model := network("detect"), tiny_data(tmp_path, "detect", images=6), 40)
    vary = found.data.varied([0, 2, 4])
    classes = [vary(number, seed, 0)["cls"].flatten().tolist() for seed in range(8) for number in (0, 2, 4)]
    assert {kind for each in classes for kind in each} == {0.0}
    assert max(map(len, classes)) > 1
    closed = [vary(number, seed, 39)["cls"] for seed in range(8) for number in (0, 2, 4)]
    assert max(map(len, closed)) == 1  # as their trainer does it, in the last ten epochs
    model.args = {"mosaic": 0.0, "unknown": 1}  # what it was trained with
    vary = labelled("detect", model, str(tmp_path / "data.yaml"), 40).data.varied([0, 2, 4])
    assert {len(vary(number, seed, 0)["cls"]) for seed in range(8) for number in (0, 2)} <= {0, 1}


def test_labels_of_the_train_split_teach_and_no_others(tmp_path: Path) -> None:
    model, data = network("detect"), tiny_data(tmp_path, "detect", images=6)
    labelled("detect", model, data)
    result = cut()
    first = cc.recover(model, result, data, epochs=1, options=ALIKE)
    assert first.recovery is not None
    assert first.recovery.labels
    assert first.plan.changes[-1]["labels"]

    def same(options: Any = ALIKE) -> bool:
        again = named_tensors(cc.recover(model, result, data, epochs=1, options=options).model)
        return all(torch.equal(tensor, again[name]) for name, tensor in named_tensors(first.model).items())

    for label in (tmp_path / "labels" / "val").iterdir():
        label.write_text("1 .9 .9 .1 .1\n")
    assert same()
    (tmp_path / "labels" / "train" / "0.txt").write_text("1 .7 .7 .2 .2\n")
    (tmp_path / "labels" / "train" / "1.txt").write_text("0 .2 .2 .2 .2\n")
    assert not same()
    without = cc.recover(model, result, data, epochs=1, options=cc.RecoverOptions(batch=4, held_back=0.3, task=0.0))
    assert without.recovery is not None
    assert not without.recovery.labels


def test_labels_rank_channels_where_that_is_asked_for(tmp_path: Path) -> None:
    model, data = network("detect").requires_grad_(False), tiny_data(tmp_path, "detect")
    labelled("detect", model, data)
    groups = cc.analyze(model, torch.rand(1, 3, 64, 64), probe=False)
    found = [
        cc.plan(model, groups, keep=0.5, importance="fisher", calibration=data, **asked)
        for asked in ({}, {"loss": "library"}, {"loss": "library"})
    ]
    assert [plan.options.get("scored_by") for plan in found] == [None, "labels", "labels"]
    assert found[1].options["scored_images"] == 4
    assert found[1].kept == found[2].kept
    assert found[1].kept != found[0].kept
    with pytest.raises(UserError, match="There are no labels to rank DetectionModel by"):
        cc.plan(model, groups, keep=0.5, calibration=torch.rand(4, 3, 64, 64), loss="library")


def test_labels_that_cannot_teach_are_said(tmp_path: Path) -> None:
    model = network("detect")
    data, three = tiny_data(tmp_path / "two", "detect"), tiny_data(tmp_path / "three", "detect", ("a", "b", "c"))
    labelled("detect", model, data)
    result = cut()
    with pytest.raises(UserError, match=r"has 3 classes, and the network has 2: .*RecoverOptions\(task=0\)"):
        cc.recover(model, result, three, epochs=1, options=ALIKE)
    with pytest.raises(UserError, match=r"augment has 'flip', which the labels of .*would not follow"):
        cc.recover(model, result, data, epochs=1, options=cc.RecoverOptions(augment=("flip", "colour")))
    model.names = {0: "b", 1: "a"}
    with pytest.raises(UserError, match=r"the network's classes in another order \(a, b"):
        cc.recover(model, result, data, epochs=1, options=ALIKE)
    for label in (tmp_path / "two" / "labels" / "train").iterdir():
        label.unlink()
    model.names = {0: "a", 1: "b"}
    found = cc.recover(model, result, data, epochs=1, options=ALIKE)
    assert found.recovery is not None
    assert not found.recovery.labels
    assert "No labels stand beside the images of the split 'train'" in found.recovery.notes[0]


def test_the_command_line_says_whether_labels_taught(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    data = tiny_data(tmp_path / "data", "detect")
    labelled("detect", network("detect"), data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("det.py").write_text("import torch\nfrom test_labels import network\n\n\ndef build():\n"
                              "    return network('detect'), torch.rand(1, 3, 64, 64)\n")  # fmt: skip
    cc.save(cut(), "out", source="det.py:build")
    assert main(["recover", "out", "--data", data, "--epochs", "1", "--out", "with"]) == 0
    assert "1 steps, with labels, loss on" in " ".join(capsys.readouterr().out.split())
    assert main(["recover", "out", "--data", data, "--epochs", "1", "--task", "0", "--out", "without"]) == 0
    assert "without labels" in capsys.readouterr().out


def test_labels_that_do_not_fit_are_refused_before_anything_is_cut(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    def reached(*_: Any) -> None:
        raise UserError("It is reached.")

    data = tiny_data(tmp_path / "data", "detect")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("turned.py").write_text("import torch\nfrom test_labels import network\n\n\ndef build():\n"
                                 "    model = network('detect')\n    model.names = {0: 'b', 1: 'a'}\n"
                                 "    return model, torch.rand(1, 3, 64, 64)\n")  # fmt: skip
    cc.save(cut(), "out", source="turned.py:build")
    monkeypatch.setattr("channelcut.compress.finished", reached)
    monkeypatch.setattr("channelcut.recovering.folder.result_in", reached)
    compress = ["compress", "turned.py:build", "--keep", "0.5", "--no-engine", "--no-evaluate", "--out", "cut"]
    recover, order = ["recover", "out", "--epochs", "1"], "the network's classes in another order (a, b"
    for command, text in (
        ([*compress, "--recover", "1"], order),
        ([*compress, "--sparsify", "1"], order),
        ([*compress, "--labels"], order),
        (recover, order),
        ([*compress, "--recover", "1", "--task", "0"], "It is reached."),
        ([*recover, "--task", "0"], "It is reached."),
        (compress, "It is reached."),
    ):
        assert main([*command, "--data", data]) == 2
        assert text in capsys.readouterr().err, command
