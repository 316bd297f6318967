"""What every command shows alike: progress on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_EVERY_S = 10.0  # a log file hears of a stage that counts at most as often


def console() -> Console:
    """Standard output."""
    return Console(highlight=False)


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """What others print goes to standard error, because standard output may be JSON. This is the process's own affair:
    only the command line may do so, where no other thread prints.
    """
    with redirect_stdout(sys.stderr):
        yield


def at_dots(name: str, width: int) -> str:
    """A dotted name in lines of at most `width`, broken after dots alone; a longer part stays in one piece."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+$", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def print_json(data: Any) -> None:
    """JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")


class Bars:
    """Progress of every stage, called as bars(stage, done, total); used as a context.

    A terminal gets one bar per stage; a file gets a line when a stage begins, now and then while it counts, and when it
    is done. Where an error ends the run, what was not finished leaves no bar behind.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        screen = Console(stderr=True)
        self._shown: Terminal | Log | None = None if quiet else Terminal(screen) if screen.is_terminal else Log()
        self._open: set[str] = set()

    def __enter__(self) -> Bars:
        if isinstance(self._shown, Terminal):
            self._shown.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._shown, Terminal):
            self._shown.stop(failed=kind is not None)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a stage are done."""
        if self._shown is not None:
            self._shown(stage, done, total, inside=stage in self._open)

    def note(self, stage: str, text: str) -> None:
        """Show more of a stage that runs, such as its loss or the time left."""
        if self._shown is not None:
            self._shown.note(stage, text)

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Show a stage that starts here and is done when the block ends, however it counts on the way."""
        if self._shown is None or stage in self._open:
            yield
            return
        self._shown.begin(stage)
        self._open.add(stage)
        try:
            self(stage, 0, 1)
            yield
        finally:
            self._open.discard(stage)
        self(stage, 1, 1)


class Terminal:
    """Bars that move."""

    def __init__(self, screen: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self.progress = Progress(*columns, console=screen)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, *, inside: bool = False) -> None:
        """Move a stage's bar. One that was done begins anew; `inside`: it goes on, whatever it counts."""
        if stage not in self._tasks:
            self._tasks[stage] = self.progress.add_task(stage, total=total, note="")
        task, full = self._tasks[stage], done >= total
        if not (full or inside) and self._finished(task):
            self.progress.reset(task)
        self.progress.update(task, completed=done, total=max(total, 1))
        if full and not inside:
            self.progress.update(task, note="")

    def note(self, stage: str, text: str) -> None:
        """Show a text beside a stage's bar until it is done."""
        if stage in self._tasks:
            self.progress.update(self._tasks[stage], note=text)

    def begin(self, stage: str) -> None:
        """A stage begins, perhaps anew."""
        if stage in self._tasks:
            self.progress.reset(self._tasks[stage], note="")

    def stop(self, *, failed: bool) -> None:
        """End the display; where the run failed, what was not finished is taken off it."""
        for task in self.progress.tasks:
            if failed and not task.finished:
                self.progress.update(task.id, visible=False)
        self.progress.stop()

    def _finished(self, task: TaskID) -> bool:
        return next(each.finished for each in self.progress.tasks if each.id == task)


@dataclass
class _Running:
    """A stage that runs: when it started, when the log last heard of it, and what was noted of it since."""

    started: float
    said: float
    note: str = ""


class Log:
    """Lines that stay: each time that a stage runs has its own."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._done: set[str] = set()

    def __call__(self, stage: str, done: int, total: int, *, inside: bool = False) -> None:
        """Write a line, where there is something to tell. `inside`: the stage goes on, whatever it counts."""
        now, ended = time.monotonic(), done >= total and not inside
        if stage not in self._running:
            if ended and stage in self._done:  # it says so once more
                return
            self._running[stage] = _Running(now, now)
            self._line(f"{stage} ...")
        running = self._running[stage]
        if ended:
            del self._running[stage]
            self._done.add(stage)
            self._line(f"{stage}: done, {now - running.started:.1f} s")
        elif (done or running.note) and now - running.said >= _EVERY_S:
            running.said = now
            noted = f", {running.note}" if running.note else ""
            self._line(f"{stage}: {done} of {total}, {now - running.started:.0f} s{noted}")

    def note(self, stage: str, text: str) -> None:
        """Add a text to the next line of a stage that runs."""
        if stage in self._running:
            self._running[stage].note = text

    def begin(self, stage: str) -> None:
        """A stage begins, perhaps anew."""
        self._running.pop(stage, None)
        self._done.discard(stage)

    def _line(self, text: str) -> None:
        sys.stderr.write(f"  {text}\n")
        sys.stderr.flush()
