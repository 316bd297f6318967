"""Ctrl-C while a library calls back from C++, where an exception would be printed and lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupts:
    """Whether Ctrl-C was pressed meanwhile."""

    heard: bool = False


@contextmanager
def held_back() -> Iterator[Interrupts]:
    """Note Ctrl-C instead of raising it; what it does else happens at the end, in the place of any other error.

    Only the main thread hears signals; in another one, and where something else than Python's handler listens, nothing
    changes.

    Example:
        >>> import signal
        >>> from channelcut.core.interrupts import held_back
        >>> try:
        ...     with held_back() as interrupts:
        ...         signal.raise_signal(signal.SIGINT)
        ...         print(interrupts.heard)
        ... except KeyboardInterrupt:
        ...     print("interrupted")
        True
        interrupted
    """
    found = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield found
        return

    def hear(_signal: int, _frame: FrameType | None) -> None:
        found.heard = True

    signal.signal(signal.SIGINT, hear)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
        if found.heard:
            before(signal.SIGINT, None)
