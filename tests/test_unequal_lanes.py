"""Lanes without a common divisor: they keep what the forward's own splits give them, in whatever order that comes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from networks import conv
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.groups import Groups
from channelcut.core.tensors import kept_positions, rearranged
from channelcut.coupling import counts as unequal
from channelcut.coupling.collect import collect
from channelcut.coupling.replay import replay, touching
from channelcut.coupling.settle import Draft, Settling, equations
from channelcut.tracing import trace

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Unit(nn.Module):
    """A unit of ShuffleNetV2: half of the channels are worked on, and all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = conv(width // 2, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Swapped(Unit):
    """The other half is worked on, and an op of torch shuffles."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.channel_shuffle(torch.cat([self.branch(a), b], 1), 2)


def network(width: int, units: int, kind: type[Unit] = Unit) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, width), *(kind(width) for _ in range(units)), nn.Conv2d(width, 4, 1)).eval()


@cache
def analyzed(width: int, units: int, kind: type[Unit] = Unit) -> tuple[nn.Module, Groups]:
    model = network(width, units, kind)
    return model, cc.analyze(model, X)


def drafted(model: nn.Module, *checks: Any) -> Draft:
    return Settling.of(collect([trace(model, (X,))])).settle(checks)


@pytest.mark.parametrize(("width", "units", "kind"), [(58, 2, Unit), (26, 3, Swapped)])
def test_cuts_at_several_budgets_are_proven(width: int, units: int, kind: type[Unit]) -> None:
    model, groups = analyzed(width, units, kind)
    (group,) = groups.groups
    assert group.width == width // 2
    assert [pin.reason for pin in groups.pins] == ["network output"]
    asked: list[dict[str, Any]] = [{"params": 0.4, "min_keep": 0.3}, {"macs": 0.6, "align": 4}]
    for budget in asked:
        plan = cc.plan(model, groups, **budget)
        (left,) = plan.groups
        assert left.kept in group.table
        assert left.kept % budget.get("align", 1) == 0
        assert left.kept >= budget.get("min_keep", 0) * left.width
        small = cc.apply(model, plan)
        assert small[0][0].out_channels == left.kept * 2
        assert cc.prove(model, small, plan, X).passed, budget
    with pytest.raises(cc.UserError, match="excluded"):
        cc.plan(model, groups, keep=0.5, exclude=["1"])


def test_lanes_have_what_a_narrower_network_has() -> None:
    _, groups = analyzed(58, 2)
    (group,) = groups.groups
    (narrow,) = drafted(network(28, 2), equations).groups  # before its lanes are bound to one order
    assert sorted(count for count in group.counts(14) if count) == sorted(map(len, narrow.lanes))


def test_a_width_is_missing_where_a_channel_would_come_where_none_came_before() -> None:
    """Of 24, 12, 6, 3 the first goes on to the end; of 12, 6, 3 it leaves one unit earlier, where none of 24 does."""
    (group,) = analyzed(20, 5)[1].groups
    assert 5 not in group.table
    assert {4, 9, 10} <= set(group.table)


def test_what_comes_in_another_order_is_read_in_that_order() -> None:
    _, groups = analyzed(58, 2)
    (group,) = groups.groups
    kept = np.ones(groups.channel_count, dtype=bool)
    generator = np.random.default_rng(0)
    for lane, count in zip(group.lanes, group.counts(14), strict=True):
        kept[generator.choice(lane, len(lane) - count, replace=False)] = False
    lists = [list(positions) for axes in kept_positions(groups, kept).values() for positions in axes.values()]
    assert any(positions != sorted(positions) for positions in lists)
    assert rearranged(np.array([5, 7, 0, 9]), np.array([9, 7, 0, 5])).tolist() == [3, 1, 2, 0]


def test_wrong_counts_do_not_go_through() -> None:
    draft = drafted(network(26, 2), equations, replay)
    (group,) = draft.groups
    table = unequal._table(draft, group)
    marks = np.zeros(len(draft.partition.pinned), dtype=np.int64)
    marks[group.channels] = 1
    chosen = [set(touching(run, draft.facts, draft.partition.footprints, marks)) for run in draft.facts.runs]
    assert unequal._fits(draft, group, table[8], Fraction(8, 13), chosen)
    for lane in range(len(group.lanes)):
        fewer, moved = list(table[8]), list(table[8])
        fewer[lane] -= 1
        moved[lane], moved[lane - 1] = moved[lane] - 1, moved[lane - 1] + 1
        for wrong in (fewer, moved):
            assert not unequal._fits(draft, group, wrong, Fraction(8, 13), chosen)


def test_plans_by_hand_fit_the_splits_or_are_refused() -> None:
    model, groups = analyzed(58, 2)
    plan = cc.plan(model, groups, keep=0.5)
    before = plan.kept["1.branch.0.weight"][1]
    lane_of = {channel: number for number, lane in enumerate(groups.groups[0].lanes) for channel in lane.tolist()}
    slot = next(s for s in groups.slots if (s.tensor, s.axis) == ("0.0.weight", 0))
    chosen: list[int] = []
    for number, count in enumerate(groups.groups[0].counts(20)):  # the last channels of every lane
        places = [position for position in range(58) if lane_of[int(slot.channels[position])] == number]
        chosen += places[len(places) - count :] if places else []
    other = plan.with_kept("0.0.weight", chosen)
    assert other.groups[0].kept == 20
    assert other.kept["1.branch.0.weight"][1] != before
    assert cc.prove(model, cc.apply(model, other), other, X).passed
    with pytest.raises(cc.UserError, match=r"what the forward's own splits give it: .*\(8 in all\).*10 of 15"):
        plan.with_kept("0.0.weight", list(range(10)))


def test_a_cut_of_a_cut_and_its_plan_as_data() -> None:
    model, groups = analyzed(58, 2)
    first = cc.plan(model, groups, keep=0.8)
    assert cc.Plan.from_dict(first.to_dict()) == first
    assert [after for _, after in first.groups[0].counts] == list(groups.groups[0].counts(24))
    small = cc.apply(model, first)
    again = cc.prune(small, X, keep=0.6)
    assert again.proof.passed
    data = first.to_dict()
    data["groups"][0]["counts"] = [[3, 4]]
    with pytest.raises(cc.UserError, match="before and after"):
        cc.Plan.from_dict(data)


class Halved(Unit):
    """A unit that keeps a width: of all channels it worked on, or of the first half of these."""

    part = 1

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.width = width // 2 // self.part

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        b = self.branch(b)
        first = b.chunk(self.part, 1)[0]
        rest = first.view(first.shape[0], self.width, *first.shape[2:]).mean()
        x = torch.cat([a, b * rest], 1)
        return torch.channel_shuffle(x, 2)


def test_a_number_that_counts_the_whole_follows() -> None:
    model = network(26, 2, Halved)
    result = cc.prune(model, X, keep=0.5)
    (left,) = result.plan.groups
    assert left.counts
    assert result.model[1].width == left.kept < 13
    assert result.proof.passed
