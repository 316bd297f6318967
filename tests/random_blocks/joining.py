"""Blocks where maps meet: residuals, sums, products and concatenations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import NORMS, WIDTHS, Options, Shape, block, norm


class Fit(nn.Module):
    """Bring a map to a width and a resolution, where it has others."""

    def __init__(self, shape: Shape, target: Shape, width: bool = True) -> None:
        super().__init__()
        self.size = None if shape[1:] == target[1:] else target[1:]
        self.conv = nn.Identity() if shape[0] == target[0] or not width else nn.Conv2d(shape[0], target[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.size is None else F.interpolate(x, size=self.size)


@block(
    "residual",
    width=WIDTHS,
    norm=NORMS,
    order=("post", "pre"),
    scale=("none", "gamma", "scalar"),
    inplace=(False, True),
)
class Residual(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        c = shape[0]
        self.order, self.inplace = o.order, o.inplace
        self.norm, self.a = norm(o.norm, c), nn.Conv2d(c, o.width, 3, padding=1)
        self.bn, self.b = nn.BatchNorm2d(o.width), nn.Conv2d(o.width, c, 1, bias=False)
        extents = {"none": None, "gamma": (c, 1, 1), "scalar": (1,)}[o.scale]
        self.gamma = None if extents is None else nn.Parameter(torch.rand(extents))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x) if self.order == "pre" else x
        y = self.b(F.relu(self.bn(self.a(y))))
        y = self.norm(y) if self.order == "post" else y
        if self.gamma is not None:
            y = y * self.gamma
        if self.inplace:
            y += x
            return y
        return x + y


@block("add", 2, how=("add", "sub", "mul", "maximum", "gate", "lerp", "where", "addcmul"))
class Add(nn.Module):
    def __init__(self, shape: Shape, other: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.fit = o.how, Fit(other, shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.fit(y)
        if self.how == "gate":
            return x * torch.sigmoid(y)
        if self.how == "lerp":
            return torch.lerp(x, y, 0.3)
        if self.how == "where":
            return torch.where(x > y, x, 0.1 * y)
        if self.how == "addcmul":
            return torch.addcmul(x, x, y, value=0.5)
        if self.how == "sub":
            return x - 0.5 * y  # a value less itself would be nothing, and prove nothing
        operations = {"add": torch.add, "mul": torch.mul, "maximum": torch.maximum}
        return operations[self.how](x, y)


@block("concat", 2, how=("plain", "reversed", "twice", "own", "constant", "coordinates"), width=WIDTHS)
class Concat(nn.Module):
    """Joined along the channels, with other maps, itself, a constant or coordinates, and a layer where that is wide."""

    def __init__(self, shape: Shape, other: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.fit = o.how, Fit(other, shape, width=False)
        total = (
            shape[0] + other[0] + {"twice": shape[0], "own": shape[0], "constant": 1, "coordinates": 2}.get(o.how, 0)
        )
        self.tail = nn.Conv2d(total, o.width, 1) if total > 20 else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.fit(y)
        pieces = [x, y]
        if self.how == "reversed":
            pieces = pieces[::-1]
        elif self.how == "twice":
            pieces = [x, y, x]
        elif self.how == "own":
            pieces = [torch.relu(x), y, torch.relu(-x)]
        elif self.how == "constant":
            pieces = [x, torch.ones_like(x[:, :1]), y]
        elif self.how == "coordinates":
            n, _, h, w = x.shape
            rows = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(n, 1, h, w)
            columns = torch.linspace(-1, 1, w, dtype=x.dtype).view(1, 1, 1, w).expand(n, 1, h, w)
            pieces = [x, y, rows, columns]
        return self.tail(torch.cat(pieces, 1))


@block("dense", width=(4, 6, 8), count=(2, 3))
class Dense(nn.Module):
    """Every layer reads all earlier ones."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, o.width, 3, padding=1, bias=False))
            for c in range(shape[0], shape[0] + o.count * o.width, o.width)
        )
        self.tail = nn.Conv2d(shape[0] + o.count * o.width, o.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return self.tail(torch.cat(maps, dim=1))


@block("c2f", width=(8, 12, 16), hidden=(4, 6, 8), count=(1, 2), how=("chunk", "split", "hard"), residual=(True, False))
class C2f(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.c, self.how, self.residual = o.hidden, o.how, o.residual
        self.cv1 = nn.Sequential(nn.Conv2d(shape[0], 2 * self.c, 1, bias=False), nn.BatchNorm2d(2 * self.c), nn.SiLU())
        self.m = nn.ModuleList(
            nn.Sequential(nn.Conv2d(self.c, self.c, 3, padding=1), nn.BatchNorm2d(self.c), nn.SiLU())
            for _ in range(o.count)
        )
        self.cv2 = nn.Conv2d((2 + o.count) * self.c, o.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        if self.how == "chunk":
            maps = list(y.chunk(2, 1))
        elif self.how == "split":
            maps = list(y.split(y.shape[1] // 2, 1))
        else:
            maps = list(y.split((self.c, self.c), 1))
        for layer in self.m:
            maps.append(maps[-1] + layer(maps[-1]) if self.residual else layer(maps[-1]))
        return self.cv2(torch.cat(maps, 1))
