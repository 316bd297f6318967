"""The selections that a replay tries: whatever lanes an op brings into another order, one of them shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations, permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from channelcut.core.groups import Group
from channelcut.coupling.selections import selection, trials

Order = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Brings the channels of two lanes, shape (2, kept), into one line."""

ORDERS: dict[str, Order] = {
    "first, second": lambda lanes: lanes.reshape(-1),
    "second, first": lambda lanes: lanes[::-1].reshape(-1),
    "by position, first before second": lambda lanes: lanes.T.reshape(-1),
    "by position, second before first": lambda lanes: lanes[::-1].T.reshape(-1),
}


@pytest.mark.parametrize("width", [2, 3, 4, 5, 8, 33])
@pytest.mark.parametrize("lanes", [2, 3, 5, 7, 20])
def test_every_two_lanes_show_every_change_of_order(lanes: int, width: int) -> None:
    """The order of a slot is that of all channels, of which some go; the op brings what is left into its own order."""
    table = np.arange(1, lanes * width + 1).reshape(lanes, width)
    group = Group(0, "a.weight", tuple(table), ())
    kept = [selection([group], lanes * width + 1, trial) for trial in range(trials([group]) - 1)]
    assert all(len(set(k[table].sum(1))) == 1 and 0 < k[table[0]].sum() < width for k in kept)
    for a, b in permutations(range(lanes), 2):
        two = table[[a, b]]
        shown = {pair for k in kept for pair in _shown(two, k)}
        every = _showable(width) if width < 5 else set(permutations(ORDERS, 2))
        assert shown == every, (a, b, every - shown)


def _shown(two: NDArray[np.int64], kept: NDArray[np.bool_]) -> set[tuple[str, str]]:
    """The orders of which one selection shows that they are not the same."""
    left = np.stack([lane[kept[lane]] for lane in two])
    stored = {name: order(two) for name, order in ORDERS.items()}
    return {(s, r) for s, r in permutations(ORDERS, 2) if (stored[s][kept[stored[s]]] != ORDERS[r](left)).any()}


@cache
def _showable(width: int) -> set[tuple[str, str]]:
    """The same for all selections: of two channels one is left, and lanes of one channel have no order of positions."""
    found = set()
    two = np.arange(2 * width).reshape(2, width)
    for length in range(1, width):
        for chosen in product(combinations(range(width), length), repeat=2):
            kept = np.zeros(2 * width, dtype=bool)
            for lane, positions in zip(two, chosen, strict=True):
                kept[lane[list(positions)]] = True
            found |= _shown(two, kept)
    return found


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("lanes", [2, 5, 40])
def test_no_two_lanes_keep_the_same_positions_in_all_selections(lanes: int, width: int) -> None:
    table = np.arange(1, lanes * width + 1).reshape(lanes, width)
    group = Group(0, "a.weight", tuple(table), ())
    words = np.stack([selection([group], table.size + 1, t)[table] for t in range(trials([group]) - 1)], 1)
    assert len({word.tobytes() for word in words}) == lanes


def test_a_lane_by_itself_is_tried_once() -> None:
    group = Group(0, "a.weight", (np.arange(1, 9),), ())
    assert trials([group]) == 1
    assert trials([]) == 1
    assert selection([group], 9, 0).sum() == 6


def test_a_lane_of_one_channel_stays() -> None:
    group = Group(0, "a.weight", (np.arange(1, 2), np.arange(2, 3)), ())
    assert all(selection([group], 3, trial).all() for trial in range(trials([group])))


def test_lanes_of_other_lengths_keep_the_same_share() -> None:
    group = Group(0, "a.weight", (np.arange(1, 5), np.arange(5, 13)), ())
    for trial in range(trials([group])):
        kept = selection([group], 13, trial)
        assert (kept[1:5].sum(), kept[5:].sum()) == (3, 6)
