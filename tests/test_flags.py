"""Flags: each one is explained, the examples of `--help` are commands, and what does not parse is one paragraph."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnxruntime
import pytest
import torch

import channelcut as cc
from channelcut.cli import COMMANDS, main, parser
from channelcut.cli.parsing import Command

HERE = Path(__file__).parent
MODEL = f"{HERE / 'networks.py'}:residual"
SMALL = ["--input", "2x3x16x16", "--no-bench", "--no-engine", "--align", "1", "--quiet"]


def parsers() -> dict[str, argparse.ArgumentParser]:
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("there are no commands")


def test_every_command_is_there() -> None:
    assert list(parsers()) == [command.NAME for command in COMMANDS]
    files = {path.stem for path in (HERE.parent / "channelcut" / "cli").glob("*.py")}
    assert files - {"__init__", "__main__", "console", "flags", "parsing", "budget_flags", "recovery_flags"} == set(
        parsers()
    )


@pytest.mark.parametrize("name", sorted(parsers()))
def test_every_option_is_explained(name: str) -> None:
    for action in parsers()[name]._actions:
        assert action.help and action.help != argparse.SUPPRESS, action.dest
        # The default is either said or shows nothing: a flag, a list that begins empty, or "where none is given".
        if action.option_strings and action.default not in (None, False, (), [], argparse.SUPPRESS):
            assert "default" in action.help, action.dest


def test_back_ends_are_known_however_they_are_written() -> None:
    found = [
        (name, action)
        for name in parsers()
        for action in parsers()[name]._actions
        if action.dest in ("backend", "time_on")
    ]
    assert {name for name, _ in found} >= {"bench", "build", "compress", "measure", "profile", "sweep"}
    for name, action in found:
        assert action.choices is None, (name, action.dest)
        assert callable(action.type) and action.type("TensorRT-RTX") == "tensorrt_rtx", (name, action.dest)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.NAME)
def test_help_shows_examples_that_parse(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command.NAME, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    lines = re.findall(r"^    ((?:channelcut|torchrun) .*)$", shown.partition("examples:")[2], re.M)
    assert lines == [line for _, line in command.EXAMPLES] and lines
    for line in lines:
        program, name, *arguments = shlex.split(re.sub(r"^torchrun .*-m channelcut\.cli", "channelcut", line))
        assert (program, name) == ("channelcut", command.NAME)
        assert parser().parse_args([name, *arguments]).run is command.run


def test_help_and_import_are_light() -> None:
    """Neither needs torch, and `--help` not even the package of the tables."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxruntime', 'scipy', 'rich', 'PIL')))\n"
        "import channelcut\n"
        "from channelcut.cli import main\n"
        "main(sys.argv[1:])"
    )
    for name in ([], *([name] for name in parsers())):
        run = subprocess.run([sys.executable, "-c", code, *name, "--help"], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["compress", "a:b", "--out", "o"],
            "Nothing says how much to keep. Give --latency, --latency-ms, --macs, --params or --keep",
        ),
        (["compress", "--macs", "0.5"], "the following arguments are required: MODEL"),
        (["compress", "a:b", "--macs", "0.5", "--nms", "maybe"], "'maybe' is neither none, true nor false"),
        (["compress", "a:b", "--out", "o", "--macs", "0"], "--macs: '0' is no budget. Expected a share above 0"),
        (["compress", "a:b", "--out", "o", "--params", "2X"], "--params: '2X' is no budget"),
        (["compress", "a:b", "--out", "o", "--macs", "nan"], "--macs: 'nan' is no budget"),
        (["compress", "a:b", "--out", "o", "--macs", "1", "--params", "1"], "--params: not allowed with argument --m"),
        (["compress", "a:b", "--out", "o", "--keep", "1.5"], "--keep: '1.5' is no share. Expected a number above 0"),
        (["compress", "a:b", "--out", "o", "--keep", "a.*=x"], "--keep: 'x' is no share"),
        (["compress", "a:b", "--out", "o", "--keep", "=0.5"], "--keep: '=0.5' has no pattern before ="),
        (
            ["compress", "a:b", "--out", "o", "--keep", "0.5", "--keep", "0.6"],
            "--keep is given twice without",
        ),
        (["compress", "a:b", "--out", "o", "--keep", "0.5", "--macs", "0.6"], "--keep 0.5 and --macs both say how"),
        (["compress", "a:b", "--out", "o", "--keep", "0.5", "--min-channels", "0"], "--min-channels: '0' is no number"),
        (["compress", "a:b", "--out", "o", "--keep", "0.5", "--min-keep", "2"], "--min-keep: '2' is no share"),
        (["compress", "a:b", "--out", "o", "--keep", "0.5", "--mean", "a"], "--mean: 'a' is no list of numbers"),
        (["analyze", "a:b", "--tracer", "magic"], "--tracer: invalid choice: 'magic'"),
        (
            ["analyze", "a:b", "--free-output", "1"],
            "--free-output 1 is not known here; did you mean --pru",
        ),
        (["analyze", "a:b", "--prun", "1"], "--prun 1 is not known here"),
        (["bench", "a", "b", "--pin", "x"], "--pin: 'x' is neither auto, none, nor core numbers"),
        (["bench", "a", "b", "--size", "3"], "--size: '3' is no height and width such as 640x480"),
        (["build", "a.onnx", "--out", "o", "--batch", "1,2"], "--batch: '1,2' is no range of batches"),
        (["build", "a.onnx", "--out", "o", "--size", "1x1,2"], "--size: '1x1,2' is no range of sizes"),
        (["verify", "a", "--images", "0"], "--images: '0' is no number"),
        (["measure", "a:b", "--half-width", "0"], "--half-width: '0' is no share. Expected a number above 0"),
        (["measure", "a:b", "--time-limit", "0"], "--time-limit: '0' is no time. Expected seconds above 0"),
        (["measure", "a:b", "--time-limit", "nan"], "--time-limit: 'nan' is no time"),
        (["measure", "a:b", "--step", "8.5"], "--step: '8.5' is no number of that kind"),
        (["bench", "a", "b", "--time-limit", "x"], "--time-limit: 'x' is no time"),
        (["compress", "a:b", "--macs", "1", "--time-limit", "-3"], "--time-limit: "),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_bad_flags(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("channelcut: ") and said.err.count("\n") == 1
    assert text in said.err


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("1.5e9", 1.5e9), ("1.5G", 1.5e9), ("800M", 8e8), ("250k", 2.5e5), ("1", 1.0)]
)
def test_budgets_are_shares_or_numbers(text: str, value: float) -> None:
    assert parser().parse_args(["compress", "a:b", "--out", "o", "--macs", text]).macs == value


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the ONNX files, which say nothing about what is kept and take most of the time."""
    monkeypatch.setattr("channelcut.compress.export_both", lambda *_: {})


def compressed(folder: Path, *flags: str) -> dict[str, Any]:
    """The report of a run on 16 channels of `stem` and `b`, which are added, and 24 of `a`."""
    assert main(["compress", MODEL, *SMALL, "--out", str(folder), *flags]) == 0
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def widths(report: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["after"][0] for row in report["layers"]}


@pytest.mark.parametrize(
    ("flags", "stem", "a"),
    [
        (["--keep", "0.5"], 8, 12),
        (["--keep", "0.5", "--exclude", "stem"], 16, 12),
        (["--keep", "0.5", "--exclude", "a.0.weight"], 8, 24),
        (["--keep", "a=0.5"], 16, 12),
        (["--keep", "a*=0.5", "--keep", "a=0.75"], 16, 18),
        (["--keep", "a=0.75", "--keep", "0.5"], 8, 18),
        (["--keep", "0.1", "--min-channels", "10"], 10, 10),
        (["--keep", "0.5", "--align", "5"], 10, 10),
    ],
)
def test_what_is_kept_by_share(no_onnx: None, tmp_path: Path, flags: list[str], stem: int, a: int) -> None:
    found = widths(compressed(tmp_path / "out", *flags))
    assert (found["stem.0"], found["a.0"], found["b.0"]) == (stem, a, stem)


def test_what_is_excluded_is_pinned_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compressed(tmp_path / "out", "--macs", "0.7", "--exclude", "stem*", "--exclude", "head")
    assert widths(report)["stem.0"] == 16 and widths(report)["a.0"] < 24
    assert report["cost"]["after"]["macs"] <= 0.7 * report["cost"]["before"]["macs"]
    assert any("stem*" in pin["reason"] and pin["channels"] == 16 for pin in report["pins"])
    assert main(["analyze", MODEL, "--input", "2x3x16x16", "--exclude", "stem*", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["totals"]["removable_channels"] == 24
    assert any("stem*" in row["reason"] and row["remedies"] for row in data["reasons"])


def test_shares_by_pattern_beside_a_budget_are_the_least(no_onnx: None, tmp_path: Path) -> None:
    plain = widths(compressed(tmp_path / "plain", "--macs", "0.5"))
    assert plain["a.0"] < 21
    report = compressed(tmp_path / "out", "--macs", "0.5", "--keep", "a=0.875")
    assert widths(report)["a.0"] >= 21 and report["cost"]["after"]["macs"] <= 0.5 * report["cost"]["before"]["macs"]
    wide = widths(compressed(tmp_path / "wide", "--params", "0.6", "--min-keep", "0.7"))
    assert wide["stem.0"] >= 12 and wide["a.0"] >= 17


def test_budgets_as_numbers(no_onnx: None, tmp_path: Path) -> None:
    before = compressed(tmp_path / "all", "--keep", "1")["cost"]["before"]
    thousands = 0.6 * before["params"] / 1000
    after = compressed(tmp_path / "params", "--params", f"{thousands:.3f}k")["cost"]["after"]
    assert 0.4 * before["params"] < after["params"] <= 1000 * thousands
    after = compressed(tmp_path / "macs", "--macs", f"{0.6 * before['macs']:.0f}")["cost"]["after"]
    assert 0.4 * before["macs"] < after["macs"] <= 0.6 * before["macs"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--macs", "0.5", "--exclude", "stm"], "'stm' matches no module and no parameter. The nearest names are stem"),
        (["--keep", "stam.*=0.5"], "'stam.*' matches no module and no parameter. The nearest names are stem"),
        (["--params", "0.2", "--min-keep", "0.9"], "The nearest possible budget is params=0."),
        (["--keep", "0.5", "--importance", "magic"], "magic"),
    ],
)
def test_what_cannot_be_met_leaves_nothing(
    tmp_path: Path, flags: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", MODEL, *SMALL, "--out", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr()
    assert text in said.err and "Traceback" not in said.err and said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_tracer_and_the_outputs_that_may_go(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name in ("dispatch", "export"):
        assert main(["analyze", MODEL, "--input", "2x3x16x16", "--tracer", name, "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
        assert found[name]["trace"]["tracer"] == name
    assert found["dispatch"]["totals"]["removable_channels"] == 40
    assert main(["analyze", MODEL, "--input", "2x3x16x16", "--prunable-output", "*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["removable_channels"] == 44


def test_what_python_saved_is_opened_by_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = cc.prune(networks.residual(), networks.example(), keep=0.5)
    cc.save(result, tmp_path / "unnamed")
    assert main(["analyze", str(tmp_path / "unnamed")]) == 2
    assert 'channelcut.save(result, folder, source="package.module:factory")' in capsys.readouterr().err
    cc.save(result, tmp_path / "named", source=MODEL)
    assert main(["export", str(tmp_path / "named"), "--out", str(tmp_path / "model.onnx"), "--quiet"]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: networks.example().numpy()})[0]
    with torch.no_grad():
        assert np.allclose(found, result.model(networks.example()).numpy(), rtol=1e-4, atol=1e-5)


def test_a_cut_of_a_cut_needs_the_original_alone(
    no_onnx: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = compressed(tmp_path / "once", "--keep", "0.75")
    flags = ["--no-bench", "--no-engine", "--align", "1", "--quiet"]
    assert main(["compress", str(tmp_path / "once"), "--keep", "0.5", "--out", str(tmp_path / "twice"), *flags]) == 0
    twice = json.loads((tmp_path / "twice" / "report.json").read_text())
    assert twice["cost"]["before"]["params"] == once["cost"]["after"]["params"], "the report is of this round"
    shutil.rmtree(tmp_path / "once")
    assert main(["analyze", str(tmp_path / "twice"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["removable_channels"] == 6 + 9
