"""The selections that a replay tries: every two lanes of a group both ways."""

from __future__ import annotations

import numpy as np
import pytest

from channelcut.core.groups import Group
from channelcut.coupling.replay import adversary, trials


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("lanes", [2, 3, 5, 6, 7, 40])
def test_every_two_lanes_are_tried_both_ways(lanes: int, width: int) -> None:
    """In some selection one keeps its first channel and the other does not, and in some it is the other way round."""
    group = Group(0, "a.weight", tuple(np.arange(1, lanes * width + 1).reshape(lanes, width)), ())
    apart = np.zeros((lanes, lanes), dtype=bool)
    for trial in range(trials([group]) - 1):
        kept = adversary([group], lanes * width + 1, trial)[1:].reshape(lanes, width)
        assert (kept.sum(1) == (width + 1) // 2).all()
        apart |= kept[:, None, 0] & ~kept[None, :, 0]
    assert (apart | np.eye(lanes, dtype=bool)).all()


def test_a_lane_by_itself_is_tried_once() -> None:
    group = Group(0, "a.weight", (np.arange(1, 9),), ())
    assert trials([group]) == 1
    assert trials([]) == 1
    assert adversary([group], 9, 0).sum() == 5


def test_lanes_of_other_lengths_keep_the_same_share() -> None:
    group = Group(0, "a.weight", (np.arange(1, 5), np.arange(5, 13)), ())
    for trial in range(trials([group])):
        kept = adversary([group], 13, trial)
        assert (kept[1:5].sum(), kept[5:].sum()) == (2, 4)
