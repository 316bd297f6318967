"""Extents as linear functions of the shares that lanes keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Linear:
    """constant + Σ coefficient · share of a lane, where every share is 1 before a cut."""

    constant: float
    terms: Mapping[int, float] = field(default_factory=dict)

    @property
    def full(self) -> float:
        """The value before a cut."""
        return self.constant + sum(self.terms.values())

    @property
    def fixed(self) -> bool:
        """Whether no share changes it."""
        return not self.terms

    def scaled(self, factor: float) -> Linear:
        """Every coefficient times a number."""
        return Linear(self.constant * factor, {lane: c * factor for lane, c in self.terms.items()})

    def plus(self, other: Linear) -> Linear:
        """The sum of two functions; lanes that cancel out are gone."""
        terms = dict(self.terms)
        for lane, coefficient in other.terms.items():
            terms[lane] = terms.get(lane, 0.0) + coefficient
        return Linear(self.constant + other.constant, {lane: c for lane, c in terms.items() if abs(c) > 1e-9})

    def minus(self, other: Linear) -> Linear:
        """The difference of two functions."""
        return self.plus(other.scaled(-1.0))

    def merged(self, root: Callable[[int], int]) -> Linear:
        """The function when lanes of one root keep one share."""
        joined: dict[int, float] = {}
        for lane, coefficient in self.terms.items():
            joined[root(lane)] = joined.get(root(lane), 0.0) + coefficient
        return Linear(self.constant, {lane: c for lane, c in joined.items() if abs(c) > 1e-9})
