"""What a budget of time is planned by: a device that is not here by its roofline, or a back end that times layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import channelcut as cc
from channelcut import begun
from channelcut.bench.measure import BenchOptions
from channelcut.cli import main
from channelcut.compress import compress
from channelcut.cost import macs_cost
from channelcut.cost.devices import device_named
from channelcut.cost.protocol import Pairwise, Widths
from channelcut.options import CompressOptions, PruneOptions
from channelcut.sources import open_source

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3), nn.ReLU(), nn.Conv2d(96, 4, 1)
    return nn.Sequential(*layers).eval(), torch.rand(1, 3, 24, 24)
"""


def test_a_named_device_plans_for_its_tile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    model, out = f"{tmp_path / 'nets.py'}:build", tmp_path / "out"
    asked = ["--no-engine", "--no-bench", "--quiet", "--out", str(out)]
    assert main(["compress", model, "--latency", "0.7", "--target", "a100:int8", *asked]) == 0
    options = json.loads((out / "plan.json").read_text())["options"]
    assert options["align"] == device_named("a100").tile("int8") > 1
    assert options["latency"] == 0.7
    assert "trials" not in options
    assert options["planned_by"].startswith("a100 in int8") and 0.5 < options["predicted"] <= 0.7
    (note,) = [note for note in json.loads((out / "report.json").read_text())["notes"] if "Planned for" in note]
    assert device_named("a100").words in note and "no time was measured on it" in note
    assert "a100 in int8" in (out / "report.html").read_text()
    capsys.readouterr()
    for target, words in (("orin-nino", "orin-nano"), ("a100:int3", "int8")):
        assert main(["compress", model, "--macs", "0.7", "--target", target, "--force", *asked]) == 2
        assert words in capsys.readouterr().err


@dataclass(frozen=True)
class Doubted:
    """Multiply-accumulates as times, with something to say of them."""

    groups: cc.Groups
    notes = ("three widths were left out",)

    def __call__(self, widths: Widths) -> float:
        return macs_cost(self.groups)(widths)

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        return macs_cost(self.groups).pairwise(steps)


def test_layers_and_files_are_timed_on_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the times leave open reaches the report."""
    asked: dict[str, Any] = {}
    compared = []

    def measure(model: Any, example: Any, **how: Any) -> Doubted:
        asked.update(how)
        return Doubted(how["groups"])

    def timed(original: Path, pruned: Path, options: Any, report: Any, backend: str) -> Any:
        compared.append(backend)
        raise cc.UserError("nothing is timed here")

    monkeypatch.setattr(begun, "measure", measure)
    monkeypatch.setattr("channelcut.compress.measure_onnx", timed)
    (tmp_path / "nets.py").write_text(FACTORY)
    source = open_source(f"{tmp_path / 'nets.py'}:build", None, trust=False, inputs=())
    options = CompressOptions(PruneOptions(latency=0.7), capabilities=(), measure=False, time_on="openvino")
    report = compress(source, tmp_path / "out", options)
    assert asked["backend"] == "openvino"
    assert "three widths were left out" in report["notes"]
    options = CompressOptions(PruneOptions(latency=0.7), (), bench=BenchOptions(), time_on="openvino")
    with pytest.raises(cc.UserError, match="nothing is timed here"):
        compress(source, tmp_path / "timed", options)
    assert compared == ["openvino"]
