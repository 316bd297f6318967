"""What depends on how values lie in memory, which a cut may change without changing what is computed."""

from __future__ import annotations

from typing import Any

from channelcut.tracing.functions import Table


def _contiguous(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A linear layer on a contiguous input: of others torch makes other ops, with the same result.

    A value of several heads of one channel each may be contiguous where one of two channels each is not.
    """
    if args and not args[0].is_contiguous():
        args = (args[0].contiguous(), *args[1:])
    return func(*args, **kwargs)


CONTIGUOUS_LINEAR: Table = {"linear": _contiguous}
