"""Reshape without fixed extents: a sequence of flatten and unflatten with one free axis each.

The old and the new shape are cut into blocks of equal size from the left; a reshape acts on each block alone. In a
block, old axes are flattened and the result is unflattened into the new ones, of which one is written as -1: there
channels may go. An axis that stays is not mentioned at all, so that the batch stays free as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Block:
    """`old` axes from `start` on become `new` axes of the same number of elements."""

    start: int
    old: tuple[int, ...]
    new: tuple[int, ...]
    free: int

    def target(self) -> tuple[int, ...]:
        """The new extents with the free one as -1."""
        return tuple(-1 if position == self.free else extent for position, extent in enumerate(self.new))


def blocks(old: Sequence[int], new: Sequence[int], inferred: int | None = None) -> list[Block] | None:
    """The blocks that change, or None where the shapes cannot be cut up (an extent of 0, a scalar, unequal sizes).

    `inferred` is the new axis that the file itself leaves open, if any: it is then the free one of its block. Else the
    free one is the longest, because counts of groups, heads and pieces are usually smaller than what they count.
    """
    if not old or not new or prod(old) != prod(new) or prod(old) == 0:
        return None
    found: list[tuple[int, int, int, int]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        i_end, j_end = i + 1, j + 1
        while (left := prod(old[i:i_end])) != (right := prod(new[j:j_end])):
            if left < right:
                i_end += 1
            else:
                j_end += 1
        found.append((i, i_end, j, j_end))
        i, j = i_end, j_end
    # What is left on either side has extents of 1 only, and joins the last block.
    i_start, _, j_start, _ = found[-1]
    found[-1] = (i_start, len(old), j_start, len(new))
    result = []
    for i, i_end, j, j_end in found:
        if i_end - i == j_end - j == 1:
            continue
        extents = tuple(new[j:j_end])
        free = max(range(len(extents)), key=lambda position: extents[position])
        if inferred is not None and j <= inferred < j_end and new[inferred] > 1:
            free = inferred - j
        result.append(Block(i, tuple(old[i:i_end]), extents, free))
    return result
