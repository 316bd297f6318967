"""The widths that a group may take: multiples of the alignment, the full width, and nothing below the floor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def admissible_widths(width: int, align: int, floor: float) -> NDArray[np.int64]:
    """Ascending widths a lane of `width` channels may keep.

    A width off the alignment can be slower than the full one on dense hardware, so only multiples of `align` and the
    full width itself are offered; the smallest is at least `floor * width` and at least one channel.
    """
    least = max(1, math.ceil(floor * width))
    multiples = np.arange(align, width + 1, align)
    multiples = multiples[multiples >= least]
    return np.unique(np.append(multiples, width)).astype(np.int64)


def nearest_width(scores: NDArray[np.float64], wanted: int, widths: NDArray[np.int64]) -> int:
    """Round `wanted` to an admissible width, up or down by importance.

    `scores` are those of one group in descending order, shape (width,). Between two admissible widths lo < wanted < hi
    it
    goes up when the channels lo..wanted hold at least half the importance of lo..hi.
    """
    if wanted <= widths[0]:
        return int(widths[0])
    above = int(np.searchsorted(widths, wanted))
    high = int(widths[above])
    if high == wanted:
        return wanted
    low = int(widths[above - 1])
    inside, whole = float(scores[low:wanted].sum()), float(scores[low:high].sum())
    return high if inside >= 0.5 * whole else low
