"""The selections that a replay tries: equal shares in all lanes of a group, at other positions in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from channelcut.core.footprint import Kept
from channelcut.core.groups import Group


def trials(groups: Sequence[Group]) -> int:
    """How many selections there are for these groups: one where no group has two lanes, else those that differ between
    lanes and a last one, which is drawn.
    """
    return max((_designed(group) + 1 for group in groups if len(group.lanes) > 1 and not group.table), default=1)


def selection(groups: Sequence[Group], channels: int, trial: int) -> Kept:
    """Which channels selection number `trial` keeps, shape (channels,): a little more than half of every lane.

    An op that needs two lanes to keep the same positions, or brings them into another order, fails where one lane keeps
    a block of neighbours that begins elsewhere than the other's. The blocks are longer than half a lane, so that any
    two overlap: then lanes one after the other, and lanes position by position, are two orders, whichever of the two
    lanes is the first. A lane's number in digits says where its block begins, one digit a trial; of two lanes one digit
    differs. Blocks that begin one position apart leave some orders as they are if the first lane has the first of them:
    where lanes are too short to begin further apart, every trial is made both ways round. A group with a table stays
    whole: who found that has tried it.
    """
    drawn = 0 < trial == trials(groups) - 1
    generator = np.random.default_rng(trial)
    kept = np.ones(channels, dtype=bool)
    for group in groups:
        if group.table:
            continue
        length, begins = _blocks(group)
        turn, digit = divmod(trial % _designed(group), _digits(group))
        spread = (group.width - length) // max(1, min(begins, len(group.lanes)) - 1)
        for number, lane in enumerate(group.lanes):
            each = len(lane) // group.width
            begin = number // begins**digit % begins * spread
            begin = (group.width - length - begin if turn else begin) * each
            gone = np.concatenate([lane[:begin], lane[begin + length * each :]])
            kept[generator.choice(lane, len(gone), replace=False) if drawn else gone] = False
    return kept


def _blocks(group: Group) -> tuple[int, int]:
    """How long the block that a lane keeps is, in shares, and at how many places it may begin."""
    length = max(1, min(group.width - 1, (group.width + 3) // 2))  # two ends overlap in two positions at least
    places = group.width - length + 1
    return length, places if _short(group) else (places + 1) // 2


def _short(group: Group) -> bool:
    """Whether two blocks cannot begin two positions apart."""
    return group.width < 6


def _digits(group: Group) -> int:
    """How many digits there are in the number of the last lane."""
    begins, digits = _blocks(group)[1], 1
    while begins > 1 and begins**digits < len(group.lanes):
        digits += 1
    return digits


def _designed(group: Group) -> int:
    """The trials that differ between lanes."""
    return _digits(group) * (2 if _short(group) else 1)
