"""Progress and time of the stages of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total). What it raises leaves the run at once."""


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
        self.progress(name, 0, 1)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.progress(name, 1, 1)
