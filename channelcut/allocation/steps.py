"""The widths that a group may take: multiples of the alignment, the full width, and nothing below the least one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from channelcut.core.groups import Group, Groups


def admissible_widths(widths: NDArray[np.int64], align: int, least: int = 1, fine: int = 0) -> NDArray[np.int64]:
    """Of the widths that a group may have, ascending, those that a plan may choose.

    A width off the alignment can be slower than the full one on dense hardware, so only multiples of `align` and the
    full width itself are offered, none below `least`. Where `fine` is given, so are its multiples below twice `align`.
    """
    chosen = widths % align == 0
    if fine:
        chosen |= (widths % fine == 0) & (widths < 2 * align)
    chosen &= widths >= max(1, least)
    return np.unique(np.append(widths[chosen], widths[-1])).astype(np.int64)


def width_alignment(groups: Groups, group: Group, align: int) -> int:
    """The multiple of a group's width at which every tensor axis that it is on changes by multiples of `align`.

    A lane as wide as the alignment is aligned by itself. Narrower lanes, such as those of the groups of a group norm,
    are aligned together: 32 lanes of 2 channels may lose one channel each. A width in steps of 4 is aligned to 8 at
    every other step.
    """
    if group.width >= align and group.step == 1:
        return align
    owner = np.zeros(groups.channel_count, dtype=bool)
    owner[group.channels] = True
    counts = [int(owner[groups.slots[index].channels].sum()) // group.width for index in group.slots]
    return math.lcm(*(align // math.gcd(align, count) for count in counts if count))


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
