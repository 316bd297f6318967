"""The deployed form of Ultralytics' networks: what their exporter writes, in outputs, names, numbers and metadata."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import channelcut as cc
from channelcut.adapters import deployed_form
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import UserError
from channelcut.engine.onnxruntime import load

pytest.importorskip("ultralytics", reason="Ultralytics is not installed: pip install 'channelcut[ultralytics]'")

SIZE = 64
X = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
TASKS = ("yolov8n", "yolo26n-seg", "yolo26n-obb", "yolo26n-cls")  # benchmarks/deployed.py has the others


def lively(name: str) -> nn.Module:
    """A model of Ultralytics whose scores differ from anchor to anchor, as trained ones do."""
    from ultralytics import RTDETR, YOLO

    torch.manual_seed(0)
    model: nn.Module = (RTDETR if name.startswith("rtdetr") else YOLO)(f"{name}.yaml").model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.6)
            module.bias.data.normal_(0, 0.3)
    return model


def theirs(model: nn.Module, folder: Path, **asked: Any) -> Path:
    """The file that Ultralytics' exporter writes."""
    from ultralytics.engine.exporter import Exporter

    options = {"format": "onnx", "imgsz": SIZE, "batch": 1, "device": "cpu", "simplify": False, "verbose": False}
    return folder / Exporter(overrides=options | asked)(model)


def properties(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def outputs(path: Path, x: torch.Tensor = X) -> dict[str, Any]:
    found: dict[str, Any] = load(path)({"images": x.numpy()})
    return found


def rows(output: Any) -> Any:
    """Boxes in an order of their own: by score, then by place."""
    return output[0][np.lexsort(output[0].T[::-1])]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")


@pytest.mark.parametrize("name", TASKS)
def test_a_file_has_the_outputs_and_numbers_of_theirs(name: str, tmp_path: Path) -> None:
    model = lively(name)
    cc.export(model, tmp_path / "ours.onnx", X)
    mine, other = outputs(tmp_path / "ours.onnx"), outputs(theirs(model, tmp_path))
    assert list(mine) == list(other) == (["output0", "output1"] if name.endswith("seg") else ["output0"])
    for key, wanted in other.items():
        assert mine[key].shape == wanted.shape
        axis = 1 if wanted.ndim > 2 and not name.startswith("rtdetr") else -1
        by_channel = np.moveaxis(wanted, axis, 0).reshape(wanted.shape[axis], -1)
        gap = np.moveaxis(np.abs(mine[key] - wanted), axis, 0).reshape(len(by_channel), -1).max(1)
        assert (gap <= 1e-4 * np.maximum(np.ptp(by_channel, axis=1), 1e-3)).all()


def test_the_metadata_is_theirs_key_by_key(tmp_path: Path) -> None:
    model = lively("yolo26n-pose")
    model.kpt_names = {0: [f"point {i}" for i in range(17)]}
    cc.export(model, tmp_path / "ours.onnx", X, deploy=Deploy(nms=False))
    found, wanted = properties(tmp_path / "ours.onnx"), properties(theirs(model, tmp_path, nms=False))
    ours = {key for key in found if key.startswith("channelcut.")}
    assert set(found) - ours == set(wanted) and {"args", "kpt_shape", "kpt_names", "end2end"} < set(wanted)
    for key in set(wanted) - {"date", "args"}:
        assert found[key] == wanted[key], key
    arguments = [ast.literal_eval(text["args"]) for text in (found, wanted)]
    assert {**arguments[0], "simplify": False} == arguments[1]  # their test file is not simplified


def test_the_call_selects_the_head() -> None:
    """The heads of an untrained model are drawn one by one; a change of one shows in its deployed form alone."""
    model = lively("yolo26n")

    def output(nms: bool | None) -> torch.Tensor:
        form = deployed_form(model, (X,), Deploy(nms))
        with torch.no_grad():
            return form.module(X)  # type: ignore[no-any-return]

    before = {nms: output(nms) for nms in (None, False)}
    assert before[None].shape == (1, 84, 84) and before[False].shape == (1, 84, 6)
    for branch in model.model[-1].one2one_cv2:
        branch[2].bias.data += 1.0
    assert torch.equal(before[None], output(None))
    assert not torch.equal(before[False], output(False))


def test_suppression_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip(
        "torchvision", reason="torchvision does not fit this torch", exc_type=(ImportError, RuntimeError)
    )
    model = lively("yolo26n")
    cc.export(model, tmp_path / "ours.onnx", X, deploy=Deploy(nms=True))
    mine, other = outputs(tmp_path / "ours.onnx")["output0"], outputs(theirs(model, tmp_path, nms=True))["output0"]
    assert mine.shape == other.shape and mine.shape[2] == 6
    assert np.allclose(rows(mine), rows(other), atol=1e-3)
    with pytest.raises(UserError, match="written out"):
        cc.export(model, tmp_path / "open.onnx", X, deploy=Deploy(nms=True), dynamic_batch=True)


def test_a_budget_counts_the_deployed_form() -> None:
    """A head that is not deployed costs nothing, and cutting it gains nothing."""
    model = lively("yolo26n")
    groups = cc.analyze(model, X)
    many, one = (cc.plan(model, groups, macs=0.8, deploy=Deploy(nms)) for nms in (None, False))
    assert many.options.get("deploy") is None and one.options["deploy"] == {"nms": False}
    form = deployed_form(model, (X,), DEFAULT).module
    counted = sum(p.numel() for n, p in model.named_parameters() if "one2one" not in n)
    assert many.before.params == counted
    assert sum(p.numel() for p in form.parameters()) <= counted
    whole = cc.plan(model, cc.analyze(model, X), macs=0.8).before.macs
    assert whole < sum(w.macs for w in groups.work)


def test_what_is_deployed_is_recorded_where_it_leaves_nothing_out() -> None:
    model = lively("yolov8n")
    plan = cc.plan(model, cc.analyze(model, X), keep=0.5, deploy=Deploy(nms=False))
    assert plan.options["deploy"] == {"nms": False}


def test_a_cut_network_is_deployed_as_it_was_planned(tmp_path: Path) -> None:
    model = lively("yolo26n")
    result = cc.prune(model, X, macs=0.7, deploy=Deploy(nms=False))
    assert cc.export(result, tmp_path / "small.onnx", X).output_names == ("output0",)
    assert outputs(tmp_path / "small.onnx")["output0"].shape == (1, 84, 6)
    wanted = outputs(theirs(result.model, tmp_path, nms=False))["output0"]
    assert np.allclose(rows(outputs(tmp_path / "small.onnx")["output0"]), rows(wanted), atol=1e-3)


def test_nothing_of_the_model_or_of_their_settings_changes(tmp_path: Path) -> None:
    from ultralytics.utils import SETTINGS

    model = lively("yolo26n")
    before, settings = {n: p.clone() for n, p in model.state_dict().items()}, dict(SETTINGS)
    stamp = SETTINGS.file.stat().st_mtime_ns if SETTINGS.file.exists() else 0
    deployed_form(model, (X,), Deploy(nms=False))
    assert dict(SETTINGS) == settings and (SETTINGS.file.stat().st_mtime_ns if SETTINGS.file.exists() else 0) == stamp
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters()) == all(
        p.requires_grad for p in lively("yolo26n").parameters()
    )
    assert not model.model[-1].export and model.model[-1].cv2 is not None


@pytest.mark.parametrize(
    ("deploy", "x", "words"),
    [
        (Deploy(outputs=("0",)), X, "one output"),
        (DEFAULT, torch.rand(1, 3, 50, 50), "multiples of the stride"),
        (DEFAULT, (X, X), "takes one image"),
    ],
)
def test_what_cannot_be_deployed_is_said(deploy: Deploy, x: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        deployed_form(lively("yolov8n"), x if isinstance(x, tuple) else (x,), deploy)


class Twofold(nn.Module):
    """Boxes that are read, and a map that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.boxes, self.map = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 64, 3)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        f = self.stem(x).relu()
        return {"boxes": self.boxes(f), "extra": [self.map(f)]}


def test_outputs_that_nobody_reads_are_left_out(tmp_path: Path) -> None:
    model, x = Twofold().eval(), torch.rand(1, 3, 16, 16)
    deploy = Deploy(outputs=("boxes",))
    whole, part = (cc.plan(model, cc.analyze(model, x), keep=0.5, deploy=d) for d in (DEFAULT, deploy))
    assert whole.before.macs - part.before.macs == 12 * 12 * 64 * 16 * 9
    assert whole.before.params - part.before.params == sum(p.numel() for p in model.map.parameters())
    result = cc.prune(model, x, keep=0.5, deploy=deploy)
    assert cc.export(result, tmp_path / "m.onnx", x).output_names == ("boxes",)
    with pytest.raises(UserError, match="names no output"):
        cc.plan(model, cc.analyze(model, x), keep=0.5, deploy=Deploy(outputs=("nothing",)))
    with pytest.raises(UserError, match=r"'boxs' names no output.* Did you mean 'boxes'\? It returns boxes, e"):
        cc.export(model, tmp_path / "n.onnx", x, deploy=Deploy(outputs=("boxes", "boxs")))
    with pytest.raises(UserError, match="none of them"):
        cc.export(model, tmp_path / "n.onnx", x, deploy=Deploy(nms=True))
