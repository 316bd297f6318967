"""The garbage collector, spared what it cannot free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Keep what exists now out of collections until the end.

    An analysis makes many small objects, and each full collection walks through all of torch's as well: a quarter of
    the time that analyses took. Whoever has frozen a heap of their own keeps it.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
