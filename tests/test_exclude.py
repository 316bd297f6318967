"""`exclude`, `keep` by pattern, least widths, absolute budgets: what the user says stays, and shows why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import build, example
from torch import Tensor, nn

import channelcut as cc
from channelcut.allocation.budget import Budget, least_width
from channelcut.core.groups import Group
from channelcut.core.reasons import EXCLUDED


class Net(nn.Module):
    """A stem, two stages joined by an addition, and a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stage1 = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.stage2 = nn.Sequential(
            nn.Conv2d(32, 24, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32)
        )
        self.head = nn.Sequential(nn.Conv2d(32, 20, 1), nn.ReLU(), nn.Conv2d(20, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stage1(self.stem(x))
        return self.head(torch.relu(y + self.stage2(y)))


def pruned(**options: Any) -> cc.Plan:
    torch.manual_seed(0)
    return cc.prune(Net().eval(), example(), **{"keep": 0.5, **options}).plan


def widths(plan: cc.Plan) -> dict[str, tuple[int, int]]:
    return {group.name: (group.width, group.kept) for group in plan.groups}


ALL = {
    "stem.0.weight": (16, 8),
    "stage1.0.weight": (32, 16),
    "stage2.0.weight": (24, 12),
    "head.0.weight": (20, 10),
}


def without(*names: str) -> dict[str, tuple[int, int]]:
    return {name: both for name, both in ALL.items() if name not in names}


class TestExclude:
    @pytest.mark.parametrize(
        ("exclude", "held"),
        [
            ([], []),
            (["stem"], ["stem.0.weight"]),
            (["stem.*"], ["stem.0.weight"]),
            (["stem.0.weight"], ["stem.0.weight"]),
            (["stem.1"], ["stem.0.weight"]),  # the norm alone
            (["stage2.2"], ["stage1.0.weight"]),  # coupled by the addition
            (["stage2.0"], ["stage2.0.weight"]),
            (["stage2"], ["stage1.0.weight", "stage2.0.weight"]),
            (["head.*"], ["head.0.weight"]),
            (["head.2"], []),  # the output, which stays anyway; its input may shrink
            (["head", "stem"], ["head.0.weight", "stem.0.weight"]),
            ("stem", ["stem.0.weight"]),
            (["s*"], ["stem.0.weight", "stage1.0.weight", "stage2.0.weight"]),
        ],
    )
    def test_by_pattern(self, exclude: Any, held: list[str]) -> None:
        assert widths(pruned(exclude=exclude)) == without(*held)

    def test_by_module(self) -> None:
        model = Net().eval()
        for exclude in ([model.stem], model.stem, [model.stem[0]], (m for m in [model.stem])):
            plan = cc.prune(model, example(), keep=0.5, exclude=exclude).plan
            assert widths(plan) == without("stem.0.weight")
            assert plan.options["exclude"] in (["stem"], ["stem.0"])

    def test_what_goes_in_shrinks_and_what_comes_out_stays(self) -> None:
        model = cc.prune(Net().eval(), example(), keep=0.5, exclude=["stage1"]).model
        assert (model.stage1[0].in_channels, model.stage1[0].out_channels) == (8, 32)
        assert (model.stage2[2].in_channels, model.stage2[2].out_channels) == (12, 32)

    def test_a_norm_beside_layers_does_not_hold_what_comes_in(self) -> None:
        """A head that begins with a norm is excluded for its outputs, not for the width of the backbone."""
        model = nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)), nn.ReLU(), nn.Conv2d(8, 2, 1)
        )
        plan = cc.prune(model.eval(), example(), keep=0.5, exclude=["1"]).plan
        assert widths(plan) == {"0.weight": (16, 8)}
        held = cc.prune(model.eval(), example(), keep=0.5, exclude=["1.0"]).plan
        assert widths(held) == {"1.1.weight": (8, 4)}

    def test_the_pin_says_what_holds(self) -> None:
        result = cc.prune(Net().eval(), example(), keep=0.5, exclude=["stage2.2"])
        (pin,) = [pin for pin in result.groups.pins if "excluded" in pin.reason]
        assert (pin.reason, pin.module, pin.remedy) == ("excluded by 'stage2.2'", "stage2.2", EXCLUDED.remedy)
        assert pin.op == "aten.convolution" and "conv.py" not in pin.source
        slot = next(s for s in result.groups.slots if s.tensor == "stage1.0.weight" and s.axis == 0)
        assert set(slot.channels) == set(pin.channels), "what is coupled shows the pin as well"
        assert [group.index for group in result.groups.groups] == [0, 1, 2]

    @pytest.mark.parametrize("held", ["a.0.weight", "b.0.weight", "c.0.weight"])
    def test_numbers_follow_the_groups_that_are_left(self, held: str) -> None:
        """A width in the closure of a function follows `b`, whatever number its group has now."""
        result = cc.prune(build("Closure"), example(), keep=0.5, exclude=[held])
        assert [group.name for group in result.groups.groups] == [
            n for n in ("a.0.weight", "b.0.weight", "c.0.weight") if n != held
        ]
        assert ("fold.width" in result.plan.attributes.get("", {})) == (held != "b.0.weight")

    def test_everything_excluded(self) -> None:
        with pytest.raises(
            cc.UserError, match=r"No channel is left to remove: every one that could go is excluded by '\*'"
        ):
            pruned(exclude=["*"])

    @pytest.mark.parametrize(
        ("exclude", "text"),
        [
            (["haed.*"], r"exclude: 'haed\.\*' matches no module and no parameter. The nearest names are .*head"),
            (["Stem"], r"'Stem' matches no module and no parameter. .*stem"),
            (["head.1"], r"'head\.1' names no layer that the forward runs and that has channels"),
            ([7], "exclude holds an int"),
            ([nn.Conv2d(3, 3, 1)], r"the Conv2d is no module of this model"),
        ],
    )
    def test_what_matches_nothing(self, exclude: Any, text: str) -> None:
        with pytest.raises(cc.UserError, match=text):
            pruned(exclude=exclude)

    def test_shared_tensors_go_by_all_their_names(self) -> None:
        model = nn.Module()
        model.a, model.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        model.c, model.d = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        model.c.weight = model.b.weight
        model.forward = lambda x: model.d(torch.relu(model.c(torch.relu(model.b(torch.relu(model.a(x)))))))

        class Holder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.c, self.d = model.a, model.b, model.c, model.d

            def forward(self, x: Tensor) -> Tensor:
                return self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))

        with pytest.raises(cc.UserError, match="No channel"):
            cc.prune(Holder().eval(), example(), keep=0.5, exclude=["c.weight"])
        assert cc.prune(Holder().eval(), example(), keep=0.5).proof.passed


class TestKeepByPattern:
    def test_shares(self) -> None:
        plan = pruned(keep={"*": 0.5, "stem": 0.75, "head.*": 1.0})
        assert widths(plan) == {**ALL, "stem.0.weight": (16, 12), "head.0.weight": (20, 20)}

    def test_without_a_default_the_rest_stays(self) -> None:
        plan = pruned(keep={"stem": 0.25})
        assert widths(plan) == {**{n: (w, w) for n, (w, _) in ALL.items()}, "stem.0.weight": (16, 4)}

    def test_the_later_pattern_wins_and_the_default_never_does(self) -> None:
        assert widths(pruned(keep={"stage*": 0.25, "stage2.0": 0.5, "*": 1.0}))["stage2.0.weight"] == (24, 12)
        assert widths(pruned(keep={"stage2.0": 0.5, "stage*": 0.25, "*": 1.0}))["stage2.0.weight"] == (24, 6)

    def test_a_shared_group_takes_the_largest(self) -> None:
        for keep in ({"stage1": 0.25, "stage2.2": 0.75, "*": 1.0}, {"stage1": 0.75, "stage2.2": 0.25, "*": 1.0}):
            assert widths(pruned(keep=keep))["stage1.0.weight"] == (32, 24)
        assert widths(pruned(keep={"stage1": 0.25, "*": 0.5}))["stage1.0.weight"] == (32, 16), "stage2 asks for half"

    def test_beside_a_budget_it_is_the_least(self) -> None:
        free = widths(pruned(keep=None, macs=0.3))
        held = widths(pruned(keep={"stem": 1.0, "stage2.0": 0.9}, macs=0.4))
        assert free["stem.0.weight"][1] < 16 and free["stage2.0.weight"][1] < 22
        assert held["stem.0.weight"] == (16, 16) and held["stage2.0.weight"][1] >= 22
        with pytest.raises(cc.BudgetError, match=r"macs=0\.3 cannot be met"):
            pruned(keep={"*": 0.9}, macs=0.3)

    @pytest.mark.parametrize(
        ("keep", "text"),
        [
            ({"neck.*": 0.5}, r"keep: 'neck\.\*' matches no module"),
            ({"stem": 1.5}, "expected patterns on the names"),
            ({"stem": 0}, "expected patterns on the names"),
            ({"stem": True}, "expected patterns on the names"),
            ({3: 0.5}, "expected patterns on the names"),
            ("half", "keep='half' is not a share"),
            ({"*": 1.0}, None),
        ],
    )
    def test_shares_that_are_none(self, keep: Any, text: str | None) -> None:
        if text is None:
            assert all(kept == width for width, kept in widths(pruned(keep=keep)).values())
            return
        with pytest.raises(cc.UserError, match=text):
            pruned(keep=keep)


class TestLeastWidths:
    def test_min_channels(self) -> None:
        assert widths(pruned(keep=0.1, min_channels=6)) == {n: (w, 6) for n, (w, _) in ALL.items()}
        assert widths(pruned(keep=0.5, min_channels=18)) == {
            "stem.0.weight": (16, 16),
            "stage1.0.weight": (32, 18),
            "stage2.0.weight": (24, 18),
            "head.0.weight": (20, 18),
        }
        assert all(kept >= 8 for _, kept in widths(pruned(keep=None, params=0.2, min_keep=0, min_channels=8)).values())

    def test_min_channels_counts_a_lane(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 2, 1)).eval()
        result = cc.prune(model, example(), keep=0.1, min_channels=3)
        assert result.model[1].num_channels == 12, "four lanes of three"

    @pytest.mark.parametrize(("lengths", "least"), [((8, 8), 6), ((8, 16), 6), ((16, 24), 3), ((4, 4), 4)])
    def test_the_shortest_lane_decides(self, lengths: tuple[int, int], least: int) -> None:
        """A lane of 16 in a group of width 8 keeps two channels a step."""
        lanes = (np.arange(lengths[0]), np.arange(lengths[1]) + lengths[0])
        assert least_width(Group(0, "g", lanes, ()), Budget(keep=0.1, min_channels=6), 0.1) == least

    def test_min_keep(self) -> None:
        plan = pruned(keep=None, macs=0.4, min_keep=0.5)
        assert all(kept >= width / 2 for width, kept in widths(plan).values())

    def test_absolute_budgets(self) -> None:
        whole = pruned(keep=None, macs=0.5)
        by_number = pruned(keep=None, macs=whole.before.macs * 0.5)
        assert widths(by_number) == widths(whole)
        limit = round(whole.before.params * 0.6)
        assert pruned(keep=None, params=limit).after.params <= limit
        with pytest.raises(
            cc.BudgetError, match=r"params=10 cannot be met.*nearest possible budget is params=\d+\. "
        ) as e:
            pruned(keep=None, params=10)
        nearest = int(str(e.value).split("budget is params=")[1].split(".")[0])
        assert pruned(keep=None, params=nearest).after.params <= nearest

    @pytest.mark.parametrize(
        "bad",
        [{"min_channels": 0}, {"min_channels": 2.5}, {"min_keep": 1.5}, {"macs": True, "keep": None}, {"align": 1.5}],
    )
    def test_numbers_that_make_no_sense(self, bad: dict[str, Any]) -> None:
        with pytest.raises(cc.UserError, match="expected"):
            pruned(**bad)
