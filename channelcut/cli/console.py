"""What every command shows alike: progress bars on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


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


def print_json(data: Any) -> None:
    """JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")


class Bars:
    """One progress bar per stage, called as bars(stage, done, total); used as a context."""

    def __init__(self, *, quiet: bool = False) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a stage are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=max(total, 1))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show one step that starts here and is done when the block ends."""
        self(name, 0, 1)
        yield
        self(name, 1, 1)
