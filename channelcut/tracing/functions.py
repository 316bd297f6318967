"""Functions of torch that are recorded as something else: one mode, and a table that says which they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from channelcut.tracing.widths import Widths

Replacement = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""replacement(func, args, kwargs) gives the result of the call, that of `func` itself where nothing is to be replaced.

What it calls meets no table any more, so that it may call the function that it stands for.
"""
Table = Mapping[Any, Replacement]
"""Replacements by the function of torch, or by its name where several functions have it."""
Record = Callable[[Any, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]
"""record(target, args, kwargs, run) makes one step, a call of `target`, of whatever ops `run` takes."""


class Functions(TorchFunctionMode):
    """Calls what the table says in a function's place, and shows every call to `widths`.

    It is one mode for all because each costs every call of torch. `widths` sees the call that the forward makes, not
    those of a replacement, whose numbers are not the forward's.
    """

    def __init__(self, table: Table, widths: Widths | None) -> None:
        super().__init__()
        self.table, self.widths = table, widths

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function or its replacement."""
        given, name, widths = kwargs or {}, getattr(func, "__name__", ""), self.widths
        before = widths.count() if widths is not None else 0
        replacement = self.table.get(func) or self.table.get(name)
        result = func(*args, **given) if replacement is None else replacement(func, args, given)
        return result if widths is None else widths.seen(name, args, given, result, before)
