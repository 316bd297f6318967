"""Compiled parts of a model, run as they are written, in one thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_here = threading.local()  # `eager`: this thread is in `uncompiled`
_lock = threading.Lock()
_threads = [0]  # how many are


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled parts of a model eagerly, and compile nothing of what records it, in this thread.

    Who has compiled nothing has not loaded torch's compiler, which takes a second.
    """
    if "torch._dynamo" not in sys.modules or getattr(_here, "eager", False):
        yield
        return
    _enter()
    _here.eager = True
    try:
        yield
    finally:
        _here.eager = False
        _leave()


class _StanceOfThread:
    """What `torch.compiler.set_stance` sets, which is of the whole process, with another answer in some threads.

    There is no other way: a compiled function asks nothing but the stance before it runs what it compiled, which no
    mode can look into; and a function that the compiler meets inside of a mode, or while it is disabled by its
    configuration, is never compiled again.
    """

    def __init__(self, others: Any, eager: Any) -> None:
        self.others, self.eager = others, eager

    def __getattr__(self, name: str) -> Any:
        return getattr(self.eager if getattr(_here, "eager", False) else self.others, name)


def _enter() -> None:
    from torch._dynamo import eval_frame

    with _lock:
        _threads[0] += 1
        if not isinstance(eval_frame._stance, _StanceOfThread):
            eager = eval_frame.DynamoStance("force_eager")
            eval_frame._set_stance(_StanceOfThread(eval_frame._stance, eager))  # type: ignore[arg-type]


def _leave() -> None:
    from torch._dynamo import eval_frame

    with _lock:
        _threads[0] -= 1
        if not _threads[0] and isinstance(eval_frame._stance, _StanceOfThread):
            eval_frame._set_stance(eval_frame._stance.others)
