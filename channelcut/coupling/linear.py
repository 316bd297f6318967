"""Numbers of the forward as linear functions of what may change: shares of lanes, and attributes of modules.

Every unknown is a factor that is 1 before a cut: a lane of 16 channels holds 16·s of them, an attribute of 64 is 64·a.
Coefficients are integers and fractions, so that nothing is lost to rounding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from channelcut.core.graph import Arithmetic, Attribute, Extent, Free, Origin

Number = int | float | Fraction
Unknown = int | Attribute
"""The index of a lane, or an attribute."""


class Nonlinear(Exception):
    """An expression is not linear in its unknowns, so that none of them may change; it holds them.

    `divisors` are those by which it divides: it may be linear in the others where these keep their values.
    """

    def __init__(self, *parts: Linear, divisor: Linear | None = None) -> None:
        super().__init__()
        self.unknowns = {unknown for part in parts for unknown in part.terms}
        self.divisors = set(divisor.terms) if divisor is not None else set()


@dataclass(frozen=True)
class Linear:
    """constant + Σ coefficient · unknown; no coefficient is zero."""

    constant: Number
    terms: Mapping[Unknown, Number] = field(default_factory=dict)

    @property
    def full(self) -> Number:
        """The value before a cut."""
        return self.constant + sum(self.terms.values())

    @staticmethod
    def is_zero(number: Number) -> bool:
        """Whether a number is zero, up to what a forward's own floating point may have lost."""
        return abs(float(number)) < 1e-6

    @property
    def fixed(self) -> bool:
        """Whether it has no unknown."""
        return not self.terms

    def __add__(self, other: Linear) -> Linear:
        terms = dict(self.terms)
        for unknown, coefficient in other.terms.items():
            terms[unknown] = terms.get(unknown, 0) + coefficient
        return Linear(self.constant + other.constant, {u: c for u, c in terms.items() if c})

    def __sub__(self, other: Linear) -> Linear:
        return self + other * Linear(-1)

    def __mul__(self, other: Linear) -> Linear:
        if not (self.fixed or other.fixed):
            raise Nonlinear(self, other)
        whole, factor = (self, other.constant) if other.fixed else (other, self.constant)
        return Linear(whole.constant * factor, {u: c * factor for u, c in whole.terms.items() if factor})

    def __truediv__(self, other: Linear) -> Linear:
        if self.proportional(other):
            return Linear(_exact(self.full) / _exact(other.full))
        if not other.fixed or not other.constant:  # a division by zero is the forward's own affair
            raise Nonlinear(self, other, divisor=other)
        return self * Linear(1 / _exact(other.constant))

    def __floordiv__(self, other: Linear) -> Linear:
        """As if nothing were left over: where that is wrong, the number is wrong before a cut, and its row tells."""
        if self.fixed and other.fixed:
            return Linear(self.constant // other.constant)
        found = self / other
        return Linear(found.constant // 1) if found.fixed else found

    def proportional(self, other: Linear) -> bool:
        """Whether the quotient is one number whatever the unknowns are, as in c // (c // heads)."""
        if self.fixed or self.constant or other.constant or set(self.terms) != set(other.terms) or not other.full:
            return False
        return len({_exact(c) / _exact(other.terms[u]) for u, c in self.terms.items()}) == 1

    def with_known(self, known: Mapping[Attribute, Linear]) -> Linear:
        """The function with some attributes replaced by functions of others."""
        result = Linear(self.constant, {u: c for u, c in self.terms.items() if u not in known})
        for unknown, coefficient in self.terms.items():
            if isinstance(unknown, Attribute) and unknown in known:
                result += known[unknown] * Linear(coefficient)
        return result

    def merged(self, root: Callable[[int], int]) -> Linear:
        """The function when lanes of one root keep one share."""
        terms: dict[Unknown, Number] = {}
        for unknown, coefficient in self.terms.items():
            joined = root(unknown) if isinstance(unknown, int) else unknown
            terms[joined] = terms.get(joined, 0) + coefficient
        return Linear(self.constant, {u: c for u, c in terms.items() if c})

    def solved_for(self, unknown: Unknown) -> Linear:
        """What an unknown is where this function is zero."""
        coefficient = _exact(self.terms[unknown])
        rest = Linear(self.constant, {u: c for u, c in self.terms.items() if u != unknown})
        return rest * Linear(-1 / coefficient)


def value(origin: Origin | Number, leaf: Callable[[Extent | Attribute], Linear]) -> Linear:
    """A number of the forward as a function; `leaf` tells what extents and attributes are.

    Raises:
        Nonlinear: it is no linear function.
    """
    if isinstance(origin, (Extent, Attribute)):
        return leaf(origin)
    if isinstance(origin, Arithmetic):
        return _computed(origin.op, [value(part, leaf) for part in origin.operands])
    if isinstance(origin, Free):
        raise TypeError("an extent that is left to the op has no value of its own")
    return Linear(origin)


def _computed(op: str, parts: list[Linear]) -> Linear:
    if all(part.fixed for part in parts):  # Python's own arithmetic, which knows every operator
        whole = [int(p.constant) if p.constant == int(p.constant) else float(p.constant) for p in parts]
        return Linear(getattr(operator, op)(*whole))
    if op in ("add", "sub", "mul", "truediv", "floordiv"):
        return getattr(operator, op)(*parts)  # type: ignore[no-any-return]
    if op == "neg":
        return parts[0] * Linear(-1)
    if op == "pos" or (op == "abs" and parts[0].full >= 0):
        return parts[0]
    raise Nonlinear(*parts)


def _exact(number: Number) -> Fraction:
    return Fraction(number)
