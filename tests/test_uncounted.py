"""Libraries whose networks return feature maps beside their detections: known by the class, and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.cli import main


class Detector(nn.Module):
    """A neck and a head; `how` says what is returned beside the detections."""

    def __init__(self, how: str = "maps last") -> None:
        super().__init__()
        self.how, self.neck, self.stem = how, nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.head, self.extra = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Any:
        maps = [self.neck(x).relu()]
        features = [self.stem(maps[0])]
        found = self.head(features[0])
        if self.how == "maps last":
            return [(features, [found, self.extra(features[0])]) if self.training else found, maps]
        if self.how == "maps first":
            return (*features,), found
        if self.how == "raw maps":
            return found.flatten(2), [found]
        return found.flatten(2), {"feats": features, "scores": found}


def of_library(module: str, name: str) -> type[Detector]:
    """A class that looks as if it came from a library."""
    return type(name, (Detector,), {"__module__": module})


KNOWN = [
    ("yolov6.models.yolo", "Model", "maps last", "1.0", {"neck", "stem"}),
    ("yolov6.models.yolo_lite", "Model", "maps last", "1.0", {"neck", "stem"}),
    ("third_party.yolov6.models.yolo", "Model", "maps last", "1.0", {"neck", "stem"}),
    ("backbone", "EfficientDetBackbone", "maps first", "0.0", {"neck", "stem"}),
    ("ultralytics.models.nets", "Detector", "feats", "1.feats.0", {"neck", "stem"}),
]


@pytest.mark.parametrize(("module", "name", "how", "path", "free"), KNOWN)
def test_feature_maps_beside_detections_may_go(module: str, name: str, how: str, path: str, free: set[str]) -> None:
    kind = of_library(module, name)
    for model in (kind(how).eval(), type("Mine", (kind,), {})(how).eval()):
        groups = cc.analyze(model, example())
        assert {
            slot.tensor.partition(".")[0] for g in groups.groups for slot in (groups.slots[i] for i in g.slots)
        } >= free
        assert f"outputs that may lose channels: {path}, because " in str(groups)
        assert "prunable_outputs=[] holds them" in str(groups)
        result = cc.prune(model, example(), keep=0.5)
        assert result.proof.passed
        assert (result.model.neck.out_channels, result.model.stem.out_channels, result.model.head.out_channels) == (
            8,
            8,
            5,
        )
        held = cc.analyze(model, example(), prunable_outputs=[])
        assert "may lose channels" not in str(held)
        assert len(held.groups) < len(groups.groups)


@pytest.mark.parametrize(
    ("module", "name", "how"),
    [("models.yolo", "Model", "raw maps"), ("nets", "Model", "maps last"), ("backbone", "Backbone", "maps first")],
)
def test_of_other_classes_nothing_is_guessed(module: str, name: str, how: str) -> None:
    """YOLOv5 and YOLOv7 return their raw maps, which hold boxes and scores: nothing of the neck is an output."""
    groups = cc.analyze(of_library(module, name)(how).eval(), example())
    assert groups.free_outputs == ()
    assert "may lose channels" not in str(groups)
    assert len(groups.groups) == {"raw maps": 2, "maps last": 0, "maps first": 1}[how]


def test_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from test_uncounted import of_library\n\n\ndef build():\n"
        "    return of_library('yolov6.models.yolo', 'Model')().eval()\n"
    )
    where = [f"{file}:build", "--input", "1x3x16x16"]
    assert main(["analyze", *where]) == 0
    assert "Outputs that may lose channels: 1.0, because YOLOv6 reads" in " ".join(capsys.readouterr().out.split())
    assert main(["analyze", *where, "--prunable-output", "", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trace"]["uncounted"] == ""
    out = tmp_path / "out"
    assert (
        main(["compress", *where, "--keep", "0.5", "--align", "1", "--no-engine", "--no-bench", "--out", str(out)]) == 0
    )
    report = json.loads((out / "report.json").read_text())
    assert any("Outputs that may lose channels: 1.0, because YOLOv6 reads" in note for note in report["notes"])
    assert torch.is_tensor(cc.load(Detector, out)(example())[0])
