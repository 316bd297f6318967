"""What allocation asks of a cost: a number for given widths, and the same as tables over one and two groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Widths = NDArray[np.int64]
Places = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pairwise:
    """A cost as a sum over groups and pairs of groups, at chosen widths of each.

    constant: what no width changes.
    alone: alone[g][i] belongs to group g at its i-th width.
    pairs: pairs[g, h][i, j], g < h, belongs to group g at its i-th and group h at its j-th width.
    """

    constant: float
    alone: tuple[Values, ...]
    pairs: Mapping[tuple[int, int], Values]

    def at(self, positions: Sequence[int]) -> float:
        """The cost where group g has its positions[g]-th width."""
        found = self.constant + sum(float(values[i]) for values, i in zip(self.alone, positions, strict=True))
        return found + sum(float(values[positions[g], positions[h]]) for (g, h), values in self.pairs.items())

    def restricted(self, kept: Sequence[Places]) -> Pairwise:
        """The same for fewer widths: kept[g] holds the places that are left of those of group g."""
        return Pairwise(
            self.constant,
            tuple(values[some] for values, some in zip(self.alone, kept, strict=True)),
            {(g, h): table[np.ix_(kept[g], kept[h])] for (g, h), table in self.pairs.items()},
        )


class WidthCost(Protocol):
    """What a network costs when group g keeps widths[g] steps: multiply-accumulates, parameters, milliseconds."""

    def __call__(self, widths: Widths) -> float:
        """The cost at these widths, shape (groups,)."""

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The cost at the widths steps[g] of each group; where a layer has three groups around it, its closest sum."""
