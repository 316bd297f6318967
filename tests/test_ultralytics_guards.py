"""What would lose the cut stops loudly, in Ultralytics' own classes and in ours; other classes; worker processes."""

from __future__ import annotations

import os
import pickletools
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics_cut import _MADE, SMALL, YOLO, Cut, assert_as_planned, assert_moved, made, shapes, ultralytics
from ultralytics_data import tiny_data

import channelcut as cc

LINE = r"from channelcut.adapters.ultralytics import YOLO"
NO_NETWORK = """
import socket
def closed(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = closed
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("ultralytics")
    _MADE.clear()


@pytest.fixture
def cut(root: Path) -> Cut:
    return made(root, "detect", "yolov8n.yaml")


@pytest.fixture
def both(root: Path) -> Cut:
    return made(root, "detect")


def quietly(cut: Cut) -> dict[str, Any]:
    return {"data": cut.data, "epochs": 1, "project": str(cut.folder / "theirs"), **SMALL}


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_their_own_trainer_stops_with_the_line_to_use(root: Path, task: str) -> None:
    found = made(root, task, "yolov8n.yaml" if task == "detect" else "yolov8n-cls.yaml")
    for file in (found.file, found.last, found.last.with_name("epoch0.pt")):
        with pytest.raises(KeyError, match=LINE):
            ultralytics.YOLO(file).train(**quietly(found))
    with pytest.raises(KeyError, match=LINE):
        ultralytics.YOLO(found.last).train(resume=True)


def test_their_command_line_and_their_search_stop(cut: Cut) -> None:
    arguments = [f"{key}={value}" for key, value in quietly(cut).items()]
    yolo = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()", "train", f"model={cut.file}"]
    done = subprocess.run([*yolo, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert LINE in done.stderr
    model = ultralytics.YOLO(cut.file)
    model.tune(iterations=1, val=False, **{k: v for k, v in quietly(cut).items() if k != "optimizer"})
    assert not list((cut.folder / "theirs").rglob("best_hyperparameters.yaml"))
    with pytest.raises(cc.UserError, match="tune trains in processes of its own"):
        YOLO(cut.file).tune(iterations=1, **quietly(cut))


def test_no_class_of_channelcut_is_in_the_file(cut: Cut) -> None:
    """It loads where channelcut is not installed, and by their restricted loader; nothing reaches the network."""
    for file in (cut.file, cut.last):
        with zipfile.ZipFile(file) as archive:
            pickle = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        named = [str(argument) for _, argument, _ in pickletools.genops(pickle) if isinstance(argument, str)]
        assert not any(name.startswith("channelcut") and "." in name and " " not in name for name in named)
        code = (
            f"{NO_NETWORK}\n"
            "import sys; sys.modules['channelcut'] = None\n"
            "from ultralytics.nn.tasks import torch_safe_load\n"
            f"torch_safe_load({str(file)!r}, safe_only=True)\n"
            "from ultralytics import YOLO\n"
            f"model = YOLO({str(file)!r})\n"
            "import numpy as np\n"
            "model.predict(np.zeros((64, 64, 3), dtype=np.uint8), imgsz=64, verbose=False)\n"
            "print(model.model._channelcut['plan']['fingerprint'])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cut.folder)
        assert done.returncode == 0, done.stderr
        assert cut.result.plan.fingerprint in done.stdout


def test_weights_of_a_cut_network_go_into_no_other(cut: Cut, both: Cut) -> None:
    with pytest.raises(cc.UserError, match=r"load would put .* Open the cut network itself"):
        YOLO("yolov8n.yaml").load(str(cut.file))
    with pytest.raises(cc.UserError, match="would put"):
        YOLO(cut.file).load(ultralytics.YOLO("yolov8n.yaml").model)
    with pytest.raises(cc.UserError, match=r"train\(pretrained=.* would put"):
        YOLO("yolov8n.yaml").train(pretrained=str(cut.file), **quietly(cut))
    with pytest.raises(cc.UserError, match="pretrained=False asks for other weights"):
        YOLO(cut.file).train(pretrained=False, **quietly(cut))
    YOLO(cut.file).load(str(cut.file))
    with pytest.raises(cc.UserError, match=r"was cut by another plan, and this DetectionModel is another cut"):
        YOLO(both.file).train(resume=str(cut.last), **quietly(cut))
    with pytest.raises(cc.UserError, match="this one is not cut"):
        YOLO("yolov8n.yaml").train(resume=str(cut.last), **quietly(cut))
    with pytest.raises(cc.UserError, match=r"The trainer DetectionTrainer would build the uncut network again"):
        YOLO(cut.file).train(ultralytics.models.yolo.detect.DetectionTrainer, **quietly(cut))


def test_a_folder_that_cannot_be_written_to(cut: Cut) -> None:
    (cut.folder / "file").write_text("")
    with pytest.raises(cc.UserError, match=r"cannot write to .*file.*project='/path/of/yours'"):
        YOLO(cut.file).train(**{**quietly(cut), "project": str(cut.folder / "file" / "runs")})


def test_what_is_no_cut_of_a_detector_is_refused(cut: Cut) -> None:
    plain = cc.prune(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1)), torch.rand(1, 3, 8, 8), keep=0.5
    )
    with pytest.raises(cc.UserError, match="is no network of Ultralytics"):
        YOLO(plain)
    with pytest.raises(cc.UserError, match="is no cut of channelcut"):
        cc.ultralytics.save_checkpoint(cut.original, cut.folder / "x.pt")
    fused = YOLO(cut.file).fuse().model
    with pytest.raises(cc.UserError, match="has been fused since it was cut"):
        cc.ultralytics.save_checkpoint(fused, cut.folder / "x.pt")
    with pytest.raises(cc.UserError, match=r"Expected one that ends in .pt"):
        cc.ultralytics.save_checkpoint(cut.result, cut.folder / "x.safetensors")


def test_a_layer_that_was_changed_is_named(cut: Cut) -> None:
    saved = torch.load(cut.file, weights_only=False)
    saved["model"].model[0].conv = torch.nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    torch.save(saved, cut.folder / "changed.pt")
    with pytest.raises(cc.UserError, match=r"changed.pt: model.0.conv.weight has the shape \(16, 3, 3, 3\)"):
        YOLO(cut.folder / "changed.pt")


def test_train_returns_a_result_that_saves(cut: Cut, tmp_path: Path) -> None:
    """Callbacks, freeze, close_mosaic and early stop are theirs; the result loads on the original class."""
    started = shapes(cut.result.model)
    trained = cc.ultralytics.train(
        cut.result, **{**quietly(cut), "epochs": 3, "freeze": 2, "close_mosaic": 1, "patience": 1, "val": True}
    )
    assert shapes(cut.result.model) == started
    assert cut.result.plan.changes == ()
    assert [change["step"] for change in trained.plan.changes] == ["other classes", "train"]
    assert "metrics/mAP50(B)" in trained.metrics
    before, after = cut.result.model.state_dict(), trained.model.state_dict()
    assert torch.equal(before["model.1.conv.weight"].half().float(), after["model.1.conv.weight"])
    assert not torch.equal(before["model.4.cv1.conv.weight"].half().float(), after["model.4.cv1.conv.weight"])
    assert_as_planned(trained.model, cut, trained.plan)
    cc.save(trained, tmp_path / "out")
    again = cc.load(lambda: ultralytics.YOLO("yolov8n.yaml").model, tmp_path / "out")
    assert all(torch.equal(a, after[name]) for name, a in again.state_dict().items())
    proof = cc.prove(cut.original, trained.model, trained.plan, torch.rand(1, 3, 64, 64))
    assert proof.passed
    assert "other classes, train" in proof.note
    once_more = cc.prune(trained.model, torch.rand(1, 3, 64, 64), keep=0.5)
    cc.save(once_more, tmp_path / "twice")
    assert cc.load(lambda: ultralytics.YOLO("yolov8n.yaml").model, tmp_path / "twice").model[-1].nc == 2


@pytest.mark.parametrize("architecture", ["yolo26n.yaml", "yolov8n.yaml"])
def test_other_classes_keep_hidden_widths_and_rows_by_name(
    root: Path, architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = made(root, "detect", architecture)
    data = tiny_data(tmp_path / "data", "detect", ("new", " b", "class 7"))
    begun: list[Any] = []

    def look(trainer: Any) -> None:
        begun.append(trainer.model.state_dict())
        raise KeyboardInterrupt

    model = YOLO(found.file)
    model.add_callback("on_train_start", look)
    with pytest.raises(KeyboardInterrupt):
        model.train(**{**quietly(found), "data": data})
    source = found.result.model.state_dict()
    heads = ("cv3", "one2one_cv3") if "26" in architecture else ("cv3",)
    last = len(found.original.model) - 1
    for head in heads:
        for branch in range(3):
            for kind in ("weight", "bias"):
                name = f"model.{last}.{head}.{branch}.2.{kind}"
                new, old = begun[0][name], source[name]
                assert new.shape == (3, *old.shape[1:])
                assert torch.equal(new[1], old[5])
                assert torch.equal(new[2], old[7])
                assert not torch.equal(new[0], old[0])
    assert "3 classes instead of 80, its hidden widths kept; rows copied by name: 2" in caplog.text


def test_what_a_head_cannot_be_given(root: Path, cut: Cut, tmp_path: Path) -> None:
    pose = made(root, "pose", "yolov8n-pose.yaml")
    yaml = Path(tiny_data(tmp_path, "pose"))
    yaml.write_text(yaml.read_text().replace("[17, 3]", "[17, 2]"))
    with pytest.raises(cc.UserError, match=r"keypoints of the shape \[17, 2\], the cut head of \[17, 3\]"):
        YOLO(pose.file).train(**{**quietly(pose), "data": str(yaml)})
    gray = Path(tiny_data(tmp_path / "gray", "detect"))
    gray.write_text(gray.read_text() + "channels: 1\n")
    with pytest.raises(cc.UserError, match="images of 1 channels, the cut network reads 3"):
        YOLO(cut.file).train(**{**quietly(cut), "data": str(gray)})


def test_the_file_of_worker_processes_finds_the_cut_network(cut: Cut, tmp_path: Path) -> None:
    """Their entry file for several GPUs, run as it is in one process, as far as a CPU goes, without a network."""
    pytest.importorskip("cloudpickle", reason="Ultralytics hands the state to workers by cloudpickle")
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    model = YOLO(cut.file)
    arguments = {**quietly(cut), "model": str(cut.file), "project": str(tmp_path), "name": "worker", "val": False}
    trainer = model.task_map["detect"]["trainer"](overrides=arguments)
    trainer.model = trainer.get_model(weights=model.model, cfg=model.model.yaml)
    shutil.rmtree(trainer.save_dir)
    file = generate_ddp_file(trainer)
    try:
        path = os.pathsep.join([str(Path(cc.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        code = f"{NO_NETWORK}\nimport runpy; runpy.run_path({file!r}, run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    finally:
        ddp_cleanup(trainer, file)
    assert done.returncode == 0, done.stderr
    best = YOLO(tmp_path / "worker" / "weights" / "best.pt")
    assert_as_planned(best.model, cut)
    assert_moved(best.model, cut)


def test_an_uncut_network_trains_as_theirs(cut: Cut) -> None:
    model = YOLO("yolov8n.yaml")
    model.train(**{**quietly(cut), "val": False})
    assert shapes(model.model)["model.0.conv.weight"] == (16, 3, 3, 3)
    assert model.model.yaml["backbone"][0][2] == "Conv"
