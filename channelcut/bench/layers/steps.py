"""The step of a target's staircase: the multiple below which narrower widths save nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from channelcut.cost.kinds import DENSE, Entry, LayerKind, Widths
from channelcut.cost.surface import Extent

CANDIDATES = (32, 16, 8, 4)
_GRAIN = 2
_WIDEST = 128  # a sweep ends here at the most: wider steps would show beyond, and cost too much to look for
_FLAT = 0.25  # of what a whole step saves, that half of one may save; along a straight line it is a half
_RISE = 0.1  # of the time at its end, that a sweep must rise by to tell anything


def sweep(full: int) -> list[int]:
    """The widths to look at, every second one in the upper half up to the full width or to 128."""
    top = min(full, _WIDEST) // CANDIDATES[-1] * CANDIDATES[-1]
    return list(range(top // 2 // _GRAIN * _GRAIN, top + 1, _GRAIN))


def step_of(sweeps: Sequence[Mapping[int, float]]) -> int | None:
    """The greatest step of which half a step saves hardly anything, over all sweeps together; None where none tells.

    Args:
        sweeps: of each layer and side, the ms by width, at the widths of a `sweep`.
    """
    telling = [times for times in sweeps if times[max(times)] - times[min(times)] > _RISE * times[max(times)]]
    if not telling:
        return None
    for step in CANDIDATES:
        half, whole = (sum(_saved(times, step, by) for times in telling) for by in (step // 2, step))
        if whole > 0 and half < _FLAT * whole:
            return step
    return 1


def _saved(times: Mapping[int, float], step: int, by: int) -> float:
    """What widths that end a step save by being narrower, as a share of the sweep's greatest time."""
    ends = [end for end in times if end % step == 0 and end - step in times and end - step // 2 in times]
    return sum(times[end] - times[end - by] for end in ends) / times[max(times)]


def sweeps(kind: LayerKind, extent: Extent) -> list[tuple[Entry, ...]]:
    """What to time of a layer: a sweep of its output widths and one of its input widths, where they are wide enough."""
    cin, cout, groups = extent.full
    if extent.mode != DENSE or groups > 1:
        return []
    found = []
    if cout >= 2 * CANDIDATES[-2]:
        found.append(tuple(Entry(kind, Widths(cin, o)) for o in sweep(cout)))
    if cin >= 2 * CANDIDATES[-2]:
        found.append(tuple(Entry(kind, Widths(i, cout)) for i in sweep(cin)))
    return found
