"""What every command shows alike: progress on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
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
            self._shown(stage, done, total)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show one step that starts here and is done when the block ends."""
        self(name, 0, 1)
        yield
        self(name, 1, 1)


class Terminal:
    """Bars that move."""

    def __init__(self, screen: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=screen)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self.progress.add_task(stage, total=total)
        self.progress.update(self._tasks[stage], completed=done, total=max(total, 1))

    def stop(self, *, failed: bool) -> None:
        """End the display; where the run failed, what was not finished is taken off it."""
        for task in self.progress.tasks:
            if failed and not task.finished:
                self.progress.update(task.id, visible=False)
        self.progress.stop()


class Log:
    """Lines that stay."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Write a line, where there is something to tell."""
        now = time.monotonic()
        if stage not in self._started:
            self._started[stage] = self._said[stage] = now
            self._line(f"{stage} ...")
        if done >= total:
            if stage in self._said:  # once, however often a stage says that it is done
                del self._said[stage]
                self._line(f"{stage}: done, {now - self._started[stage]:.1f} s")
        elif done and now - self._said.setdefault(stage, now) >= _EVERY_S:
            self._said[stage] = now
            self._line(f"{stage}: {done} of {total}, {now - self._started[stage]:.0f} s")

    def _line(self, text: str) -> None:
        sys.stderr.write(f"  {text}\n")
        sys.stderr.flush()
