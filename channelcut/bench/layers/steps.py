"""The step of a target's staircase: up to which multiple a width costs what the multiple costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from channelcut.cost.kinds import DENSE, Entry, LayerKind, Widths
from channelcut.cost.surface import Extent

CANDIDATES = (32, 16, 8, 4)
_GRAIN = 4
_WIDEST = 128  # a sweep ends here at the most: wider steps would show beyond, and cost too much to look for
_FLAT = 0.25  # of the rise over a sweep may lie inside the steps; in a straight line (step - 1) / step does
_RISE = 0.1  # of the time at its end, that a sweep must rise by to tell anything


def sweep(full: int) -> list[int]:
    """The widths to look at, in the upper half up to the full width or to 128: the ends of steps, and their starts."""
    top = min(full, _WIDEST) // (2 * _GRAIN) * (2 * _GRAIN)
    ends = range(top // 2, top + 1, _GRAIN)
    return sorted({*ends, *(end + 1 for end in ends if end < top)})


def step_of(times: Mapping[int, float]) -> int | None:
    """The step of one sweep: the greatest within whose blocks hardly anything rises; None where it tells nothing.

    Args:
        times: ms by width, at the widths of a `sweep`.
    """
    low, top = min(times), max(times)
    rise = times[top] - times[low]
    if rise < _RISE * times[top]:
        return None
    for step in CANDIDATES:
        ends = [end for end in times if end % step == 0 and end - step >= low and end - step + 1 in times]
        if ends and len(ends) * step >= (top - low) // 2 and _inside(times, ends, step) < _FLAT * rise:
            return step
    return 1


def _inside(times: Mapping[int, float], ends: Sequence[int], step: int) -> float:
    """What the times rise by inside the blocks that end there, as if such blocks covered the sweep."""
    covered = len(ends) * step / (max(times) - min(times))
    return sum(max(0.0, times[end] - times[end - step + 1]) for end in ends) / covered


def sweeps(kind: LayerKind, extent: Extent) -> list[list[Entry]]:
    """What to time of a layer: a sweep of its output widths and one of its input widths, where they are wide enough."""
    cin, cout, groups = extent.full
    if extent.mode != DENSE or groups > 1:
        return []
    found = []
    if cout >= 4 * _GRAIN:
        found.append([Entry(kind, Widths(cin, o)) for o in sweep(cout)])
    if cin >= 4 * _GRAIN:
        found.append([Entry(kind, Widths(i, cout)) for i in sweep(cin)])
    return found


def joint(steps: Sequence[int | None]) -> int | None:
    """One step for all sweeps: the median of those that tell one."""
    known = [step for step in steps if step is not None]
    return statistics.median_high(known) if known else None
