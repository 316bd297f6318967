"""Flags: each one is explained, the examples of `--help` are commands, and what does not parse is one paragraph."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert files - {"__init__", "__main__", "console", "flags", "parsing"} == set(parsers())


@pytest.mark.parametrize("name", sorted(parsers()))
def test_every_option_is_explained(name: str) -> None:
    for action in parsers()[name]._actions:
        assert action.help and action.help != argparse.SUPPRESS, action.dest
        # The default is either said or shows nothing: a flag, a list that begins empty, or "where none is given".
        if action.option_strings and action.default not in (None, False, (), [], argparse.SUPPRESS):
            assert "default" in action.help, action.dest


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.NAME)
def test_help_shows_examples_that_parse(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command.NAME, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    lines = re.findall(r"^    (channelcut .*)$", shown.partition("examples:")[2], re.M)
    assert lines == [line for _, line in command.EXAMPLES] and lines
    for line in lines:
        program, name, *arguments = shlex.split(line)
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
        (["compress", "a:b", "--out", "o"], "Nothing says how much to keep. Give --macs, --params or --keep"),
        (["compress", "a:b", "--macs", "0.5"], "the following arguments are required: --out"),
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
        (["build", "a.onnx", "--out", "o", "--resolution", "1x1,2"], "--resolution: '1x1,2' is no range of sizes"),
        (["verify", "a", "--images", "0"], "--images: '0' is no number"),
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


def compressed(folder: Path, *flags: str) -> dict[str, object]:
    assert main(["compress", MODEL, *SMALL, "--out", str(folder), *flags]) == 0
    report: dict[str, object] = json.loads((folder / "report.json").read_text())
    return report
