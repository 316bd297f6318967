"""The time of a layer at any widths, from times at a few: which widths those are, and what lies between them.

Dense hardware is a staircase, so that a straight line between two far points is wrong where it matters. A layer that
mixes its channels is timed along two lines in full detail, all output widths at the full input width and all input
widths at the full output width, and on a coarse grid besides. Between the nodes of the grid

    t(i, o) = c + (t(I, o) - c) · (t(i, O) - c) / (t(I, O) - c) · r(i, o),

where c, what any width pays, is such that r = 1 at the least widths of the grid, and r, the part that is neither
constant nor a product of the two lines, is interpolated in the logarithms of the widths: it is smooth where t is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channelcut.cost.kinds import DENSE, Widths
from channelcut.cost.line import Line, Values, coarse, inside, line

_FIXED = 0.9  # of the least time at the most: a constant larger than a time would turn it over


@dataclass(frozen=True)
class Extent:
    """A layer's full widths, and which of them can change; `mode`: see `cost.kinds`."""

    full: Widths
    mode: str = DENSE
    reads: bool = True
    writes: bool = True

    def at(self, cin: int, cout: int) -> Widths:
        """The widths with these channels; of a grouped layer whose groups go, with what groups are left."""
        if self.mode == DENSE:
            return Widths(cin, cout, self.full.groups)
        left = max(1, round(self.full.groups * cout / self.full.cout))
        return Widths(self.full.cin * left // self.full.groups, self.full.cout * left // self.full.groups, left)


def points(extent: Extent, step: int) -> list[Widths]:
    """All widths at which a layer is timed: the two lines and the grid; of a layer with one width a line."""
    cin, cout, groups = extent.full
    if extent.mode != DENSE:
        alone = max(1, step * groups // cout)
        counts = [*line(groups, alone), *inside(groups, alone)]
        return [extent.at(cin * n // groups, cout * n // groups) for n in counts]
    found = {extent.at(cin, cout)}
    ins = [*line(cin, step, groups), *inside(cin, step, groups)] if extent.reads else [cin]
    outs = [*line(cout, step, groups), *inside(cout, step, groups)] if extent.writes else [cout]
    found |= {extent.at(i, cout) for i in ins} | {extent.at(cin, o) for o in outs}
    if extent.reads and extent.writes:
        found |= {extent.at(i, o) for i in coarse(cin, step, groups) for o in coarse(cout, step, groups)}
    return sorted(found)


@dataclass(frozen=True)
class Surface:
    """The time of a layer as a function of its widths, in ms."""

    ins: Line
    outs: Line
    full: float
    grid_ins: Values
    grid_outs: Values
    rest: Values
    constant: float = 0.0

    def at(self, cin: Values, cout: Values) -> Values:
        """The times at pairs of widths of one shape; 0 where there is no channel, because then there is no layer."""
        fixed, there = self.constant, (cin > 0) & (cout > 0)
        cin, cout = np.maximum(cin, 1), np.maximum(cout, 1)
        product = (self.ins.at(cin) - fixed) * (self.outs.at(cout) - fixed) / (self.full - fixed)
        found: Values = fixed + product * _bilinear(self.grid_ins, self.grid_outs, self.rest, cin, cout)
        return np.where(there, found, 0.0)


def surface(extent: Extent, times: Mapping[Widths, float], step: int) -> Surface | None:
    """The surface through what was measured; None where the full widths were not."""
    cin, cout, groups = extent.full
    if extent.full not in times:
        return None
    full = times[extent.full]
    if extent.mode != DENSE:
        along = {
            w.cout: ms for w, ms in times.items() if w.cin * cout == w.cout * cin and w.groups * cout == w.cout * groups
        }
        known = {extent.at(w.cin, w.cout).cout for w in points(extent, step)}
        return Surface(Line.of({cin: full}, 1), Line.of(_among(along, known), step), full, *_flat())
    same = {(w.cin, w.cout): ms for w, ms in times.items() if w.groups == groups}
    looked_at = {(w.cin, w.cout) for w in points(extent, step)}  # others' widths may be in the table too
    ins = Line.of(_among({i: ms for (i, o), ms in same.items() if o == cout}, {i for i, _ in looked_at}), step)
    outs = Line.of(_among({o: ms for (i, o), ms in same.items() if i == cin}, {o for _, o in looked_at}), step)
    nodes_in = [i for i in coarse(cin, step, groups) if (i, cout) in same] if extent.reads else [cin]
    nodes_out = [o for o in coarse(cout, step, groups) if (cin, o) in same] if extent.writes else [cout]
    fixed = _constant(same, (nodes_in[0], nodes_out[0]), (cin, cout))
    rest = np.ones((len(nodes_in), len(nodes_out)))
    for row, i in enumerate(nodes_in):
        for column, o in enumerate(nodes_out):
            product = (same[i, cout] - fixed) * (same[cin, o] - fixed) / (full - fixed)
            rest[row, column] = (same.get((i, o), product + fixed) - fixed) / product
    return Surface(ins, outs, full, np.array(nodes_in, np.float64), np.array(nodes_out, np.float64), rest, fixed)


def _constant(times: Mapping[tuple[int, int], float], least: tuple[int, int], full: tuple[int, int]) -> float:
    """What is to be taken off all times so that those at the least widths are a product of those along the lines."""
    if least not in times or least[0] == full[0] or least[1] == full[1]:
        return 0.0
    low, high = times[least], times[full]
    one, other = times[least[0], full[1]], times[full[0], least[1]]
    curved = high + low - one - other
    if curved <= 0:
        return 0.0
    return float(np.clip((high * low - one * other) / curved, 0.0, _FIXED * low))


def _among(times: Mapping[int, float], widths: set[int]) -> dict[int, float]:
    return {width: ms for width, ms in times.items() if width in widths}


def _flat() -> tuple[Values, Values, Values]:
    return np.ones(1), np.ones(1), np.ones((1, 1))


def _bilinear(rows: Values, columns: Values, values: Values, at_row: Values, at_column: Values) -> Values:
    """Linear in the logarithms of widths between the nodes of a grid, constant beyond them: the nodes double."""
    (r, dr), (c, dc) = _cell(np.log(rows), np.log(at_row)), _cell(np.log(columns), np.log(at_column))
    r1, c1 = np.minimum(r + 1, len(rows) - 1), np.minimum(c + 1, len(columns) - 1)
    low = values[r, c] * (1 - dc) + values[r, c1] * dc
    high = values[r1, c] * (1 - dc) + values[r1, c1] * dc
    found: Values = low * (1 - dr) + high * dr
    return found


def _cell(nodes: Values, at: Values) -> tuple[NDArray[np.int64], Values]:
    place = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, max(0, len(nodes) - 2))
    if len(nodes) == 1:
        return place, np.zeros_like(at, dtype=np.float64)
    return place, np.clip((at - nodes[place]) / (nodes[place + 1] - nodes[place]), 0.0, 1.0)
