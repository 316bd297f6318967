"""Data sets of Ultralytics calibrate and evaluate: the figures are those of their validator, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics_data import tiny_data

import channelcut as cc
from channelcut.adapters import images_of
from channelcut.cli import main
from channelcut.core.deployed import Deploy
from channelcut.core.errors import UserError
from channelcut.report import render_html

ultralytics = pytest.importorskip("ultralytics")
try:
    import torchvision  # noqa: F401  their validators import it
except (ImportError, RuntimeError) as error:
    pytest.skip(f"Ultralytics' validators need torchvision: {error}", allow_module_level=True)

from ultralytics.cfg import get_cfg  # noqa: E402
from ultralytics.nn import tasks  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402

from channelcut.adapters.ultralytics.evaluation import evaluate  # noqa: E402

X = torch.rand(1, 3, 64, 64)
NETWORKS = {
    "segment": lambda: tasks.SegmentationModel("yolov8n-seg.yaml", nc=2, verbose=False),
    "pose": lambda: tasks.PoseModel("yolov8n-pose.yaml", nc=2, verbose=False),
    "obb": lambda: tasks.OBBModel("yolov8n-obb.yaml", nc=2, verbose=False),
    "classify": lambda: tasks.ClassificationModel("yolov8n-cls.yaml", nc=2, verbose=False),
}


@dataclass
class Detector:
    """A network that finds the squares of a data set, after a few steps of training."""

    name: str
    model: Any
    data: str


def trained(name: str, data: str) -> Any:
    """A network that has seen the images often enough to find the squares, and not so often that all is right."""
    torch.manual_seed(0)
    model = DetectionModel(f"{name}.yaml", nc=2, verbose=False)
    model.args = get_cfg()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 0.3
    batch = {
        "img": images_of(model, data, (3, 64, 64))[0],
        "cls": torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(4, 1),
        "batch_idx": torch.arange(4.0),
    }
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(20):
        model.train().loss(batch)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    del model.criterion
    return model.eval()


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    made = {}
    for name in ("yolov8n", "yolo26n"):
        data = tiny_data(tmp_path_factory.mktemp(name), "detect")
        made[name] = Detector(name, trained(name, data), data)
    return made


def theirs(model: Any, data: str, folder: Path, **asked: Any) -> dict[str, float]:
    found = ultralytics.YOLO(model, task="detect").val(
        data=data, imgsz=64, rect=False, plots=False, verbose=False, workers=0, project=str(folder), **asked
    )
    return {"map": float(found.box.map), "map50": float(found.box.map50)}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A block that leaves the working directory, their settings and runs, and the process as they are."""
    from ultralytics.utils import SETTINGS, USER_CONFIG_DIR

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def seen() -> list[Any]:
        folders = [tree(path) for path in (here, Path(USER_CONFIG_DIR), Path(SETTINGS["runs_dir"])) if path.is_dir()]
        folders = [{name: seen for name, seen in found.items() if not name.startswith("DDP")} for found in folders]
        random = torch.get_rng_state().tolist()
        return [folders, dict(SETTINGS), torch.get_num_threads(), random, dict(os.environ), Path.cwd()]

    @contextmanager
    def block() -> Iterator[None]:
        before = seen()
        yield
        assert seen() == before

    return block


@pytest.mark.parametrize(("name", "nms"), [("yolov8n", None), ("yolo26n", None), ("yolo26n", False)])
def test_module_and_file_have_the_figures_of_their_validator(
    detectors: dict[str, Detector], untouched: Callable[[], Any], tmp_path: Path, name: str, nms: bool | None
) -> None:
    one = detectors[name]
    before, weights = tree(Path(one.data).parent), {k: v.clone() for k, v in one.model.state_dict().items()}
    seen: list[tuple[int, int]] = []
    with untouched():
        found = evaluate(
            one.model, one.data, imgsz=64, nms=nms, batch=2, on_progress=lambda done, total: seen.append((done, total))
        )
    assert seen == [(1, 2), (2, 2)]
    assert all(0 <= value <= 1 for value in found.values()) and found["map"] > 0.2
    assert one.model.state_dict().keys() == weights.keys()  # not fused
    assert all(torch.equal(weights[key], value) for key, value in one.model.state_dict().items())
    file = tmp_path / "model.onnx"
    cc.export(one.model, file, X, deploy=Deploy(nms))
    with untouched():
        of_file = evaluate(file, one.data, imgsz=64)
    assert of_file == pytest.approx(found, abs=0.002)
    assert tree(Path(one.data).parent) == before
    torch.save({"model": one.model}, tmp_path / "model.pt")
    asked = {} if nms is None else {"nms": nms}
    copied = tmp_path / "copied"
    shutil.copytree(Path(one.data).parent, copied)  # their own call writes a cache beside the labels
    (copied / "data.yaml").write_text(Path(one.data).read_text().replace(str(Path(one.data).parent), str(copied)))
    said = theirs(tmp_path / "model.pt", str(copied / "data.yaml"), tmp_path, **asked)
    assert {key: found[key] for key in said} == pytest.approx(said, abs=1e-6)


def test_other_tasks_have_the_figures_of_their_validator(tmp_path: Path, untouched: Callable[[], Any]) -> None:
    """Random weights find nothing: names and zeros are compared, and of a classifier the share that is right."""
    expected = {
        "segment": {"map", "map50", "precision", "recall", "mask_map", "mask_map50", "mask_precision", "mask_recall"},
        "pose": {"map", "map50", "precision", "recall", "pose_map", "pose_map50", "pose_precision", "pose_recall"},
        "obb": {"map", "map50", "precision", "recall"},
        "classify": {"top1", "top5"},
    }
    for task, names in expected.items():
        data = tiny_data(tmp_path / task, task)
        network = NETWORKS[task]()
        before = tree(tmp_path / task)
        with untouched():
            found = evaluate(network, data, imgsz=64)
        assert set(found) == names
        assert tree(tmp_path / task) == before
        network.task = task  # as `YOLO` notes it; a checkpoint without is taken for a detector's
        torch.save({"model": network}, tmp_path / f"{task}.pt")
        said = ultralytics.YOLO(tmp_path / f"{task}.pt").val(
            data=data, imgsz=64, rect=False, plots=False, verbose=False, workers=0, project=str(tmp_path)
        )
        assert sorted(found.values()) == sorted(v for k, v in said.results_dict.items() if k != "fitness")


def test_calibration_takes_the_train_split_as_they_prepare_it(tmp_path: Path) -> None:
    data = tiny_data(tmp_path, "detect")
    shutil.rmtree(tmp_path / "labels")
    pixels = np.full((20, 40, 3), (255, 0, 0), np.uint8)  # red
    Image.fromarray(pixels).save(tmp_path / "images" / "train" / "00.png")
    (tmp_path / "images" / "train" / "broken.png").write_bytes(b"\x89PNG nothing")
    model = DetectionModel("yolov8n.yaml", nc=5, verbose=False)  # other classes: labels are not read
    images, broken = images_of(model, data, (3, 64, 64))
    assert images.shape == (5, 3, 64, 64) and broken == ["broken.png"]
    first = images[1]  # 0.png, 00.png, 1.png, ...
    if not torch.equal(first[:, 32, 32], torch.tensor([1.0, 0.0, 0.0])):
        first = images[0]
    assert torch.equal(first[:, 32, 32], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(first[:, 15], torch.tensor(114 / 255)) and torch.allclose(
        first[:, 48], torch.tensor(114 / 255)
    )
    assert torch.equal(first[:, 16, 0], torch.tensor([1.0, 0.0, 0.0]))
    folder, _ = images_of(model, tmp_path / "images" / "val", (3, 64, 64))  # a plain folder, as ever
    assert folder.shape == (4, 3, 64, 64)
    with pytest.raises(UserError, match="whose own preprocessing is used"):
        images_of(model, data, (3, 64, 64), cc.Preprocessing(scale=1.0))
    result = cc.prune(model, X, keep=0.5, calibration=data)
    assert result.compensation is not None and result.compensation.images == 5


def test_a_wrong_data_set_is_one_paragraph(
    detectors: dict[str, Detector], tmp_path: Path, untouched: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr("socket.socket.connect", closed)
    model = detectors["yolov8n"].model
    right = Path(detectors["yolov8n"].data).read_text()
    cases = {
        "moved": (right.replace("path: /", "path: /nowhere/"), r"missing path '?/nowhere/.*images/val"),
        "no train": (right.replace("images/train", "images/training"), "missing path .*images/training"),
        "no names": (right.split("names:")[0], "names"),
        "no yaml": ("path: [", "cannot use the data set"),
        "classes": (right + "  2: c\n", "has 3 classes, and the network has 2"),
        "downloads": (right.replace("path: /", "path: /nowhere/") + "download: https://x.y/z.zip\n", "missing path"),
    }
    for name, (text, words) in cases.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        with untouched(), pytest.raises(UserError, match=words) as caught:
            images_of(model, file, (3, 64, 64))
            evaluate(model, file, imgsz=64)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
        assert name == "classes" or str(file) in str(caught.value)
    for missing in (tmp_path / "absent.yaml", "https://example.com/data.yaml"):
        with pytest.raises(UserError, match=r"cannot use|on the network"):
            evaluate(model, missing, imgsz=64)
    with pytest.raises(UserError, match="looks like a data set of Ultralytics"):
        images_of(torch.nn.Conv2d(3, 8, 3), tmp_path / "moved.yaml", (3, 64, 64))


def test_compress_reports_the_accuracy_of_all_that_it_makes(
    detectors: dict[str, Detector], tmp_path: Path, untouched: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one = detectors["yolo26n"]
    torch.save({"model": one.model}, tmp_path / "best.pt")
    before = tree(Path(one.data).parent)
    flags = ["compress", f"ultralytics:{tmp_path / 'best.pt'}", "--trust", "--input", "1x3x64x64", "--keep", "0.9"]
    flags += ["--align", "1", "--no-engine", "--no-bench", "--data", one.data]
    out = tmp_path / "out"
    with untouched():
        assert main([*flags, "--precision", "fp16", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    found = report["accuracy"]
    assert [(row["network"], row["what"]) for row in found["rows"]] == [
        ("original", "module"),
        ("pruned", "module, as cut"),
        ("pruned", "module, restored"),
        ("original", "original.onnx"),
        ("pruned", "model.onnx"),
        ("original", "original.fp16.onnx"),
        ("pruned", "model.fp16.onnx"),
    ]
    figures = [row["metrics"]["map"] for row in found["rows"]]
    assert figures[0] == pytest.approx(evaluate(one.model, one.data, imgsz=64)["map"], abs=1e-6)
    assert figures[3] == pytest.approx(figures[0], abs=0.002) and figures[4] == pytest.approx(figures[2], abs=0.002)
    assert found["head"] == "Detect, one-to-many" and found["suppression"] == "left to the caller"
    assert found["library"].startswith("Ultralytics 8.") and found["imgsz"] == [64, 64]
    printed = " ".join(capsys.readouterr().out.split())
    page = render_html(report)
    for words in ("Accuracy", "one-to-many", "module, restored", "mAP50-95", f"{figures[0]:.3f}"):
        assert words in printed and words in page
    assert tree(Path(one.data).parent) == before
    assert main(["verify", str(out), "--trust", "--images", "2"]) == 0
    assert json.loads((out / "parity.json").read_text())["inputs"] == "2 images"
    plain = tmp_path / "plain"
    assert main([*flags, "--no-evaluate", "--out", str(plain)]) == 0
    assert json.loads((plain / "report.json").read_text()).get("accuracy") is None


def test_other_classes_stop_compress_before_anything_is_done(
    detectors: dict[str, Detector], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", "1x3x64x64", "--keep", "0.5", "--no-engine", "--no-bench", "--data", detectors["yolov8n"].data]
    assert main(["compress", "ultralytics:yolov8n.yaml", *flags, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "has 2 classes, and the network has 80" in " ".join(said.split()) and "--no-evaluate" in said
    assert not (tmp_path / "out").exists()
