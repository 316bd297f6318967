"""Masks: a write of one value is element by element; what the inputs alone decide holds nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.reasons import INDEXED


class Masked(nn.Module):
    """Two layers with a step before, between or after them."""

    def __init__(self, before: Callable[[Tensor], Tensor] | None = None, between: Callable[..., Tensor] | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 4, 1)
        self.before, self.between = before, between

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x if self.before is None else self.before(x))
        return self.head(self.b(y if self.between is None else self.between(y, x)).relu())


def hue(x: Tensor) -> Tensor:
    """From red, green and blue, as in HSV."""
    found = torch.zeros(x.shape[0], x.shape[2], x.shape[3])
    most, least = x.max(1)[0], x.min(1)[0]
    found[x[:, 2] == most] = 4.0 + ((x[:, 0] - x[:, 1]) / (most - least + 1e-8))[x[:, 2] == most]
    found[x[:, 0] == most] = (((x[:, 1] - x[:, 2]) / (most - least + 1e-8))[x[:, 0] == most]) % 6
    found[least == most] = 0.0
    return torch.stack([found, most, least], 1)


def normalised(x: Tensor) -> Tensor:
    """By what is bright, as many as there are."""
    return x / x[x > 0.5].mean()


def clipped(x: Tensor) -> Tensor:
    y = x.clone()
    y.permute(0, 2, 3, 1)[(x > 0.8).all(1)] = 0.8
    return y


def rectified(y: Tensor, x: Tensor) -> Tensor:
    y[y < 0] = 0
    return y


def capped(y: Tensor, x: Tensor) -> Tensor:
    return torch.index_put(y, [y.abs() > 0.4], torch.tensor(0.4))


def blanked(y: Tensor, x: Tensor) -> Tensor:
    """A mask of pixels, of the input."""
    z = y.permute(0, 2, 3, 1).clone()
    z[x[:, 0] > 0.5] = 0.25
    return z.permute(0, 3, 1, 2)


def blanked_samples(y: Tensor, x: Tensor) -> Tensor:
    y[x.mean((1, 2, 3)) > 0.5] = 0.25
    return y


@pytest.mark.parametrize("step", [hue, normalised, clipped])
def test_what_the_input_decides_before_the_first_layer_holds_nothing(step: Callable[[Tensor], Tensor]) -> None:
    result = cc.prune(Masked(before=step).eval(), torch.rand(2, 3, 8, 8), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(16, 8), (24, 12)]
    other = torch.rand(2, 3, 8, 8)  # with another number of values behind each mask
    assert result.model(other).shape == (2, 4, 6, 6)


@pytest.mark.parametrize("step", [rectified, capped, blanked, blanked_samples])
def test_one_value_that_is_written_by_a_mask_is_element_by_element(step: Callable[..., Tensor]) -> None:
    result = cc.prune(Masked(between=step).eval(), torch.rand(2, 3, 8, 8), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(16, 8), (24, 12)]


def test_values_that_a_mask_of_channels_picks_hold_these() -> None:
    groups = cc.analyze(Masked(between=lambda y, x: y * y[y > 0.1].mean()).eval(), torch.rand(2, 3, 8, 8))
    assert [g.width for g in groups.groups] == []


class Tokens(nn.Module):
    """A token stands where the input says so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head, self.token = nn.Linear(6, 16), nn.Linear(16, 4), nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y[x[..., 0] > 0.5] = self.token
        return self.head(y)


def test_a_token_written_by_a_mask_goes_with_the_channels() -> None:
    result = cc.prune(Tokens().eval(), torch.rand(2, 7, 6), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(16, 8)] and result.model.token.shape == (8,)


class Rows(nn.Module):
    """Only the rows that the input marks go on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x)[x[..., 0] > 0.5].relu())


def test_rows_that_the_input_marks_keep_their_channels() -> None:
    result = cc.prune(Rows().eval(), torch.rand(2, 7, 6), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(16, 8)]
    assert INDEXED.text not in {pin.reason for pin in result.groups.pins}


class Emptied(nn.Module):
    """Memory that is given back, as reversible blocks do."""

    def __init__(self, data: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head, self.data = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1), data

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y.relu()) + y
        (y.data if self.data else y).set_()
        return self.head(z)


@pytest.mark.parametrize("data", [False, True])
def test_a_tensor_that_is_emptied_holds_nothing(data: bool) -> None:
    result = cc.prune(Emptied(data).eval(), torch.rand(2, 3, 8, 8), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(16, 8)]


class Window(nn.Module):
    """Attention in a window, with a bias that a table of positions picks from a table of numbers."""

    def __init__(self, heads: int = 2, size: int = 9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.qkv, self.proj = heads, nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(12, heads))
        self.register_buffer("index", torch.randint(0, 12, (size, size)))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        attention = (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))


def test_a_table_of_positions_has_no_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), Window(), Window(), nn.Linear(16, 4)).eval()
    result = cc.prune(model, torch.rand(2, 9, 6), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(8, 4), (8, 4), (16, 8)]
    assert result.model[1].index.shape == (9, 9)


class Chosen(nn.Module):
    """A mask of several axes that the inputs alone decide picks places or channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b = how, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        found = self.b(y)
        if self.how == "channels":
            return found, found[targets > 0]
        if self.how == "places":
            return found, self.b(y[:, :, targets[0, 0] > 0][..., None])
        return found, y.permute(0, 2, 3, 1)[targets[:, 0] > 0]


@pytest.mark.parametrize(("how", "free"), [("channels", True), ("places", True), ("rows", False)])
def test_a_mask_of_several_axes_picks(how: str, free: bool) -> None:
    model, inputs = Chosen(how).eval(), (torch.rand(1, 3, 8, 8), torch.randn(1, 4, 8, 8))
    assert bool(cc.analyze(model, inputs).groups) == free
    if free:
        result = cc.prune(model, inputs, keep=0.5)
        assert (result.proof.passed, result.model.a.out_channels) == (True, 4)
