"""Dispatch modes of one thread."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode
from typing_extensions import Self


class ThreadMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that is entered by this thread alone.

    torch's own `__enter__` and `__exit__` also save and restore flags of the whole process. Where two threads are in
    modes at once, the last one out leaves the flags set for good, and torch's compiler then holds back for ever.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not load torch's compiler, which takes a second, to keep it out of here: `eager.uncompiled` does that."""
        return False

    def __enter__(self) -> Self:
        """Push this mode on the stack of this thread."""
        _push_mode(self)
        return self

    def __exit__(self, *error: object) -> None:
        """Take it off again."""
        _pop_mode()
