"""Norms, activations, gates, constants, reductions: what stands between layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import ACTIVATIONS, NORMS, WIDTHS, Options, Shape, activation, block, divisor, norm


@block("norm", norm=NORMS[1:], act=ACTIVATIONS)
class Norm(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.norm, self.act = norm(o.norm, shape[0]), activation(o.act, shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


@block("whole norm", how=("layer", "glu", "local", "dropout", "softmax space", "log softmax space"))
class WholeNorm(nn.Module):
    """A layer norm over the whole map, and ops that no layer owns."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how if o.how != "glu" or shape[0] % 2 == 0 else "dropout"
        self.norm = nn.LayerNorm(list(shape)) if o.how == "layer" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "glu":
            return F.glu(x, 1)
        if self.how == "local":
            return F.local_response_norm(x, 3)
        if self.how == "dropout":
            return F.dropout2d(x, 0.1, training=False)
        if self.how == "softmax space":
            return x.flatten(2).softmax(-1).reshape(x.shape) * x
        if self.how == "log softmax space":
            return F.log_softmax(x, -1) * 0.2
        return self.norm(x)


@block("gamma", how=("column", "map", "flat", "scalar", "shift", "both", "exp"), layer=(True, False))
class Gamma(nn.Module):
    """Learned scales and shifts of channels, alone or on a branch."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        c = shape[0]
        self.how = o.how
        extents = {"column": (c, 1, 1), "map": (1, c, 1, 1), "flat": (c,), "scalar": (1,), "shift": (1, c, 1, 1)}
        self.gamma = nn.Parameter(torch.rand(extents.get(o.how, (c, 1, 1))))
        self.beta = nn.Parameter(torch.rand(1, c, 1, 1)) if o.how == "both" else None
        self.layer = nn.Conv2d(c, c, 1) if o.layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.how == "shift":
            y = y + self.gamma
        elif self.how == "flat":
            y = (y.permute(0, 2, 3, 1) * self.gamma).permute(0, 3, 1, 2)
        elif self.how == "exp":
            y = y * torch.exp(-self.gamma)
        elif self.beta is not None:
            y = y * self.gamma + self.beta
        else:
            y = self.gamma * y
        return x + y


@block("position", how=("map", "column", "tokens", "space", "buffer", "cropped"))
class Position(nn.Module):
    """A learned embedding of positions."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        c, h, w = shape
        self.how = o.how
        extents = {"column": (c, h, w), "tokens": (1, h * w, c), "space": (h, w), "cropped": (1, c, h + 1, w + 1)}
        embedding = torch.randn(extents.get(o.how, (1, c, h, w)))
        if o.how == "buffer":
            self.register_buffer("embedding", embedding)
        else:
            self.embedding = nn.Parameter(embedding)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.how == "tokens":
            return (x.flatten(2).transpose(1, 2) + self.embedding).transpose(1, 2).reshape(n, c, h, w)
        if self.how == "cropped":
            return x + self.embedding[:, :, :h, :w]
        return x + self.embedding


@block("constant", how=("buffer", "arange", "ones", "list", "scalar", "full", "width", "root width", "stored width"))
class Constant(nn.Module):
    """Constants of channels, and numbers that follow the width."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.c = o.how, shape[0]
        self.register_buffer("offsets", torch.randn(1, shape[0], 1, 1), persistent=False)
        self.numbers = [[[0.1 * i]] for i in range(shape[0])]

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "buffer":
            return x + self.offsets
        if self.how == "arange":
            return x + torch.arange(x.shape[1], dtype=x.dtype).view(1, -1, 1, 1) * 0.1
        if self.how == "ones":
            return x * torch.ones(x.shape[1], 1, 1, dtype=x.dtype)
        if self.how == "list":
            return x + torch.tensor(self.numbers, dtype=x.dtype)
        if self.how == "full":
            return x - torch.full_like(x, 0.5)
        if self.how == "width":
            return x / x.shape[1]
        if self.how == "root width":
            return x * x.shape[1] ** -0.5
        if self.how == "stored width":
            return x * self.c**-0.5
        return 2 * x - 1


@block(
    "squeeze",
    pool=("adaptive", "mean", "amax", "sum", "max"),
    layer=("conv", "linear"),
    back=("index", "shape", "hard", "as"),
    hidden=(4, 6),
)
class Squeeze(nn.Module):
    """Squeeze and excite."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        c = shape[0]
        self.o, self.c = o, c
        self.conv = o.layer == "conv"
        self.down = nn.Conv2d(c, o.hidden, 1) if self.conv else nn.Linear(c, o.hidden)
        self.up = nn.Conv2d(o.hidden, c, 1) if self.conv else nn.Linear(o.hidden, c)

    def pooled(self, x: Tensor) -> Tensor:
        if self.o.pool == "mean":
            return x.mean((2, 3), keepdim=True)
        if self.o.pool == "amax":
            return x.amax(dim=(2, 3), keepdim=True)
        if self.o.pool == "sum":
            return x.sum((-1, -2), keepdim=True) * 0.02
        if self.o.pool == "max":
            return x.flatten(2).max(-1).values[..., None, None]
        return F.adaptive_avg_pool2d(x, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pooled(x)
        if self.conv:
            return x * torch.sigmoid(self.up(F.relu(self.down(y))))
        gate = torch.sigmoid(self.up(F.relu(self.down(y.flatten(1)))))
        if self.o.back == "shape":
            gate = gate.view(*x.shape[:2], 1, 1)
        elif self.o.back == "hard":
            gate = gate.view(-1, self.c, 1, 1)
        elif self.o.back == "as":
            gate = gate.view(len(x), -1, 1, 1).expand_as(x)
        else:
            gate = gate[:, :, None, None]
        return x * gate


@block("over channels", how=("mean", "amax", "cbam", "softmax", "argmax", "sum", "normalize", "norm", "topk", "var"))
class OverChannels(nn.Module):
    """Reductions and decisions over the channels."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "mean":
            return x * torch.sigmoid(x.mean(1, keepdim=True))
        if self.how == "amax":
            return x - x.amax(1, keepdim=True)
        if self.how == "cbam":
            return x * torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)))
        if self.how == "softmax":
            return x * x.softmax(1)
        if self.how == "argmax":
            return x + x.argmax(1, keepdim=True) * 0.1
        if self.how == "sum":
            return x + 0.1 * x.sum(1, keepdim=True)
        if self.how == "norm":
            return x / (1 + x.norm(dim=1, keepdim=True))
        if self.how == "topk":
            return x * torch.sigmoid(x.topk(2, 1).values.sum(1, keepdim=True))
        if self.how == "var":
            return x * torch.rsqrt(1 + x.var(1, keepdim=True))
        return F.normalize(x, dim=1)


@block("over space", how=("amax", "max", "var", "argmax", "cumsum", "norm", "grn", "whole mean", "sort"))
class OverSpace(nn.Module):
    """Reductions and decisions over the map."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "amax":
            return x - x.amax((2, 3), keepdim=True)
        if self.how == "max":
            return x - 0.5 * x.max(-1, keepdim=True).values
        if self.how == "var":
            variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
            return (x - mean) * torch.rsqrt(variance + 1)
        if self.how == "argmax":
            return x + 0.1 * x.argmax(-1, keepdim=True)
        if self.how == "cumsum":
            return x.cumsum(-1) * 0.3
        if self.how == "norm":
            return x / (1 + x.norm(dim=(2, 3), keepdim=True))
        if self.how == "grn":
            strength = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
            return x + x * strength / (strength.mean(1, keepdim=True) + 1)
        if self.how == "sort":
            return x.sort(-1).values
        return x + x.mean((1, 2, 3), keepdim=True)


@block("pointwise", how=("where", "clamp", "power", "masked", "compare", "item", "self add", "chain"), width=WIDTHS)
class Pointwise(nn.Module):
    """Pointwise functions, and a grouped layer after them."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how
        groups = divisor(shape[0], 2)
        self.conv = nn.Conv2d(shape[0], o.width, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "where":
            x = torch.where(x > 0, x, 0.1 * torch.exp(-x.abs()))
        elif self.how == "clamp":
            x = x.clamp(-1, 1)
        elif self.how == "power":
            x = x.abs().add(0.5).pow(0.5)
        elif self.how == "masked":
            x = x.masked_fill(x < 0, 0.2)
        elif self.how == "compare":
            x = x * (x > x.mean((2, 3), keepdim=True)).to(x.dtype)
        elif self.how == "item":
            x = x * (1.0 if x.shape[1] > 3 else 0.5)
        elif self.how == "self add":
            x = x + x
        else:
            x = (x.sin() + 1.5).reciprocal().log1p()
        return self.conv(x)
