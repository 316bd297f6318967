"""What a linear layer gives, viewed as an image; and channels that a layer reads along another axis than its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.reasons import HARD_CODED_WIDTH, MIXES_OTHER_AXIS


class Generator(nn.Module):
    """A decoder as in GANs and autoencoders: linear, view, norm, transposed convolutions."""

    def __init__(self, view: Callable[[Any, Tensor], Tensor], first: nn.Module) -> None:
        super().__init__()
        self.width, self.view, self.first = 32, view, first
        self.linear, self.flat, self.norm = nn.Linear(8, 512), nn.BatchNorm1d(512), nn.BatchNorm2d(32)
        self.last = nn.ConvTranspose2d(16, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.view(self, F.relu(self.flat(self.linear(x))))
        return self.last(F.relu(self.first(F.relu(self.norm(x)))))


def transposed() -> nn.Module:
    return nn.ConvTranspose2d(32, 16, 4, 2, 1)


VIEWS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], nn.Module]]] = {
    "-1": (lambda net, x: x.view(x.shape[0], -1, 4, 4), transposed),
    "an attribute": (lambda net, x: x.view(-1, net.width, 4, 4), transposed),
    "a share of the width": (lambda net, x: x.reshape(len(x), x.shape[1] // 16, 4, 4), transposed),
    "unflatten": (lambda net, x: x.unflatten(1, (-1, 4, 4)), transposed),
    "resized": (
        lambda net, x: F.max_pool2d(F.interpolate(x.view(len(x), -1, 4, 4), scale_factor=4), 2),
        lambda: nn.Conv2d(32, 16, 3, 1, 1),
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_all_positions_of_a_channel_go_together(name: str) -> None:
    torch.manual_seed(0)
    view, first = VIEWS[name]
    model = Generator(view, first()).eval()
    x = torch.randn(2, 8)
    result = cc.prune(model, x, keep=0.5)
    assert result.proof.passed and result.proof.training == "passed"
    assert (result.model.linear.out_features, result.model.norm.num_features) == (256, 16)
    assert result.model(x).shape == model(x).shape


def test_a_layer_that_views_keeps_its_own_sizes() -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(8, 512), nn.ReLU(), nn.Unflatten(1, (32, 4, 4)), transposed(), nn.ReLU(), nn.Conv2d(16, 3, 1))
    result = cc.prune(nn.Sequential(*layers).eval(), torch.randn(2, 8), keep=0.5)
    assert result.proof.passed and result.model[2].unflattened_size == (16, 4, 4)


def test_a_width_that_is_written_out_stays() -> None:
    torch.manual_seed(0)
    groups = cc.analyze(Generator(lambda net, x: x.view(-1, 32, 4, 4), transposed()).eval(), torch.randn(2, 8))
    assert [group.name for group in groups.groups] == ["first.weight"]
    assert HARD_CODED_WIDTH.text in {pin.reason for pin in groups.pins}


class Autoencoder(nn.Module):
    """The decoder's view has the shape that the encoder had."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mean, self.back = nn.Conv2d(3, 16, 4, 4), nn.Linear(256, 6), nn.Linear(6, 256)
        self.b = nn.ConvTranspose2d(16, 3, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.b(self.back(self.mean(y.flatten(1))).view(y.shape))


def test_two_widths_of_one_shape_keep_the_same_share() -> None:
    torch.manual_seed(0)
    result = cc.prune(Autoencoder().eval(), example(), keep=0.5)
    assert result.proof.passed
    assert (result.model.a.out_channels, result.model.back.out_features, result.model.mean.out_features) == (8, 128, 3)


class Bank(nn.Module):
    """The channels of a filter bank are the width of an image that other layers read."""

    def __init__(self, read: nn.Module) -> None:
        super().__init__()
        self.bank, self.read, self.head = nn.Conv1d(1, 16, 9, 4), read, nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.bank(x).abs().transpose(1, 2)[:, None]).relu())


@pytest.mark.parametrize("read", [nn.Conv2d(1, 32, 3, 1, 1), nn.ConvTranspose2d(1, 32, 3)], ids=["conv", "transposed"])
def test_an_odd_input_holds_what_it_reads_and_not_what_it_gives(read: nn.Module) -> None:
    torch.manual_seed(0)
    result = cc.prune(Bank(read).eval(), torch.randn(1, 1, 400), keep=0.5)
    assert result.proof.passed and [(g.width, g.kept) for g in result.plan.groups] == [(32, 16)]
    (pin,) = [pin for pin in result.groups.pins if pin.reason == MIXES_OTHER_AXIS.text]
    assert len(pin.channels) == 16


def test_a_linear_layer_over_positions_gives_channels_of_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    result = cc.prune(model, torch.randn(2, 3, 20), keep=0.5)
    assert result.proof.passed and [(g.width, g.kept) for g in result.plan.groups] == [(12, 6)]


class HeadsInTheBatch(nn.Module):
    """Every head is a sample of its own, and one small layer reads them all."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.each = heads, 24 // heads
        self.a, self.mask, self.head = nn.Conv2d(3, 24, 1), nn.Conv2d(self.each, 1, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        b, _, h, w = y.shape
        z = y.view(b * self.heads, self.each, h, w)
        z = z * self.mask(z).sigmoid()
        return self.head(z.view(b, self.heads * self.each, h, w))


def test_heads_that_are_counted_with_the_batch_lose_the_same_share_each() -> None:
    """`batch * self.heads` is taken from a shape and yet follows no channels: `self.each` does."""
    result = cc.prune(HeadsInTheBatch().eval(), torch.rand(2, 3, 8, 8), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [(6, 3)]
    assert result.model.mask.weight.shape == (1, 3, 1, 1) and result.model.each == 3
