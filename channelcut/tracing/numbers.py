"""Numbers that remember where they come from: an `int` and a `float` that carry an `Origin` through arithmetic."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable
from typing import Any

from channelcut.core.graph import Arithmetic, Origin

_BINARY = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "lshift", "rshift")
_UNARY = ("neg", "pos", "abs")


class Recording:
    """One run of a forward, which every number that was made in it belongs to.

    A cache outside the model may keep a number longer, or hand it to a forward in another thread. It counts as a plain
    number there: only the recording that it belongs to asks for its origin, and only while it is open.
    """

    def __init__(self) -> None:
        self.open = True
        self.on_float: Callable[[Origin], None] | None = None
        self.on_multiple: Callable[[Origin], None] | None = None
        self._thread = threading.get_ident()

    def close(self) -> None:
        """End it: from now on its numbers are plain ones, and make plain ones."""
        self.open, self.on_float, self.on_multiple = False, None, None

    def read_as_float(self, origin: Origin) -> None:
        """A number is asked for a plain float, by the root of a width for instance, and its origin ends there."""
        if self.on_float is not None and self._thread == threading.get_ident():
            self.on_float(origin)

    def divided_evenly(self, origin: Origin) -> None:
        """A division has left nothing over, which an assertion or a branch may ask for."""
        if self.on_multiple is not None and self._thread == threading.get_ident():
            self.on_multiple(origin)


class Width(int):
    """An integer with an origin; it is an `int` in every other way."""

    origin: Origin
    recording: Recording

    def __new__(cls, value: int, origin: Origin, recording: Recording) -> Width:
        """Make the number."""
        number = int.__new__(cls, value)
        number.origin, number.recording = origin, recording
        return number

    def __float__(self) -> float:
        """The plain number: `math.sqrt` and all else that is written in C asks for it like this."""
        self.recording.read_as_float(self.origin)
        return float(int(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is a plain number."""
        return int, (int(self),)


class Fraction(float):
    """A float with an origin, such as `c ** -0.5`; it is a `float` in every other way."""

    origin: Origin
    recording: Recording

    def __new__(cls, value: float, origin: Origin, recording: Recording) -> Fraction:
        """Make the number."""
        number = float.__new__(cls, value)
        number.origin, number.recording = origin, recording
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is a plain number."""
        return float, (float(self),)


def _tagged(value: Any, origin: Origin, *sources: Any) -> Any:
    """The result of arithmetic; a plain number unless all tagged numbers in it are of one open recording."""
    recording, *others = {source.recording for source in sources if isinstance(source, (Width, Fraction))}
    if others or not recording.open:
        return value
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
        result, origin = compute(_plain(left), _plain(right)), Arithmetic(name, (_operand(left), _operand(right)))
        if name == "mod" and type(result) is int and result == 0 and isinstance(left, Width):
            left.recording.divided_evenly(origin)
        return _tagged(result, origin, left, right)

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


def tagged_numbers(tree: Any, recording: Recording) -> list[Width | Fraction]:
    """Every number of a recording in nested arguments."""
    found: list[Width | Fraction] = []
    _collect((tree,), recording, found)
    return found


def _collect(items: Iterable[Any], recording: Recording, found: list[Width | Fraction]) -> None:
    for item in items:
        if isinstance(item, (Width, Fraction)):
            if item.recording is recording:
                found.append(item)
        elif isinstance(item, (list, tuple)):
            _collect(item, recording, found)
        elif isinstance(item, dict):
            _collect(item.values(), recording, found)
        elif isinstance(item, slice):
            _collect((item.start, item.stop, item.step), recording, found)
