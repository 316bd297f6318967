"""Times of layers on one target, on disk: appended to by any number of processes, and whole after any of them dies.

A file of JSON lines. The first says what was measured on; each other one is a time, or a width that the back end
refused. A line is written at once under a lock; a last line without its end was being written when its process died,
and is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry, LayerKind, Widths

FORMAT = "channelcut-table-2"


@dataclass(frozen=True)
class Target:
    """What times belong to. `reference_ms`: a fixed small convolution on it, by which other hours are compared."""

    device: str
    backend: str
    version: str
    precision: str = "fp32"
    threads: int = 1

    def __str__(self) -> str:
        """Read as `onnxruntime 1.32.0, fp32, 1 thread, on AMD EPYC (AVX2)`."""
        plural = "s" if self.threads > 1 else ""
        return f"{self.backend} {self.version}, {self.precision}, {self.threads} thread{plural}, on {self.device}"

    @property
    def file_name(self) -> str:
        """A name that is this target's alone, and that a reader recognises."""
        words = re.sub(r"[^a-z0-9.]+", "-", f"{self.backend}-{self.version}-{self.device}".lower()).strip("-")[:80]
        digest = hashlib.sha256(json.dumps([FORMAT, vars(self)], sort_keys=True).encode()).hexdigest()[:8]
        return f"{words}-{self.precision}-{self.threads}t-{digest}.jsonl"


@dataclass(frozen=True)
class Timing:
    """The time of one entry in ms: the median, and its 95 % interval."""

    ms: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the interval, as a share of the median."""
        return (self.high - self.low) / 2 / self.ms


@dataclass
class Table:
    """The times of one target. `failed`: why the back end refused an entry."""

    path: Path
    target: Target
    times: dict[LayerKind, dict[Widths, Timing]] = field(default_factory=dict)
    failed: dict[Entry, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    _known: int = 0  # bytes that have been read

    @classmethod
    def open(cls, target: Target, path: Path | None = None, facts: Mapping[str, Any] | None = None) -> Table:
        """The table in a file, which is begun where it is not there.

        Args:
            target: what will be measured on.
            path: the file; by default one in the user's cache directory, named after the target.
            facts: what a reader may want to know of a table that is begun now.

        Raises:
            UserError: the file is no table, or is one of another target; names both.
        """
        table = cls(path or cache_directory() / target.file_name, target)
        with _locked(table.path) as file:
            if not file.read(1):
                head = {"format": FORMAT, "target": vars(target), **(facts or {})}
                _append(file, [head])
        table.read()
        return table

    def read(self) -> None:
        """Read what other processes have written meanwhile."""
        with _locked(self.path) as file:
            file.seek(self._known)
            data = file.read()
        lines = data.decode("utf-8", "replace").splitlines(keepends=True)
        if not self._known:
            self._check(_json(lines[0]) if lines else None)
        for line in lines[1:] if not self._known else lines:
            self._take(_json(line))
        self._known += data.rfind(b"\n") + 1

    def _check(self, head: Any) -> None:
        """Refuse a first line that is no table's, or that of another target's."""
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise UserError(
                f"{str(self.path)!r} is no table of layer times that this version reads (expected {FORMAT}). Name "
                "another file by --table, or remove this one."
            )
        found = Target(**head["target"])
        if found != self.target:
            raise UserError(
                f"The table {str(self.path)!r} was measured with {found}; asked for are times with {self.target}. "
                "Times do not carry over. Name another file by --table, or leave it out: every target has a file of "
                "its own in the cache directory."
            )
        self.facts = {name: value for name, value in head.items() if name not in ("format", "target")}

    def _take(self, row: Any) -> None:
        if not isinstance(row, dict):  # the torn end of a process that died
            return
        if "kind" not in row:
            self.facts = {**row, **self.facts}  # of two runs that began a table together, the first says it
            return
        kind, widths = LayerKind.from_key(row["kind"]), Widths(*row["widths"])
        if "failed" in row:
            self.failed[Entry(kind, widths)] = row["failed"]
        else:
            self.times.setdefault(kind, {})[widths] = Timing(*row["ms"])

    def add(self, rows: Mapping[Entry, Timing | str]) -> None:
        """Write times, and the reasons of those that failed, for every process to read."""
        if not rows:
            return
        said: list[dict[str, Any]] = []
        for entry, found in rows.items():
            row: dict[str, Any] = {"kind": entry.kind.key, "widths": list(entry.widths)}
            row |= {"failed": found} if isinstance(found, str) else {"ms": [found.ms, found.low, found.high]}
            said.append(row)
            self._take(row)
        with _locked(self.path) as file:
            _append(file, said)

    def note(self, **facts: Any) -> None:
        """Write facts about the whole table, such as the step; what is known already stays."""
        self.read()
        self._take(facts)
        with _locked(self.path) as file:
            _append(file, [facts])

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that are neither timed nor known to fail, each once."""
        return [
            entry
            for entry in dict.fromkeys(entries)
            if entry.widths not in self.times.get(entry.kind, {}) and entry not in self.failed
        ]

    def medians(self, kind: LayerKind) -> dict[Widths, float]:
        """The times of a kind in ms, by widths."""
        return {widths: timing.ms for widths, timing in self.times.get(kind, {}).items()}


def cache_directory() -> Path:
    """Where tables are kept: the user's cache directory, `channelcut/tables` in it."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "channelcut" / "tables"


def _json(line: str) -> Any:
    try:
        return json.loads(line) if line.endswith("\n") else None
    except json.JSONDecodeError:
        return None


def _append(file: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows at the end, behind a new line where the last process did not end its own."""
    file.seek(0, os.SEEK_END)
    torn = False
    if file.tell():
        file.seek(-1, os.SEEK_END)
        torn = file.read(1) != b"\n"
    data = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    file.write((b"\n" if torn else b"") + data.encode())
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[Any]:
    """The file, which no other process has open this way meanwhile.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _lock(file)
            file.seek(0)
            yield file  # closing it gives the lock back, as does the death of the process
    except OSError as problem:
        raise UserError(
            f"Cannot use the table {str(path)!r}: {problem.strerror or problem}. Expected a file that may be written; "
            "name another one by --table."
        ) from problem


def _lock(file: Any) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
