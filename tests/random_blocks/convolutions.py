"""Convolutions of every sort, pooling and resizing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import (
    ACTIVATIONS,
    LARGEST,
    NORMS,
    WIDTHS,
    Options,
    Shape,
    activation,
    block,
    divisor,
    multiple,
    norm,
)


@block(
    "conv",
    width=WIDTHS,
    kernel=(1, 3),
    groups=(1, 1, 1, 2, 4),
    dilation=(1, 1, 2),
    bias=(True, False),
    norm=NORMS,
    act=ACTIVATIONS,
)
class Conv(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        groups = divisor(shape[0], o.groups)
        width = multiple(o.width, groups)
        self.conv = nn.Conv2d(
            shape[0],
            width,
            o.kernel,
            padding=o.dilation * (o.kernel // 2),
            groups=groups,
            dilation=o.dilation,
            bias=o.bias,
        )
        self.norm, self.act = norm(o.norm, width), activation(o.act, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


@block("depthwise", multiplier=(1, 2), bias=(True, False), norm=NORMS, act=ACTIVATIONS, width=(0, *WIDTHS))
class Depthwise(nn.Module):
    """Depthwise, and pointwise where a width is wished for."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        inner = shape[0] * (o.multiplier if shape[0] * o.multiplier <= 32 else 1)
        self.deep = nn.Conv2d(shape[0], inner, 3, padding=1, groups=shape[0], bias=o.bias)
        self.norm, self.act = norm(o.norm, inner), activation(o.act, inner)
        self.point = nn.Conv2d(inner, o.width, 1) if o.width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.act(self.norm(self.deep(x))))


@block("transposed", width=WIDTHS, groups=(1, 1, 2, 99), bias=(True, False), norm=NORMS)
class Transposed(nn.Module):
    """Twice the resolution where it is small, else the same; `groups=99` is depthwise."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        groups = divisor(shape[0], o.groups)
        width = multiple(o.width, groups)
        size = {"kernel_size": 2, "stride": 2} if 2 * shape[1] <= LARGEST else {"kernel_size": 3, "padding": 1}
        self.up = nn.ConvTranspose2d(shape[0], width, groups=groups, bias=o.bias, **size)
        self.norm = norm(o.norm, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.up(x)))


@block("rows", width=WIDTHS, groups=(1, 1, 2), norm=(False, True))
class Rows(nn.Module):
    """A convolution along the flattened map."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        groups = divisor(shape[0], o.groups)
        width = multiple(o.width, groups)
        self.conv = nn.Conv1d(shape[0], width, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm1d(width) if o.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = self.norm(self.conv(x.flatten(2)))
        return F.relu(y).reshape(n, -1, h, w)


@block("pool", how=("max", "avg", "adaptive", "stride", "focus", "unshuffle", "spp"), width=WIDTHS)
class Pool(nn.Module):
    """Half the resolution where there is enough of it."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        small = shape[1] < 4 or shape[1] % 2 or shape[2] % 2
        self.how = "none" if small else o.how
        extra = {"focus": 4, "unshuffle": 4, "spp": 3}.get(self.how, 1)
        self.conv = nn.Conv2d(extra * shape[0], o.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "max":
            x = F.max_pool2d(x, 2)
        elif self.how == "avg":
            x = F.avg_pool2d(x, 2)
        elif self.how == "adaptive":
            x = F.adaptive_avg_pool2d(x, (4, 4))
        elif self.how == "stride":
            x = x[..., ::2, ::2]
        elif self.how == "focus":
            x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        elif self.how == "unshuffle":
            x = F.pixel_unshuffle(x, 2)
        elif self.how == "spp":
            a = F.max_pool2d(x, 3, 1, 1)
            x = torch.cat([x, a, F.max_pool2d(a, 3, 1, 1)], 1)
        return self.conv(x)


@block("upsample", how=("nearest", "bilinear", "shuffle", "size"), width=WIDTHS)
class Upsample(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how if 2 * max(shape[1:]) <= LARGEST else "none"
        self.conv = nn.Conv2d(shape[0], o.width * (4 if self.how == "shuffle" else 1), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.how == "nearest":
            x = F.interpolate(x, scale_factor=2)
        elif self.how == "bilinear":
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        elif self.how == "size":
            x = F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]))
        elif self.how == "shuffle":
            x = F.pixel_shuffle(x, 2)
        return torch.tanh(x)


@block("functional", how=("plain", "scaled", "standardised", "permuted", "matmul"), width=WIDTHS, bias=(True, False))
class Functional(nn.Module):
    """Weights that the forward applies itself."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how
        matrix = o.how in ("permuted", "matmul")
        self.weight = nn.Parameter(torch.randn(o.width, shape[0]) if matrix else torch.randn(o.width, shape[0], 1, 1))
        self.scale = nn.Parameter(torch.rand(o.width, 1, 1, 1)) if o.how == "scaled" else None
        self.bias = nn.Parameter(torch.randn(o.width)) if o.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "permuted":
            return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        if self.how == "matmul":
            y = torch.matmul(x.permute(0, 2, 3, 1), self.weight.t())
            y = y if self.bias is None else y + self.bias
            return y.permute(0, 3, 1, 2)
        weight = self.weight
        if self.scale is not None:
            weight = weight * self.scale
        if self.how == "standardised":
            weight = weight / (1 + weight.flatten(1).abs().mean(1)[:, None, None, None])
        return F.conv2d(x, weight, self.bias)


@block("shared", how=("twice", "tied", "tied bias", "two maps"), between=(True, False))
class Shared(nn.Module):
    """One layer used twice, or two layers with one weight."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.between = o.how, o.between
        self.one = nn.Conv2d(shape[0], shape[0], 1)
        self.two = nn.Conv2d(shape[0], shape[0], 1)
        if o.how.startswith("tied"):
            self.two.weight = self.one.weight
        if o.how == "tied bias":
            self.two.bias = self.one.bias
        self.bn = nn.BatchNorm2d(shape[0])

    def forward(self, x: Tensor) -> Tensor:
        second = self.one if self.how == "twice" else self.two
        if self.how == "two maps":
            return self.bn(self.one(x)) - 0.5 * self.bn(self.one(x.flip(-1)))
        y = self.one(x)
        if self.between:
            y = F.relu(self.bn(y))
        return second(y)
