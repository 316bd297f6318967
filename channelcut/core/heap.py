"""The garbage collector, spared what it cannot free."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = [0]  # how many are in `frozen_heap` now, in all threads
_ours = [False]  # whether the first of them froze it


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Keep what exists now out of collections until the end.

    An analysis makes many small objects, and each full collection walks through all of torch's as well: a quarter of
    the time that analyses took.

    There is one heap, so this is a setting of the whole process, the only one that an analysis changes. It changes
    nothing that anybody computes: what existed before is collected later. The first of several threads freezes, the
    last one ends it. A heap that the user has frozen stays so.
    """
    with _lock:
        if not _inside[0] and not gc.get_freeze_count():
            gc.freeze()
            _ours[0] = True
        _inside[0] += 1
    try:
        yield
    finally:
        with _lock:
            _inside[0] -= 1
            if not _inside[0] and _ours[0]:
                _ours[0] = False
                gc.unfreeze()
