"""Shuffles of widths that halve to odd numbers, by slices: lanes without a common divisor lose blocks, the rest stays.

Of chunks the forward itself says what the lanes of a narrower network have (`test_unequal_lanes.py`).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from networks import conv
from torch import Tensor, nn

import channelcut as cc
from channelcut.coupling.blocks import _cuts

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Unit(nn.Module):
    """A unit as of ShuffleNetV2: half of the channels are worked on, and all are shuffled."""

    def __init__(self, width: int, groups: int = 2) -> None:
        super().__init__()
        self.branch, self.groups = conv(width // 2, width // 2, 1), groups

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        x = torch.cat([x[:, :half], self.branch(x[:, half:])], 1)
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Swapped(Unit):
    """The other half is worked on, and an op of torch shuffles."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return torch.channel_shuffle(torch.cat([self.branch(x[:, :half]), x[:, half:]], 1), self.groups)


def network(width: int, units: int = 4, kind: type[Unit] = Unit, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    middle = [kind(width, **options) for _ in range(units)]
    return nn.Sequential(conv(3, width), *middle, nn.Conv2d(width, 4, 1)).eval()


@pytest.mark.parametrize("kind", [Unit, Swapped])
@pytest.mark.parametrize(("width", "units", "steps"), [(36, 4, 2), (52, 4, 3), (116, 4, 7), (58, 3, 7), (30, 2, 7)])
def test_a_shuffled_stream_goes_in_as_many_steps_as_its_shortest_lane(
    width: int, units: int, steps: int, kind: type[Unit]
) -> None:
    groups = cc.analyze(network(width, units, kind), X)
    (group,) = groups.groups
    assert group.width == steps
    block = 2**units
    assert sorted(pin.reason for pin in groups.pins) == ["left over at the end of a part", "network output"]
    left = cc.prune(network(width, units, kind), X, keep=1 / steps)
    assert left.model[0][0].out_channels == width - (steps - 1) * block


@pytest.mark.parametrize("width", [52, 116])
def test_every_choice_of_blocks_is_proven(width: int) -> None:
    """No block is special: whichever stay, the narrower forward brings them together again."""
    model = network(width)
    groups = cc.analyze(model, X)
    plan = cc.plan(model, groups, keep=0.5)
    channels = next(slot.channels for slot in groups.slots if slot.tensor == "0.0.weight" and slot.axis == 0)
    lane = groups.groups[0].lanes[0]
    chosen = [c for n in range(1, len(lane)) for c in itertools.combinations(lane.tolist(), n)]
    for blocks in chosen if len(chosen) < 10 else chosen[:: len(chosen) // 8]:
        held = ~np.isin(channels, lane)
        other = plan.with_kept("0.0.weight", np.flatnonzero(held | np.isin(channels, blocks)).tolist())
        assert cc.prove(model, cc.apply(model, other), other, X).passed


def test_a_stage_that_is_shuffled_more_often_than_it_can_be_halved_is_held() -> None:
    groups = cc.analyze(network(20, 5), X)
    assert not groups.groups
    assert "parts that must keep equal shares have no common divisor" in {pin.reason for pin in groups.pins}


def test_a_cut_of_a_cut_of_odd_halves_is_proven() -> None:
    first = cc.prune(network(116), X, keep=0.7)
    second = cc.prune(first.model, X, keep=0.5)
    assert second.proof.passed
    assert second.model[0][0].out_channels < first.model[0][0].out_channels < 116


def test_blocks_are_in_proportion_to_the_lanes() -> None:
    assert next(iter(_cuts([3, 2, 4, 9, 18]))) == (2, [1, 1, 2, 4, 8])
    assert next(iter(_cuts([8, 7, 14, 29, 58, 15]))) == (7, [1, 1, 2, 4, 8, 2])
    assert not list(_cuts([1, 30]))
    for lengths in ([5, 7], [4, 9, 18], [10, 11, 12]):
        for count, sizes in _cuts(lengths):
            assert count > 1
            assert all(0 < size * count <= length for size, length in zip(sizes, lengths, strict=True))
