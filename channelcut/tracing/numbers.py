"""Numbers that remember where they come from: an `int` and a `float` that carry an `Origin` through arithmetic."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from channelcut.core.graph import Arithmetic, Origin

_BINARY = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "lshift", "rshift")
_UNARY = ("neg", "pos", "abs")


class Width(int):
    """An integer with an origin, of one recording: what a cache of the user's keeps longer means nothing later."""

    origin: Origin
    recording: int

    def __new__(cls, value: int, origin: Origin, recording: int | None = None) -> Width:
        """Make the number; it is an `int` in every other way."""
        number = int.__new__(cls, value)
        number.origin, number.recording = origin, current_recording() if recording is None else recording
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is a plain number."""
        return int, (int(self),)


class Fraction(float):
    """A float with an origin, such as `c ** -0.5`."""

    origin: Origin
    recording: int

    def __new__(cls, value: float, origin: Origin, recording: int | None = None) -> Fraction:
        """Make the number; it is a `float` in every other way."""
        number = float.__new__(cls, value)
        number.origin, number.recording = origin, current_recording() if recording is None else recording
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is a plain number."""
        return float, (float(self),)


_recordings = itertools.count(1)
_current = [0]


def current_recording() -> int:
    """The recording that numbers are made in now."""
    return _current[0]


def begin_recording() -> None:
    """From now on, numbers of earlier recordings count as plain ones."""
    _current[0] = next(_recordings)


def _tagged(value: Any, origin: Origin, *sources: Any) -> Any:
    recording = min(source.recording for source in sources if isinstance(source, (Width, Fraction)))
    if type(value) is int:
        return Width(value, origin, recording)
    return Fraction(value, origin, recording) if type(value) is float else value


def _plain(value: Any) -> Any:
    if isinstance(value, Width):
        return int(value)
    return float(value) if isinstance(value, Fraction) else value


def _operand(value: Any) -> Any:
    return value.origin if isinstance(value, (Width, Fraction)) else value


def _binary(name: str, *, swapped: bool) -> Callable[[Any, Any], Any]:
    compute = getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        return _tagged(
            compute(_plain(left), _plain(right)), Arithmetic(name, (_operand(left), _operand(right))), left, right
        )

    return method


def _unary(name: str) -> Callable[[Any], Any]:
    compute = getattr(operator, name)
    return lambda self: _tagged(compute(_plain(self)), Arithmetic(name, (self.origin,)), self)


for _name in _BINARY:
    for _kind in (Width, Fraction):
        if not (_kind is Fraction and _name in ("lshift", "rshift")):
            setattr(_kind, f"__{_name}__", _binary(_name, swapped=False))
            setattr(_kind, f"__r{_name}__", _binary(_name, swapped=True))
for _name in _UNARY:
    for _kind in (Width, Fraction):
        setattr(_kind, f"__{_name}__", _unary(_name))


@contextmanager
def square_roots() -> Iterator[None]:
    """Let `math.sqrt` keep the origin of a number: attention divides by the root of a width."""
    plain = math.sqrt

    def root(value: Any) -> Any:
        if isinstance(value, (Width, Fraction)):
            return Fraction(plain(value), Arithmetic("pow", (value.origin, 0.5)), value.recording)
        return plain(value)

    math.sqrt = root
    try:
        yield
    finally:
        math.sqrt = plain


def tagged_numbers(tree: Any) -> Iterator[Width | Fraction]:
    """Every tagged number in nested arguments."""
    if isinstance(tree, (Width, Fraction)):
        if tree.recording == current_recording():
            yield tree
    elif isinstance(tree, slice):
        yield from tagged_numbers((tree.start, tree.stop, tree.step))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tagged_numbers(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tagged_numbers(item)
