"""A device that is not here: its tile aligns widths, its roofline plans for time, and nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from channelcut.cli import main
from channelcut.cost.devices import device_named

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
    capsys.readouterr()
    for target, words in (("orin-nino", "orin-nano"), ("a100:int3", "int8")):
        assert main(["compress", model, "--macs", "0.7", "--target", target, "--force", *asked]) == 2
        assert words in capsys.readouterr().err
