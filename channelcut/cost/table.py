"""Times of layers on one target, on disk: appended to by any number of processes, and whole after any of them dies.

A file of JSON lines. The first says what was measured on; each other one is a time, or a width that the back end
refused. A line is written at once under a lock; a last line without its end was being written when its process died,
and is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channelcut.core.checked import Wrong, count, expect
from channelcut.core.checked import field as field_of
from channelcut.core.crew import Lost
from channelcut.core.errors import UserError
from channelcut.cost.kinds import Entry, LayerKind, Widths

FORMAT = "channelcut-table-2"
_HEAD = f'{{"format":"{FORMAT}"'.encode()
_LONGEST = 1 << 20  # of a first line: a reader finds its end there
_MS = "milliseconds above 0"


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
    """The times of one target.

    failed: why the back end refused an entry. lost: why one has no time in this process, which no file says: memory ran
    out, say, and the next run tries it again.
    """

    path: Path
    target: Target
    times: dict[LayerKind, dict[Widths, Timing]] = field(default_factory=dict)
    failed: dict[Entry, str] = field(default_factory=dict)
    lost: dict[Entry, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    _known: int = 0  # bytes that have been read
    _lines: int = 0  # and lines

    @classmethod
    def open(cls, target: Target, path: Path | None = None, facts: Mapping[str, Any] | None = None) -> Table:
        """The table in a file, which is begun where it is not there.

        Args:
            target: what will be measured on.
            path: the file; by default one in the user's cache directory, named after the target.
            facts: what a reader may want to know of a table that is begun now.

        Raises:
            UserError: the file is no table, is damaged, or is one of another target; names both.
        """
        table = cls(path or cache_directory() / target.file_name, target)
        with _locked(table.path) as file:
            if _torn_head(file.read(len(_HEAD) + _LONGEST)):
                file.truncate(0)
                head = {"format": FORMAT, "target": vars(target), **(facts or {})}
                _append(file, [head])
        table.read()
        return table

    def read(self) -> None:
        """Read what other processes have written meanwhile."""
        with _locked(self.path) as file:
            file.seek(self._known)
            data = file.read()
        for line in data.decode("utf-8", "replace").split("\n")[:-1]:  # what is not ended is being written
            self._lines += 1
            try:
                row = _json(line)
                if self._lines == 1:
                    self._check(row)
                elif row is not None:  # the torn end of a process that died
                    self._take(expect(row, Mapping, "it", "an object"))
            except Wrong as problem:
                raise UserError(
                    f"The table {str(self.path)!r} is damaged in line {self._lines}: {problem}. Take that line out, or "
                    "name another file by --table."
                ) from problem
        if not self._lines:
            self._check(None)
        self._known += data.rfind(b"\n") + 1

    def _check(self, head: Any) -> None:
        """Refuse a first line that is no table's, or that of another target's."""
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise UserError(
                f"{str(self.path)!r} is no table of layer times that this version reads (expected {FORMAT}). Name "
                "another file by --table, or remove this one."
            )
        found = _target(field_of(head, "target", Mapping, "an object"))
        if found != self.target:
            raise UserError(
                f"The table {str(self.path)!r} was measured with {found}; asked for are times with {self.target}. "
                "Times do not carry over. Name another file by --table, or leave it out: every target has a file of "
                "its own in the cache directory."
            )
        self.facts = _facts({name: value for name, value in head.items() if name not in ("format", "target")})

    def _take(self, row: Mapping[str, Any]) -> None:
        if "kind" not in row:
            self.facts = {**_facts(row), **self.facts}  # of two runs that began a table together, the first says it
            return
        widths = Widths(*_numbers(row, "widths", int, (2, 3)))
        try:
            kind = LayerKind.from_key(field_of(row, "kind", str, "text"))
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise Wrong(f"kind is {row['kind']!r}, expected a layer as this version writes it") from problem
        if "failed" in row:
            self.failed[Entry(kind, widths)] = field_of(row, "failed", str, "text")
        else:
            self.times.setdefault(kind, {})[widths] = Timing(*_numbers(row, "ms", (int, float), (3,)))

    def add(self, rows: Mapping[Entry, Timing | str]) -> None:
        """Write times, and the reasons of those that the back end refused, for every process to read.

        What was lost is not written: it may be timed another time.
        """
        self.lost |= {entry: found for entry, found in rows.items() if isinstance(found, Lost)}
        said: list[dict[str, Any]] = []
        for entry, found in rows.items():
            if isinstance(found, Lost):
                continue
            row: dict[str, Any] = {"kind": entry.kind.key, "widths": list(entry.widths)}
            row |= {"failed": found} if isinstance(found, str) else {"ms": [found.ms, found.low, found.high]}
            said.append(row)
            self._take(row)
        if not said:
            return
        with _locked(self.path) as file:
            _append(file, said)

    def note(self, **facts: Any) -> None:
        """Write facts about the whole table, such as the step; what is known already stays."""
        self.read()
        self._take(facts)
        with _locked(self.path) as file:
            _append(file, [facts])

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that are neither timed, nor known to fail, nor lost, each once."""
        known = self.failed | self.lost
        return [
            entry
            for entry in dict.fromkeys(entries)
            if entry.widths not in self.times.get(entry.kind, {}) and entry not in known
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
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _torn_head(start: bytes) -> bool:
    """Whether a file is empty, or holds nothing but a first line that was being written when its process died."""
    return b"\n" not in start and (_HEAD.startswith(start) or start.startswith(_HEAD))


def _target(said: Mapping[str, Any]) -> Target:
    texts = {n: field_of(said, n, str, "text", "target") for n in ("device", "backend", "version", "precision")}
    return Target(**texts, threads=count(said, "threads", "target", least=1))


def _facts(said: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, of which those that are computed with are numbers."""
    if "step" in said:
        count(said, "step", least=1)
    if "reference_ms" in said and not 0 < field_of(said, "reference_ms", (int, float), _MS) < math.inf:
        raise Wrong(f"reference_ms is {said['reference_ms']!r}, expected {_MS}")
    return dict(said)


def _numbers(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], counts: tuple[int, ...]) -> list[Any]:
    """The numbers above 0 under a name."""
    words = f"{' or '.join(map(str, counts))} numbers above 0"
    found = field_of(row, name, list, words)
    if len(found) not in counts or not all(0 < expect(value, kind, name, words) < math.inf for value in found):
        raise Wrong(f"{name} is {found!r}, expected {words}")
    return list(found)


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
