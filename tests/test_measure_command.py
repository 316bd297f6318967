"""`channelcut measure`, and a budget of time by what it measured, on a network that takes a few milliseconds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from channelcut.bench.measure import BenchOptions
from channelcut.cli import main
from channelcut.cutting.storage import load_plan

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 3)
    return nn.Sequential(*layers).eval(), torch.ones(1, 3, 48, 48)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and the table of times that the tests share: the first of them fills it."""
    found = tmp_path_factory.mktemp("measured")
    (found / "nets.py").write_text(FACTORY)
    return found


def asked(folder: Path, command: str, *flags: str) -> list[str]:
    return [command, f"{folder / 'nets.py'}:build", "--table", str(folder / "table.jsonl"), *flags]


def test_the_command_prints_what_it_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("channelcut.cli.console._EVERY_S", 0.0)
    quick = ("--half-width", "0.5")
    assert main(asked(folder, "measure", *quick)) == 0
    captured = capsys.readouterr()
    assert re.search(r"^  measure: \d+ of \d+, \d+ s, \d+ s left$", captured.err, re.MULTILINE)
    assert len(re.findall("^  measure: done", captured.err, re.MULTILINE)) == 1
    said = " ".join(captured.out.split())
    for words in (
        " ms uncut (layers known to",
        " at 1x3x48x48 with onnxruntime",
        "Widths pay in steps of",
        "3 layers;",
    ):
        assert words in said
    assert "where most of it goes" in said and "kept in " in said
    kept = (folder / "table.jsonl").read_bytes()
    assert main(asked(folder, "measure", "--json", *quick)) == 0
    captured = capsys.readouterr()
    found: dict[str, Any] = json.loads(captured.out)
    assert (found["target"]["backend"], found["inputs"]) == ("onnxruntime", [[1, 3, 48, 48]])
    assert 0 < found["full_ms"] < 10_000
    assert sum(found["layers"].values()) == pytest.approx(found["full_ms"])
    assert found["table"] == str(folder / "table.jsonl")
    assert (folder / "table.jsonl").read_bytes() == kept  # nothing was timed again
    assert main(asked(folder, "measure", "--batch", "0")) == 2


def test_a_time_limit_is_said_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for = ["measure", f"{folder / 'nets.py'}:build", "--table", str(tmp_path / "table.jsonl")]
    short = ("--half-width", "50%", "--time-limit", "0.001")
    assert main([*asked_for, *short]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "In what steps widths pay is not known" in said and "Widths pay in steps of" not in said
    assert "note: the time limit of 0.001 s ended the measuring: " in said and "run the same again to go on" in said
    first = (tmp_path / "table.jsonl").read_text()
    assert main([*asked_for, *short, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert any("time limit" in note for note in found["notes"])
    again = (tmp_path / "table.jsonl").read_text()
    assert again.startswith(first) and again.count("\n") > first.count("\n")
    assert main([*asked_for[:-1], str(tmp_path / "other.jsonl"), *short, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] is None


def test_a_budget_of_time_is_met_as_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within a fifth: the machine may be busy."""
    monkeypatch.setattr("channelcut.gauge.BENCH", BenchOptions(time_limit_s=2.0, warmup_s=0.1))
    monkeypatch.setattr("channelcut.closing.TOLERANCE", 0.2)
    out = tmp_path / "out"
    flags = ("--latency", "0.7", "--no-engine", "--no-bench", "--out", str(out), "--json")
    assert main(asked(folder, "compress", *flags)) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    plan = load_plan(out)
    assert plan.options["latency"] == report["options"]["latency"] == 0.7
    trials = plan.options["trials"]
    assert any(0 < trial["ratio"] <= 0.7 * 1.2 and trial["high"] < 1 for trial in trials)
    assert all(0 < trial["predicted"] < 1 for trial in trials)
    assert plan.macs_ratio < 0.9
    assert plan.options["align"] >= 1 and plan.options["full_ms"] > 0
    assert report["proof"]["passed"]
