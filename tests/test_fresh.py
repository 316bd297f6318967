"""Tensors that the forward makes follow the widths that their sizes were taken from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.reasons import FIXED_TENSOR, RANDOM
from channelcut.ops.registry import OPS, op


class Middle(nn.Module):
    """A function between two layers, which may read a layer of its own."""

    def __init__(
        self, function: Callable[[Any, Tensor], Tensor], out: int = 16, layer: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(out, 8, 1), nn.Conv2d(8, 4, 1)
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.function(self, self.a(x).relu())))


def shifted(net: Any, x: Tensor) -> Tensor:
    """A quarter of the channels comes from the next moment, a quarter from the one before."""
    n, c, h, w = x.shape
    x, fold = x.view(1, n, c, h, w), c // 4
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.view(n, c, h, w)


def rows_moved(net: Any, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :, 1:].copy_(x[:, :, :-1])
    return out


def interleaved(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    out = torch.empty(n, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2], out[:, :, 1::2, ::2] = x, x * 2
    out[:, :, ::2, 1::2], out[:, :, 1::2, 1::2] = x + 1, -x
    return out


def volume(net: Any, x: Tensor) -> Tensor:
    """Left and right at four disparities, one after the other along the channels."""
    n, c, h, w = x.shape
    cost = x.new_zeros(n, 2 * c, 4, h, w)
    for i in range(4):
        cost[:, :c, i, :, i:] = x[..., i:]
        cost[:, c:, i, :, i:] = x[..., : w - i]
    return net.layer(cost).squeeze(2)


def zero_channels(net: Any, x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(x.shape)], 1)


FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "zeros_like": (lambda net, x: torch.where(x > 0.1, x, torch.zeros_like(x)),),
    "full_like": (lambda net, x: torch.minimum(x, torch.full_like(x, 0.5)),),
    "zeros": (lambda net, x: torch.maximum(x, torch.zeros(1, x.shape[1], 1, 1)),),
    "zeros of a list": (lambda net, x: torch.maximum(x, torch.zeros([1, x.size(1), 1, 1], dtype=x.dtype)),),
    "full": (lambda net, x: torch.minimum(x, torch.full((1, x.shape[1], 1, 1), 0.5)),),
    "new_ones": (lambda net, x: x * x.new_ones(x.size()),),
    "rows moved": (rows_moved,),
    "temporal shift": (shifted,),
    "empty, then written": (interleaved,),
    "circular": (lambda net, x: F.pad(x, (1, 1, 1, 1), mode="circular"),),
    "circular layer": (lambda net, x: net.layer(x), 12, nn.Conv2d(16, 12, 3, padding=1, padding_mode="circular")),
    "cost volume": (volume, 12, nn.Conv3d(32, 12, (4, 1, 1))),
    "channels of zeros": (zero_channels, 32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_tensor_of_one_number_follows(name: str) -> None:
    torch.manual_seed(0)
    result = cc.prune(Middle(*FUNCTIONS[name]).eval(), example(), keep=0.5)
    assert result.proof.passed and result.model.a.out_channels == 8
    assert not [pin for pin in result.groups.pins if pin.reason == FIXED_TENSOR.text]


class Cell(nn.Module):
    """A convolutional LSTM, which starts from zeros of a width that it keeps as a number."""

    def __init__(self, i: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.conv = hidden, nn.Conv2d(i + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, moments: int = 2) -> Tensor:
        h = torch.zeros(x.shape[0], self.hidden, *x.shape[2:], device=self.conv.weight.device)
        c = torch.zeros_like(h)
        for _ in range(moments):
            i, f, o, g = torch.split(self.conv(torch.cat([x, h], 1)), self.hidden, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


def test_a_state_of_zeros_follows_the_number_that_it_was_made_of() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Cell(8, 12), nn.Conv2d(12, 4, 1)).eval()
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed and result.model[2].hidden == 6
    assert result.model[2].conv.weight.shape == (24, 10, 3, 3)


class Sequence(nn.Module):
    """torch's own LSTM, started from zeros of the network's own number."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.lstm, self.head = 12, nn.LSTM(5, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, x.size(0), self.hidden)
        return self.head(self.lstm(x, (start, start.clone()))[0])


def test_states_of_a_recurrent_layer_follow_its_units() -> None:
    torch.manual_seed(0)
    result = cc.prune(Sequence().eval(), torch.randn(2, 4, 5), keep=0.5)
    assert result.proof.passed and result.model.hidden == result.model.lstm.hidden_size == 6


def test_a_size_that_is_written_out_stays() -> None:
    groups = cc.analyze(Middle(lambda net, x: torch.maximum(x, torch.zeros(1, 16, 1, 1))).eval(), example())
    assert [group.name for group in groups.groups] == ["b.weight"]
    assert FIXED_TENSOR.text in {pin.reason for pin in groups.pins}


def test_positions_and_random_numbers_do_not_follow() -> None:
    def positions(net: Any, x: Tensor) -> Tensor:
        return x * torch.arange(x.shape[1]).view(1, -1, 1, 1)

    def noise(net: Any, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    for function, reason in ((positions, FIXED_TENSOR), (noise, RANDOM)):
        groups = cc.analyze(Middle(function).eval(), example())
        assert [group.name for group in groups.groups] == ["b.weight"]
        assert reason.text in {pin.reason for pin in groups.pins}


def test_noise_that_all_channels_share_is_drawn_once_for_both_networks() -> None:
    def noise(net: Any, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape[0], 1, x.shape[2], x.shape[3]) + x.new_empty(1, 1, 1, x.shape[3]).normal_()

    result = cc.prune(Middle(noise).eval(), example(), keep=0.5)
    assert result.proof.passed and result.model.a.out_channels == 8


def test_a_wrong_follower_is_refused() -> None:
    """A ramp is said to be one number everywhere: the proof sees that its elements differ."""
    before = dict(OPS)
    try:
        OPS["aten.cumsum"] = type(op("aten.cumsum"))("aten.cumsum", rule=OPS["aten.abs"].rule)
        ramp = Middle(lambda net, x: x * torch.ones_like(x).cumsum(1)).eval()
        with pytest.raises(cc.ProofError):
            cc.prune(ramp, example(), keep=0.5)
    finally:
        OPS.clear()
        OPS.update(before)
