"""Functions of Ultralytics, run with other globals than their module's: nothing of theirs is changed by it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any


def with_globals(function: Callable[..., Any], **others: Any) -> Callable[..., Any]:
    """The code of a function, without its decorators, that sees `others` where its module has other values."""
    function = inspect.unwrap(function)
    assert isinstance(function, types.FunctionType)
    scope = {**function.__globals__, **others}
    return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
