"""Widths that a forward wants to be multiples of a number."""

from __future__ import annotations

import pytest
import torch
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.allocation.steps import width_alignment
from channelcut.core import reasons


class Asks(nn.Module):
    """Ways to ask for a multiple of four."""

    def __init__(self, how: str, width: int = 40) -> None:
        super().__init__()
        self.how, self.width, self.four = how, width, 4
        self.a, self.b, self.h = nn.Conv2d(3, width, 1), nn.Conv2d(3, 12, 1), nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n, c, h, w = y.shape
        if self.how == "assert":
            assert c % 4 == 0
        elif self.how == "branch":
            if c % self.four:
                raise ValueError("no multiple of four")
        elif self.how == "attribute":
            assert self.width % 4 == 0
            y = y.view(n, self.width, h, w)
        elif self.how == "shuffle":
            assert c % 4 == 0
            y = y.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
            y = torch.cat([y[0], y[1]], 1)
        elif self.how == "twice":
            assert 2 * c % 8 == 0
        elif self.how == "sum":
            assert (c + self.b(x).shape[1]) % 4 == 0
        return self.h(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["assert", "branch", "attribute", "shuffle", "twice", "sum"])
@pytest.mark.parametrize("keep", [0.55, 0.3])
def test_what_is_kept_is_a_multiple(how: str, keep: float) -> None:
    model = Asks(how).eval()
    result = cc.prune(model, example(), keep=keep)
    assert result.proof.passed
    left = result.model.h.in_channels
    assert left % 4 == 0
    assert abs(left - 40 * keep) <= 4
    assert {pin.reason for pin in result.groups.pins} <= {reasons.OUTPUT.text}


def test_multiples_and_alignment_agree() -> None:
    model = Asks("assert", 48).eval()
    groups = cc.analyze(model, example())
    (group,) = (g for g in groups.groups if g.name == "a.weight")
    assert (group.step, group.width) == (4, 12)
    assert [width_alignment(groups, group, align) for align in (1, 4, 8, 16, 3)] == [1, 1, 2, 4, 3]
    assert cc.prune(model, example(), keep=0.4, align=16).model.h.in_channels == 16


def test_only_multiples_are_taken_by_hand() -> None:
    model = Asks("assert").eval()
    plan = cc.plan(model, cc.analyze(model, example()), keep=0.5)
    assert len(plan.with_kept("a.weight", range(8)).kept["a.weight"][0]) == 8
    with pytest.raises(cc.UserError, match="multiple of 4"):
        plan.with_kept("a.weight", range(9))


@pytest.mark.parametrize("width", [4, 12])
def test_a_width_of_which_no_smaller_one_is_a_multiple_is_held(width: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h = nn.Conv2d(3, width, 1), nn.Conv2d(width, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            assert x.shape[1] % width == 0
            return self.h(x)  # type: ignore[no-any-return]

    groups = cc.analyze(Net().eval(), example())
    assert not groups.groups
    pin = next(pin for pin in groups.pins if pin.reason == reasons.MULTIPLE_OF_WIDTH.text)
    assert pin.remedy


def test_what_is_left_over_in_space_holds_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            assert x.shape[2] % 16 == 0
            return self.h(x)  # type: ignore[no-any-return]

    (group,) = cc.analyze(Net().eval(), example()).groups
    assert group.step == 1


class Divided(nn.Module):
    """Pieces whose width is one attribute divided by another, which are read by a layer each."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.width, self.paths, self.more = how, 24, 2, 3
        self.a, self.h = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 4, 1)
        self.b = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        piece = {
            "attributes": self.width // self.paths,
            "twice": self.width // self.paths // (self.more - 2),
            "shape": x.shape[1] // self.paths,
        }[self.how]
        return self.h(torch.cat([conv(part) for conv, part in zip(self.b, x.split(piece, 1), strict=True)], 1))


@pytest.mark.parametrize("how", ["attributes", "twice", "shape"])
def test_an_attribute_may_be_divided_by_another(how: str) -> None:
    """As selective kernels do: what divides keeps its value, and what is divided follows."""
    model = Divided(how).eval()
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed
    assert {pin.reason for pin in result.groups.pins} == {reasons.OUTPUT.text}
    assert [conv.in_channels for conv in result.model.b] == [6, 6]
    assert result.model.paths == 2
    assert result.model.width == (24 if how == "shape" else 12)
