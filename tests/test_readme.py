"""The README's Python blocks run, and its commands exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from channelcut.cli import parser

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other: what the first one makes, the next one uses."""
    monkeypatch.chdir(tmp_path)
    room = {"__name__": "readme"}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(block, "README.md", "exec"), room)  # noqa: S102  the README's own code
        out = capsys.readouterr().out
        assert "True" in out
        assert "groups," in out or "tie" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.safetensors", "plan.json"]


BLOCKS = README.split("```")[1::2]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("channelcut ")]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 2


def test_it_installs_from_a_checkout() -> None:
    """There is no package elsewhere: every line installs this folder, with extras that it has."""
    lines = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines() if "pip install" in line]
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert lines
    for line in lines:
        found = re.fullmatch(r"pip install -e (?:\.|'\.\[([a-z,]+)\]')", line)
        assert found, line
        for extra in (found[1] or "").split(","):
            assert not extra or re.search(rf"^{extra} = \[", project, re.M), extra


def test_what_it_does_not_do_stands_near_the_top() -> None:
    titles = re.findall(r"^## (.*)$", README, re.M)
    assert titles[:4] == ["Install", "Sixty seconds", "What it does not do", "Measured"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    assert callable(parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("name", ["table.md", "scaling.md", "onnx_in.md", "zoo.md"])
def test_figures_are_those_of_the_committed_results(name: str) -> None:
    """A number in the README comes from a file that a command wrote."""
    results = Path(__file__).parent.parent / "benchmarks" / "results" / name
    rows = [line for line in results.read_text().splitlines() if line.startswith("|")]
    assert len(rows) >= 3
    assert "\n".join(rows) in README


def test_the_table_is_made_of_the_committed_rows() -> None:
    from benchmarks.table import ROWS, table

    made = (Path(__file__).parent.parent / "benchmarks" / "results" / "table.md").read_text()
    for path in ROWS.glob("*.json"):
        assert table([json.loads(path.read_text())]).splitlines()[2] in made


def test_accuracy_by_precision_is_made_of_the_committed_rows() -> None:
    from benchmarks.precision import RESULTS, document, summary

    made = document()
    assert made is not None and made[0]["rows"]
    assert json.loads((RESULTS / "precision.json").read_text()) == made[0]
    assert (RESULTS / "precision.md").read_text() == made[1]
    docs = (Path(__file__).parent.parent / "docs" / "precision.md").read_text()
    assert summary(made[0]["rows"]) in docs and summary(made[0]["rows"]) in README
