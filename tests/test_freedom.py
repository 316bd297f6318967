"""Values that meet and bind nothing, and grouped layers that find a way: what must stay free, and proven cuts of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import example
from random_check import difference
from torch import Tensor, nn

import channelcut as cc
from channelcut.core import reasons

FRONT_ENDS = ("dispatch", "export")


class Gate(nn.Module):
    """Ways to weigh every channel of a value by one channel, or by one number."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.g, self.h = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 1), nn.Conv2d(16, 4, 1)
        self.two, self.s = nn.Conv2d(2, 1, 3, padding=1), nn.Parameter(torch.rand(2))
        self.q = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        g = self.g(x).sigmoid()
        if self.how == "times":
            x = x * g
        elif self.how == "after":
            x = g * x + x
        elif self.how == "expanded":
            x = x * g.expand_as(x)
        elif self.how == "widened":
            x = x * g.expand(-1, x.shape[1], *x.shape[2:])
        elif self.how == "repeated":
            x = x * g.repeat(1, x.shape[1], 1, 1)
        elif self.how == "attention unet":
            x = x * F.interpolate(F.avg_pool2d(g, 2), scale_factor=2.0)
        elif self.how == "masked":
            x = torch.where(g > 0.5, x, torch.zeros_like(g))
        elif self.how == "cbam":
            x = x * torch.sigmoid(self.q(x.mean((2, 3), keepdim=True)) + self.q(x.amax((2, 3), keepdim=True)))
            maps = torch.cat([x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)
            x = x * self.two(maps).sigmoid()
        elif self.how == "numbers":
            e = self.s.relu()
            x = x * e[0] + x.tanh() * e[1]
        return self.h(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize(
    "how", ["times", "after", "expanded", "widened", "repeated", "attention unet", "masked", "cbam", "numbers"]
)
def test_one_channel_holds_nothing_that_it_weighs(how: str, front_end: str) -> None:
    if front_end == "export" and how in ("widened", "repeated"):
        pytest.skip("torch.export does not show where sizes come from")
    model = Gate(how).eval()
    result = cc.prune(model, example(), keep=0.5, tracer=front_end)
    assert result.proof.passed
    assert result.model.a.out_channels == 8
    held = [pin for pin in result.groups.pins if pin.reason == reasons.ONE_FOR_ALL.text]
    assert len(held) == (how != "numbers")  # the numbers of a parameter are no channels
    assert all(pin.remedy for pin in held)
    error = difference(model, result, (example(seed=3),), masks=how != "cbam")  # whose means and maxima are of the kept
    assert error is None or error < 1e-9


def test_channels_whose_positions_are_read_stay() -> None:
    """A maximum over channels may be of the kept ones, but its position means another channel after a cut."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h = nn.Conv2d(3, 16, 1), nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            value, position = self.a(x).max(1, keepdim=True)
            return self.h(value * position)  # type: ignore[no-any-return]

    groups = cc.analyze(Net().eval(), example())
    assert not groups.groups
    assert reasons.OVER_CHANNELS.text in {pin.reason for pin in groups.pins}


class Split(nn.Module):
    """Branches that are weighed against each other channel by channel (ResNeSt, SK)."""

    def __init__(self, how: str, c: int = 16) -> None:
        super().__init__()
        self.how = how
        self.a, self.f, self.g = nn.Conv2d(3, 2 * c, 3), nn.Conv2d(c, 8, 1), nn.Conv2d(8, 2 * c, 1)
        self.b, self.d, self.h = nn.Conv2d(3, c, 3), nn.Conv2d(3, c, 3), nn.Conv2d(c, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "stacked":
            y = torch.stack([self.b(x), self.d(x)], 1)
        else:
            y = self.a(x)
            y = y.view(y.shape[0], 2, y.shape[1] // 2, *y.shape[2:])
        s = self.g(self.f(y.sum(1).mean((2, 3), keepdim=True)).relu()).view(y.shape[0], 2, y.shape[2])
        s = {"max": lambda: s / (1 + s.abs().amax(1, keepdim=True))}.get(self.how, lambda: s.softmax(1))()
        y = y * s[..., None, None]
        return self.h(y.mean(1) if self.how == "mean" else y.sum(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("how", ["softmax", "stacked", "max", "mean"])
def test_copies_of_a_channel_decide_about_each_other_alone(how: str, front_end: str) -> None:
    model = Split(how).eval()
    result = cc.prune(model, example(), keep=0.5, tracer=front_end)
    assert {pin.reason for pin in result.groups.pins} == {reasons.OUTPUT.text}
    assert sorted(len(group.channels) for group in result.groups.groups) == [8, 16]
    error = difference(model, result, (example(seed=3),), masks=True)
    assert error is not None
    assert error < 1e-9


class Branches(nn.Module):
    """ESPNetv2: branches that are added, concatenated and reduced by a grouped layer."""

    def __init__(self) -> None:
        super().__init__()
        self.r, self.h = nn.Conv2d(3, 16, 1), nn.Conv2d(64, 4, 1)
        self.d = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=k, dilation=k, groups=16) for k in (1, 2, 3, 4))
        self.g = nn.Conv2d(64, 64, 1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.r(x)
        ys = [self.d[0](x)]
        for layer in self.d[1:]:
            ys.append(layer(x) + ys[-1])
        return self.h(self.g(torch.cat(ys, 1)))  # type: ignore[no-any-return]


class GroupedShuffle(nn.Module):
    """ShuffleNet: a grouped layer, a shuffle and another grouped layer inside a residual."""

    def __init__(self, c: int = 48, g: int = 4) -> None:
        super().__init__()
        self.g = g
        self.i, self.h = nn.Conv2d(3, c, 1), nn.Conv2d(c, 4, 1)
        self.a, self.b = nn.Conv2d(c, c, 1, groups=g), nn.Conv2d(c, c, 1, groups=g)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        y = self.a(x)
        n, c, h, w = y.shape
        return self.h(x + self.b(y.view(n, self.g, c // self.g, h, w).transpose(1, 2).reshape(n, c, h, w)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [Branches(), GroupedShuffle()], ids=lambda m: type(m).__name__)
def test_where_no_whole_group_can_go_every_group_loses_channels(model: nn.Module) -> None:
    groups = cc.analyze(model.eval(), example(), grouped="groups")
    assert reasons.ALL_TOGETHER.text in {pin.reason for pin in groups.pins}
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed
    assert result.plan.params_ratio < 0.45
    assert cc.prove(model, result.model, cc.Plan.from_dict(result.plan.to_dict()), example()).passed
    error = difference(model, result, (example(seed=3),))
    assert error is not None
    assert error < 1e-9


def test_where_whole_groups_can_go_they_do() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=8), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    assert cc.prune(model, example(), keep=0.5).model[1].groups == 4


class Own(nn.Module):
    """As many groups as channels, by a module or by a number that follows a width."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.c = how, 16
        self.a, self.n, self.h = nn.Conv2d(3, 16, 1), nn.GroupNorm(16, 16), nn.Conv2d(16, 4, 1)
        self.w, self.k = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "module":
            x = self.n(x)
        elif self.how == "shape":
            x = F.group_norm(x, x.shape[1], self.w)
        elif self.how == "attribute":
            x = F.group_norm(x, num_groups=self.c, weight=self.w)
        elif self.how == "depthwise":
            x = F.conv2d(x, self.k, groups=self.c)
        elif self.how == "transposed":
            x = F.conv_transpose2d(x, self.k, None, 1, 0, 0, x.shape[1])
        return self.h(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["module", "shape", "attribute", "depthwise", "transposed"])
def test_groups_of_one_channel_go_with_their_channels(how: str) -> None:
    model = Own(how).eval()
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed
    assert result.model.a.out_channels == 8
    assert (result.model.n.num_groups, result.model.n.num_channels) == ((8, 8) if how == "module" else (16, 16))
    assert result.model.c == (8 if how in ("attribute", "depthwise") else 16)
    error = difference(model, result, (example(seed=3),))
    assert error is not None
    assert error < 1e-9


@pytest.mark.parametrize(("groups", "channels"), [(4, 4), (5, 5), (3, 9), (1, 7)])
def test_a_norm_of_groups_loses_what_it_can(groups: int, channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, channels, 1), nn.GroupNorm(groups, channels), nn.Conv2d(channels, 4, 1)).eval()
    assert sum(len(group.channels) for group in cc.analyze(model, example()).groups) == channels


def test_what_can_never_lose_a_channel_is_held_and_said() -> None:
    """One channel by itself, and pieces of which no share is a whole number."""

    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.a, self.b, self.h = (
                nn.Conv2d(3, 1, 1),
                nn.Conv2d(1, 14, 1),
                nn.Conv2d(1, 15, 1),
                nn.Conv2d(29, 4, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.h(torch.cat([self.a(x), self.b(x)], 1))  # type: ignore[no-any-return]

    groups = cc.analyze(Pieces().eval(), example())
    assert sorted(len(group.channels) for group in groups.groups) == [14, 15]
    pin = next(pin for pin in groups.pins if pin.reason == reasons.ONE_CHANNEL.text)
    assert (pin.module, len(pin.channels)) == ("one", 1)
    assert [f for f in groups.findings if f.check == "steps"]


class Normalised(nn.Module):
    """Norms over the channels that are written by hand."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.n = how, nn.LayerNorm((16, 1, 1))
        self.a, self.q, self.h = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "global context":
            x = x + self.q(self.n(x.mean((2, 3), keepdim=True)).relu())
        elif self.how == "var":
            x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
        elif self.how == "std":
            x = x / (x.std(1, correction=0, keepdim=True) + 1e-3)
        elif self.how == "var_mean":
            v, m = torch.var_mean(x, 1, unbiased=False, keepdim=True)
            x = (x - m) * (v + 1e-3).rsqrt()
        elif self.how == "normalize":
            x = F.normalize(x, dim=1)
        return self.h(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("how", ["global context", "var", "std", "var_mean", "normalize"])
def test_norms_by_hand_are_over_what_is_kept(how: str, front_end: str) -> None:
    result = cc.prune(Normalised(how).eval(), example(), keep=0.5, tracer=front_end)
    assert result.proof.passed
    assert result.model.h.in_channels == 8


class Token(nn.Module):
    """A learned token in front of the others, repeated for the batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.token, self.flat = how, nn.Parameter(torch.rand(1, 1, 16)), nn.Parameter(torch.rand(16))
        self.p, self.f, self.h = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.p(x).flatten(2).transpose(1, 2)
        n = x.shape[0]
        tokens = {
            "expand": lambda: self.token.expand(n, -1, -1),
            "repeat": lambda: self.token.repeat(n, 1, 1),
            "flat": lambda: self.flat.expand(n, 1, -1),
        }[self.how]()
        x = torch.cat([tokens, x], 1)
        return self.h((x + self.f(x))[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("how", ["expand", "repeat", "flat"])
def test_a_token_is_no_weight_whatever_the_batch(how: str, batch: int, front_end: str) -> None:
    x = example()[:1].repeat(batch, 1, 1, 1)
    result = cc.prune(Token(how).eval(), x, keep=0.5, tracer=front_end)
    assert result.proof.passed
    assert result.model.p.out_channels == 8


class OuterProduct(nn.Module):
    """The sum over positions of the products of `few` channels with `many`: a product with channels on both sides."""

    def __init__(self, few: int, many: int) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, few, 1), nn.Conv2d(3, many, 1), nn.Linear(many, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.left(x).flatten(2) @ self.right(x).flatten(2).mT)


def test_of_two_sets_in_an_outer_product_the_left_stays() -> None:
    x, model = torch.randn(2, 3, 6, 6), OuterProduct(4, 16).eval()
    groups = cc.analyze(model, x)
    assert [len(pin.channels) for pin in groups.pins if pin.reason == reasons.OUTER_PRODUCT.text] == [4]
    result = cc.prune(model, x, keep=0.5)
    assert result.proof.passed
    assert result.model.right.out_channels == 8
    assert result.model.left.out_channels == 4


class ChannelAttention(nn.Module):
    """Channels of a head decide about each other, and each head has one temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 24), nn.Linear(8, 5)
        self.temperature = nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 4, 1).unbind(0)
        attention = (q @ k.mT * self.temperature).softmax(-1)
        return self.head((attention @ v).permute(0, 3, 1, 2).reshape(batch, tokens, width))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_products_of_channels_with_each_other_hold_them(front_end: str) -> None:
    """The heads of one side are tied by the temperatures after its rule has run, which must not turn to the other."""
    groups = cc.analyze(ChannelAttention().eval(), torch.randn(2, 3, 4, 4), tracer=front_end)
    assert any(pin.reason == reasons.OUTER_PRODUCT.text for pin in groups.pins)
    assert not groups.groups
