"""The time of a layer along one of its widths: at which of them it is timed, and what lies between these.

Dense hardware is a staircase whose steps end at multiples of some width. Inside a step a layer may take what the step's
end does, or more: kernels that read several channels at once give way to slower ones where the width is no multiple of
that many, and these may follow the width itself instead of the staircase. So a few widths inside steps are timed too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

FINE = 4
"""Multiples of this inside a step are a kind of their own: vectors are that long at least on every target."""
_APART = 0.1  # shares of a step's end that are nearer to one another than this show no slope
_SAME = 0.04  # a difference to the step's end that is less is noise: no channel is given for it
_LOW = 0.1  # of what the step's end takes, at the least: noise must not turn a time over
_DETAIL = 12  # a line has every step up to this many of them, then ever wider ones
_LEAST = 16  # widths below this part of the full one are not timed: no plan keeps so few


def line(full: int, step: int, unit: int = 1) -> list[int]:
    """The widths to time along a line, ascending, each a multiple of `step` and of `unit` but for the full one."""
    whole = math.lcm(step, unit)
    found = {full}
    width = gap = whole
    while width < full:
        if width * _LEAST >= full:
            found.add(width)
        if width >= _DETAIL * gap:
            gap *= 2
        width += gap
    return sorted(found)


def coarse(full: int, step: int, unit: int = 1) -> list[int]:
    """The widths of the grid: doubling, and the full one."""
    found, width = {full}, math.lcm(step, unit)
    while width < full:
        if width * _LEAST >= full:
            found.add(width)
        width *= 2
    return sorted(found)


def inside(full: int, step: int, unit: int = 1) -> list[int]:
    """Widths inside steps, ascending: in the last step and in one at a quarter of the way.

    Of each step the first and the last width, and one that is a multiple of `FINE`; in the first two steps all that
    are, since narrow layers may be run by other kernels.
    """
    if step == 1 or math.lcm(step, unit) == unit:
        return []
    ends = {step * (full // step), step * max(1, full // step // 4)} if full > step else {full}
    found = {width for end in ends for width in (end - step + unit, end - FINE, end - unit)}
    found |= set(range(FINE, 2 * step, FINE))
    return sorted(w for w in found if 0 < w < full and w % step and not w % unit and w * _LEAST >= full)


@dataclass(frozen=True)
class Line:
    """Times along one width, in ms: a staircase whose steps end at multiples of `step`.

    fine: what a width inside a step takes as a share of what the step's end takes, if it is a multiple of `FINE`; at
        the ends of steps where that was timed, shape (2, timed).
    odd: the same of all other widths inside a step, [constant, coefficient of width / end]: (1, 0) is the staircase,
        and (0, 1) follows the width.
    """

    widths: Values
    times: Values
    step: int
    fine: Values
    odd: tuple[float, float] = (1.0, 0.0)

    @classmethod
    def of(cls, times: Mapping[int, float], step: int) -> Line:
        """The line through times by width."""
        full = max(times)
        ends = sorted(w for w in times if w % step == 0 or w == full)
        plain = cls(np.array(ends, np.float64), np.array([times[w] for w in ends]), step, np.ones((2, 1)))
        off = np.array(sorted(set(times) - set(ends)), np.float64)
        shares = np.array([times[int(w)] for w in off]) / plain.ends(off)
        fine = off % FINE == 0
        if fine.any():
            told = np.where(np.abs(shares[fine] - 1) < _SAME, 1.0, shares[fine])
            plain = replace(plain, fine=np.stack([off[fine], told]))
        if not fine.all():
            plain = replace(plain, odd=_straight(off[~fine] / plain.end(off[~fine]), shares[~fine]))
        return plain

    def at(self, widths: Values) -> Values:
        """The times at these widths."""
        odd = np.maximum(self.odd[0] + self.odd[1] * widths / self.end(widths), _LOW)
        shares = np.where(widths % FINE == 0, np.interp(widths, *self.fine), odd)
        inner = (widths % self.step > 0) & (widths < self.widths[-1])
        found: Values = self.ends(widths) * np.where(inner, shares, 1.0)
        return found

    def end(self, widths: Values) -> Values:
        """The widths at which the steps end that these are in."""
        found: Values = np.minimum(np.ceil(widths / self.step) * self.step, self.widths[-1])
        return found

    def ends(self, widths: Values) -> Values:
        """The times at the ends of the steps that these widths are in."""
        ends = self.end(widths)
        found: Values = np.interp(ends, self.widths, self.times)
        below = ends < self.widths[0]
        if below.any() and len(self.widths) > 1:
            slope = (self.times[1] - self.times[0]) / (self.widths[1] - self.widths[0])
            low = self.times[0] - slope * (self.widths[0] - ends)
            found = np.where(below, np.maximum(low, self.times[0] * ends / self.widths[0]), found)
        return found


def _straight(x: Values, y: Values) -> tuple[float, float]:
    """The line through points, [constant, slope], by least squares; flat where all are about one x."""
    apart = x - x.mean()
    if np.ptp(x) < _APART:
        return float(y.mean()), 0.0
    slope = float(apart @ (y - y.mean()) / (apart @ apart))
    return float(y.mean() - slope * x.mean()), slope
