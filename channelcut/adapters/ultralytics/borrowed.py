"""Functions and modules of Ultralytics, run with other globals than theirs: nothing of theirs is changed by it."""

from __future__ import annotations

import importlib.util
import inspect
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np


def with_globals(function: Callable[..., Any], **others: Any) -> Callable[..., Any]:
    """The code of a function, without its decorators, that sees `others` where its module has other values."""
    function = inspect.unwrap(function)
    assert isinstance(function, types.FunctionType)
    scope = {**function.__globals__, **others}
    return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)


class Draws:
    """Random numbers as `random` and `numpy.random` give them, of generators of its own."""

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Begin anew."""
        self.python, self.numpy = random.Random(seed), np.random.RandomState(seed % (1 << 32))


def with_own_random(name: str, draws: Draws) -> types.ModuleType:
    """A module of theirs, run anew beside the real one, that draws from `draws` and not from the process's numbers."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.random, module.np = _Drawn(draws, "python"), _Numpy(draws)
    return module  # type: ignore[no-any-return]


class _Drawn:
    """Stands for the module `random`, or `numpy.random`."""

    def __init__(self, draws: Draws, which: str) -> None:
        self._draws, self._which = draws, which

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._draws, self._which), name)


class _Numpy:
    """Stands for the module `numpy`."""

    def __init__(self, draws: Draws) -> None:
        self.random = _Drawn(draws, "numpy")

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)
