"""Keep a measurement on cores of its own choosing, and give them back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from channelcut.core.errors import UserError


def default_cores(threads: int) -> tuple[int, ...]:
    """The last `threads` cores that this process may use (the first ones serve most interrupts); empty if unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    return tuple(sorted(os.sched_getaffinity(0))[-threads:])


@contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[tuple[int, ...]]:
    """Run the block on these cores alone; threads started inside inherit them. None or empty changes nothing.

    Yields the cores. The former set is restored afterwards, also after an error. Raises `UserError` for a core that
    this process may not use, or where the system cannot pin.
    """
    if not cores:
        yield ()
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("This system cannot pin a process to cores. Leave --pin out, or give --pin none.")
    before = os.sched_getaffinity(0)
    if wrong := sorted(set(cores) - before):
        raise UserError(f"Core {wrong[0]} is not among those that this process may use: {sorted(before)}.")
    os.sched_setaffinity(0, set(cores))
    try:
        yield tuple(cores)
    finally:
        os.sched_setaffinity(0, before)
