"""Progress and time of the stages of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total). What it raises leaves the run at once.

It may have two methods more. `note(stage, text)` hears more of a stage, such as its loss. `within(stage)` gives a
context for the whole of a stage, and hears by it of begin and end, in the place of calls with (0, 1) and (1, 1): a
count that is full on the way is not the end.
"""


def silent(stage: str, done: int, total: int) -> None:
    """Show no progress."""


class Stopwatch:
    """Seconds by stage."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress or silent

    def note(self, stage: str, text: str) -> None:
        """Tell more of a stage, such as its loss, to a progress that has a method `note(stage, text)` for it."""
        if (hears := getattr(self.progress, "note", None)) is not None:
            hears(stage, text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and announce its start and end."""
        with getattr(self.progress, "within", self._announced)(name):
            start = time.perf_counter()
            yield
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def _announced(self, name: str) -> Iterator[None]:
        self.progress(name, 0, 1)
        yield
        self.progress(name, 1, 1)
