"""Tables of times on disk: shared by processes, whole after any of them dies, and clear about what is wrong in them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from channelcut.bench.layers.clock import REFERENCE
from channelcut.core.crew import Lost
from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry, Widths
from channelcut.cost.table import Table, Target, Timing, _locked

TARGET = Target("a machine", "stairs", "1.0")
KIND = REFERENCE.kind
ROW = {"kind": KIND.key, "widths": [8, 8, 1], "ms": [1.0, 0.9, 1.1]}


def rows(*widths: int) -> dict[Entry, Timing | str]:
    return {Entry(KIND, Widths(8, width)): Timing(1.0, 0.9, 1.1) for width in widths}


def process(work: Callable[[], None]) -> int:
    """Another process that does some work."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def ended(child: int) -> int:
    """The exit code of a process, when it is done."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    table = Table.open(TARGET, tmp_path / "t")
    table.add(rows(8))
    with (tmp_path / "t").open("ab") as file:
        file.write(b'{"kind":"{\\"op\\"')  # killed here
    again = Table.open(TARGET, tmp_path / "t")
    assert again.medians(KIND) == {Widths(8, 8): 1.0}
    again.add(rows(16))
    assert set(Table.open(TARGET, tmp_path / "t").medians(KIND)) == {Widths(8, 8), Widths(8, 16)}


@pytest.mark.parametrize("length", [0, 1, 10, 40, 90])
def test_a_torn_first_line_counts_as_none(length: int, tmp_path: Path) -> None:
    Table.open(TARGET, tmp_path / "t")
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:length])
    table = Table.open(TARGET, tmp_path / "t")
    table.add(rows(8))
    assert Table.open(TARGET, tmp_path / "t").medians(KIND) == {Widths(8, 8): 1.0}


@pytest.mark.parametrize("field_", ["device", "backend", "version", "precision", "threads"])
def test_a_table_of_another_target_is_refused(field_: str, tmp_path: Path) -> None:
    here = Target("this processor", "onnxruntime", "1.32.0")
    other = replace(here, **{field_: 4 if field_ == "threads" else "another"})
    Table.open(other, tmp_path / "t")
    with pytest.raises(UserError) as error:
        Table.open(here, tmp_path / "t")
    assert str(here) in str(error.value)
    assert str(other) in str(error.value)


@pytest.mark.parametrize("text", ['{"some": "json"}\n', "a,b\n1,2\n", "no newline", "\n"])
def test_another_file_is_no_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(UserError, match="is no table"):
        Table.open(TARGET, tmp_path / "t")
    assert (tmp_path / "t").read_text() == text


@pytest.mark.parametrize(
    ("line", "changed", "words"),
    [
        (1, {"target": None}, "target is None, expected an object"),
        (1, {"target": {"device": "a machine"}}, "target.backend is missing, expected text"),
        (1, {"target": {**vars(TARGET), "threads": "one"}}, "target.threads is 'one', expected a whole number"),
        (2, {"step": "eight"}, "step is 'eight', expected a whole number"),
        (2, {"reference_ms": 0}, "reference_ms is 0, expected milliseconds above 0"),
        (3, ["kind"], "it is ['kind'], expected an object"),
        (3, ROW | {"kind": 3}, "kind is 3, expected text"),
        (3, ROW | {"kind": "{}"}, "kind is '{}', expected a layer as this version writes it"),
        (3, ROW | {"kind": "Conv"}, "kind is 'Conv', expected a layer"),
        (3, {"kind": KIND.key, "ms": [1, 1, 1]}, "widths is missing, expected 2 or 3 numbers above 0"),
        (3, ROW | {"widths": [8, "8"]}, "widths is '8', expected 2 or 3 numbers above 0"),
        (3, {"kind": KIND.key, "widths": [8, 8]}, "ms is missing, expected 3 numbers above 0"),
        (3, ROW | {"ms": [1.0]}, "ms is [1.0], expected 3 numbers above 0"),
        (3, ROW | {"ms": [1.0, float("nan"), 1.0]}, "ms is [1.0, nan, 1.0], expected 3 numbers above 0"),
        (3, ROW | {"failed": 1}, "failed is 1, expected text"),
    ],
)
def test_a_damaged_line_is_named(line: int, changed: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    table = Table.open(TARGET, path)
    table.note(step=8)
    table.add(rows(8))
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps({**json.loads(lines[0]), **changed} if line == 1 else changed)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as error:
        Table.open(TARGET, path)
    assert str(error.value).startswith(f"The table {str(path)!r} is damaged in line {line}: {words}")
    assert "\n" not in str(error.value)


def test_what_was_lost_is_not_written(tmp_path: Path) -> None:
    table = Table.open(TARGET, tmp_path / "t")
    entries = list(rows(8, 16, 24))
    table.add({entries[0]: Timing(1.0, 1.0, 1.0), entries[1]: "refused", entries[2]: Lost("memory ran out")})
    assert table.missing(entries) == []
    again = Table.open(TARGET, tmp_path / "t")
    assert again.failed == {entries[1]: "refused"}
    assert again.missing(entries) == [entries[2]]


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_two_processes_share_a_table(tmp_path: Path) -> None:
    def write(start: int) -> None:
        table = Table.open(TARGET, tmp_path / "t")
        for lot in range(start, start + 2000, 200):
            table.add(rows(*range(lot, lot + 200)))

    both = [process(partial(write, start)) for start in (1, 2001)]
    assert [ended(child) for child in both] == [0, 0]
    assert len(Table.open(TARGET, tmp_path / "t").medians(KIND)) == 4000


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_nobody_writes_into_what_another_is_writing(tmp_path: Path) -> None:
    table, line = Table.open(TARGET, tmp_path / "t"), json.dumps(ROW).encode() + b"\n"
    heard, said = os.pipe()

    def write() -> None:
        with _locked(tmp_path / "t") as file:
            file.write(line[:40])
            file.flush()
            os.write(said, b"half")
            time.sleep(0.3)
            file.write(line[40:])

    child = process(write)
    assert os.read(heard, 4) == b"half"
    table.add(rows(16))
    assert ended(child) == 0
    assert set(Table.open(TARGET, tmp_path / "t").medians(KIND)) == {Widths(8, 8), Widths(8, 16)}
    for end in (heard, said):
        os.close(end)
