"""Blocks that move channels: splits, shuffles, slices, round trips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import WIDTHS, Options, Shape, block, divisor, multiple


@block(
    "split",
    pieces=(2, 3, 4),
    how=("chunk", "split", "sections", "unequal", "tensor_split", "slices"),
    then=("reverse", "gate", "add", "body", "first", "max", "interleave", "product"),
)
class Split(nn.Module):
    """A layer, cut into pieces that go different ways."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.pieces, self.how = o.pieces, o.how
        width = multiple(max(shape[0], 4), o.pieces)
        self.then = "reverse" if o.how == "unequal" and o.then != "first" else o.then
        self.c = width // o.pieces
        first = max(1, self.c - 1)
        self.sizes = [first, width - first - self.c * (o.pieces - 2), *[self.c] * (o.pieces - 2)]
        self.conv, self.body = nn.Conv2d(shape[0], width, 1), nn.Conv2d(self.c, self.c, 3, padding=1)

    def cut(self, x: Tensor) -> list[Tensor]:
        if self.how == "split":
            return list(x.split(self.c, 1))
        if self.how == "sections":
            return list(x.split([x.shape[1] // self.pieces] * self.pieces, dim=1))
        if self.how == "unequal":
            return list(x.split(self.sizes, 1))
        if self.how == "tensor_split":
            return list(x.tensor_split(self.pieces, 1))
        if self.how == "slices":
            width = x.shape[1] // self.pieces
            return [x[:, i * width : (i + 1) * width] for i in range(self.pieces)]
        return list(x.chunk(self.pieces, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b, *rest = self.cut(self.conv(x))
        if self.then == "gate":
            return torch.cat([a * torch.sigmoid(b), *rest], 1)
        if self.then == "product":
            return torch.cat([a * b, *rest, b], 1)
        if self.then == "add":
            return torch.cat([a + b, *rest], 1)
        if self.then == "max":
            return torch.cat([torch.maximum(a, b), *rest], 1)
        if self.then == "body":
            return torch.cat([a, F.relu(self.body(b)), *rest], 1)
        if self.then == "first":
            return a
        if self.then == "interleave":
            y = torch.stack([a, b], 2).flatten(1, 2)
            return torch.cat([y, *rest], 1)
        return torch.cat([*rest[::-1], b, a], 1)


@block("shuffle", groups=(2, 3, 4), how=("view", "hard", "module", "transposed"), layer=(True, False))
class Shuffle(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        width = multiple(shape[0], o.groups) if o.layer else shape[0]
        self.groups, self.how, self.width = divisor(width, o.groups), o.how, width
        self.conv = nn.Conv2d(shape[0], width, 1) if o.layer else nn.Identity()
        self.module = nn.ChannelShuffle(self.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        if self.how == "module":
            return self.module(x)
        if self.how == "hard":
            return (
                x.reshape(n, self.groups, self.width // self.groups, h, w).transpose(1, 2).reshape(n, self.width, h, w)
            )
        if self.how == "transposed":
            return x.reshape(n, c // self.groups, self.groups, h, w).permute(0, 2, 1, 3, 4).flatten(1, 2)
        return x.contiguous().view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@block(
    "shift",
    how=("slice", "stride", "tail", "one", "flip", "roll", "pad", "picks", "narrow", "flip space"),
    width=WIDTHS,
)
class Shift(nn.Module):
    """Channels chosen or displaced by position, and a layer after them."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.k = o.how, max(1, shape[0] // 3)
        left = {
            "slice": shape[0] - self.k,
            "stride": (shape[0] + 1) // 2,
            "tail": self.k,
            "one": 1,
            "pad": shape[0] + 2,
            "picks": 2,
            "narrow": self.k,
        }.get(o.how, shape[0])
        self.conv = nn.Conv2d(left, o.width, 1)
        self.register_buffer("picks", torch.tensor([shape[0] - 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "slice":
            x = x[:, self.k :]
        elif self.how == "stride":
            x = x[:, ::2]
        elif self.how == "tail":
            x = x[:, -self.k :]
        elif self.how == "one":
            x = x[:, 0].unsqueeze(1)
        elif self.how == "flip":
            x = x.flip(1)
        elif self.how == "roll":
            x = x.roll(1, 1)
        elif self.how == "pad":
            x = F.pad(x, (0, 0, 0, 0, 0, 2))
        elif self.how == "picks":
            x = x[:, self.picks]
        elif self.how == "narrow":
            x = x.narrow(1, 0, self.k)
        else:
            x = x.flip(-1)
        return self.conv(x)


@block("round trip", how=("flat", "hard", "tokens", "last", "unflatten", "batch", "rows"), layer=(True, False))
class RoundTrip(nn.Module):
    """Away from (N, C, H, W) and back."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.shape = o.how, shape
        self.layer = nn.Linear(shape[0], shape[0]) if o.layer else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.how == "flat":
            return torch.tanh(x.flatten(1)).reshape(n, c, h, w)
        if self.how == "hard":
            return torch.tanh(x.reshape(n, -1)).view(-1, *self.shape)
        if self.how == "tokens":
            return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, -1, h, w)
        if self.how == "last":
            return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
        if self.how == "unflatten":
            return self.layer(x.flatten(2).mT).mT.unflatten(2, (h, w))
        if self.how == "batch":
            return self.layer(x.permute(0, 2, 3, 1).reshape(-1, c)).view(n, h, w, -1).permute(0, 3, 1, 2)
        return self.layer(x.movedim(1, -1).reshape(n * h, w, c)).reshape(n, h, w, c).movedim(-1, 1)


@block("repeat", how=("stack", "repeat", "interleave", "expand", "unbind", "cat", "windows"), width=WIDTHS)
class Repeat(nn.Module):
    """Channels more than once."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how if o.how != "windows" or shape[1] % 2 == shape[2] % 2 == 0 else "cat"
        wide = {"stack": 1, "unbind": 1, "windows": 1}.get(self.how, 2)
        self.conv = nn.Conv2d(wide * shape[0], o.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.how == "stack":
            x = torch.stack([x, torch.relu(x)], 1).sum(1)
        elif self.how == "unbind":
            a, b = torch.stack([x, torch.relu(x)], 2).unbind(2)
            x = a - 0.3 * b
        elif self.how == "repeat":
            x = x.repeat(1, 2, 1, 1)
        elif self.how == "interleave":
            x = x.repeat_interleave(2, 1)
        elif self.how == "expand":
            x = x.unsqueeze(1).expand(n, 2, c, h, w).reshape(n, 2 * c, h, w)
        elif self.how == "windows":
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 2, 2)
            x = x - x.mean((2, 3), keepdim=True)
            x = x.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
        else:
            x = torch.cat([x, x.neg()], 1)
        return self.conv(x)
