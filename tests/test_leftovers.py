"""What a killed run leaves beside its output goes with the next run, and never what a run writes that lives."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from channelcut.core import files
from channelcut.core.files import replacing, write_atomically
from channelcut.cutting.storage import fresh_folder
from channelcut.recovery.distil import checkpoints

WRITES = """
import sys, time
from pathlib import Path
from channelcut.core.files import {name}
with {name}(Path(sys.argv[1])) as found:
    {write}
    print("written", flush=True)
    time.sleep(300)
"""
FOLDER = WRITES.format(name="temporary_folder", write="(found / 'model.onnx').write_bytes(bytes(1000))")
FILE = WRITES.format(name="replacing", write="found.write(bytes(1000))")


def again(path: Path) -> None:
    with fresh_folder(path, force=True) as folder:
        (folder / "plan.json").write_text("{}")


def checkpoint(path: Path) -> None:
    checkpoints.write(path.parent, {}, {})


def writing(program: str, path: Path) -> subprocess.Popen[str]:
    found = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert found.stdout is not None
    assert found.stdout.readline() == "written\n"
    return found


@pytest.mark.parametrize(
    ("program", "name", "next_run"),
    [
        (FOLDER, "out[1]", again),
        (FILE, "report.json", lambda path: write_atomically(path, b"{}")),
        (FILE, checkpoints.CHECKPOINT, checkpoint),
    ],
    ids=["folder", "file", "checkpoint"],
)
def test_what_a_killed_run_leaves_goes_with_the_next(
    program: str, name: str, next_run: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / name
    others = {f".{name}.swp", f".{name}.part", f".{name}.abcdefgh.part", f".{name}x.abcdefgh.part"}
    for other in others:  # of other programs; a folder without a lock, of which nobody knows
        (tmp_path / other).mkdir() if other == f".{name}.abcdefgh.part" else (tmp_path / other).write_text("")
    killed, living = writing(program, path), writing(program, path)
    try:
        assert len(list(tmp_path.iterdir())) == len(others) + 2
        killed.kill()
        killed.wait()
        next_run(path)
        (left,) = {each.name for each in tmp_path.iterdir()} - others - {name}
        assert left.endswith(".part")
        next_run(path)
        assert (tmp_path / left).exists()
    finally:
        for each in (killed, living):
            each.kill()
            each.wait()
    next_run(path)
    assert {each.name for each in tmp_path.iterdir()} == others | {name}
    assert not path.is_dir() or [each.name for each in path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_temporary_that_is_taken_for_a_leftover_before_its_lock_is_made_anew(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = files._taken, list[int]()

    def late(lock: int, *, wait: bool) -> bool:
        if wait and not calls:
            calls.append(lock)
            files.remove_leftovers(tmp_path / "out")
        return real(lock, wait=wait)

    monkeypatch.setattr(files, "_taken", late)
    if kind == "folder":
        again(tmp_path / "out")
        assert (tmp_path / "out" / "plan.json").read_text() == "{}"
    else:
        write_atomically(tmp_path / "out", b"whole")
        assert (tmp_path / "out").read_bytes() == b"whole"
    assert calls
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_where_there_are_no_locks_nothing_is_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    with replacing(tmp_path / "out.json") as file:
        file.write(b"first")
        write_atomically(tmp_path / "out.json", b"second")
        with fresh_folder(tmp_path / "out", force=False):
            again(tmp_path / "out")
            assert len(list(tmp_path.glob(".*.part"))) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "out.json"]
    assert (tmp_path / "out.json").read_bytes() == b"first"
