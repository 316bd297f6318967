"""Small networks, one for each way in which channels are coupled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 16), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 16), conv(16, 24), conv(24, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.b(self.a(x))).mean((2, 3)))


class C2f(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.m, self.cv2 = conv(3, 24, 1), nn.Sequential(conv(12, 8), conv(8, 12)), conv(36, 10, 1)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.append(y[-1] + self.m(y[-1]))
        return self.head(self.cv2(torch.cat(y, 1)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.d, self.m, self.p = (
            conv(3, 12),
            conv(12, 12, groups=12),
            nn.Conv2d(12, 24, 3, padding=1, groups=12),
            conv(24, 8, 1),
        )
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.p(self.m(self.d(self.a(x)))))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.h, self.head = conv(3, 16), conv(16, 32, groups=4), conv(32, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.h(self.g(self.a(x))))


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.tail = conv(3, 16), conv(8, 8), conv(16, 10, 1)
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, 1)
        y = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        a, b = y.chunk(2, 1)
        return self.head(self.tail(torch.cat([a, b * 2], 1)))


class NarrowShuffle(Shuffle):
    """Pieces of two channels: half of one is a single channel, and most selections of those keep their order.

    The shuffle puts a channel of one piece between two of another: which of them comes first must not depend on what
    is kept, so the pieces are bound element by element. A few selections do not show that.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.stem, self.branch, self.tail = conv(3, 8), conv(4, 4), conv(8, 10, 1)
        self.head = nn.Conv2d(10, 3, 1)


class ShuffledThirds(nn.Module):
    """torch's own channel shuffle of three pieces with two channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle, self.b, self.head = conv(3, 6), nn.ChannelShuffle(3), conv(6, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.shuffle(self.a(x))))


class CountedThirds(nn.Module):
    """A shuffle in three whose sizes are kept as numbers: a width that follows a third of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.width = 3, 12
        self.a, self.b, self.head = conv(3, 12), conv(12, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = self.a(x).reshape(n, self.groups, self.width // self.groups, h, w)
        return self.head(self.b(x.transpose(1, 2).reshape(n, self.width, h, w)))


class EqualHalves(nn.Module):
    """Halves of four parts that are equal because pairs of parts are, which the forward shows only later."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 4), conv(3, 4), conv(3, 6), conv(3, 6)
        self.whole, self.small, self.large = (nn.ModuleList([conv(n, 3), conv(n, 3)]) for n in (10, 4, 6))
        self.head = nn.Conv2d(18, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.a(x), self.b(x), self.c(x), self.d(x)
        parts = [torch.cat([a, c, b, d], 1), torch.cat([a, b], 1), torch.cat([c, d], 1)]
        pairs = (self.whole, self.small, self.large)
        halves = [half for part in parts for half in part.chunk(2, 1)]
        layers = [layer for pair in pairs for layer in pair]
        return self.head(torch.cat([layer(half) for layer, half in zip(layers, halves, strict=True)], 1))


class QuarterOfTen(nn.Module):
    """A slice at a fourth of a number that four does not divide: which number it would be of fewer is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 10
        self.a, self.b, self.c, self.head = conv(3, 10), conv(2, 8), conv(10, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(self.b(x[:, : self.width // 4]) + self.c(x))


class BorrowedWidth(nn.Module):
    """A view with the width of another value, by a way that no tracer follows: right as long as both lose as many."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(3, 8), conv(16, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.borrowed(self.b(x), len(a[0]))
        return self.head(self.c(torch.cat([a, b], 1)))

    def borrowed(self, y: Tensor, width: int) -> Tensor:
        return y.flatten(2).reshape(len(y), width, *y.shape[2:])


class Stacked(nn.Module):
    """Two layers on a new axis, over which the larger one wins."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), conv(3, 12), conv(12, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(torch.stack([self.a(x), self.b(x)], 1).amax(1)))


class Rolled(nn.Module):
    """Shifts along the rows, and along the channels, whose distance is a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), conv(12, 10), conv(10, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.roll(self.a(x), 1, 2))
        return self.head(self.c(torch.roll(x, 3, 1)))


class SharesOfChannels(nn.Module):
    """A softmax over the channels, in which each decides about the others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), nn.Conv2d(12, 10, 1), conv(10, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(x)).softmax(1)))


class Patches(nn.Module):
    """Windows as rows that a layer mixes, and rows that are added up to a map again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.rows, self.back = conv(3, 12), nn.Conv1d(108, 10, 1), nn.Conv1d(10, 32, 1)
        self.b, self.head = conv(8, 6), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.relu(self.rows(F.unfold(self.a(x), 3, padding=1, stride=2)))
        return self.head(self.b(F.fold(self.back(rows), x.shape[2:], 2, stride=2)))


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up, self.head = conv(3, 16), nn.Linear(16, 4), nn.Linear(4, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).flatten(1)))))
        return self.head(x * gate[:, :, None, None])


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.f1, self.f2 = conv(3, 6), nn.Linear(6 * 64, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.f2(F.relu(self.f1(F.max_pool2d(self.a(x), 2).flatten(1))))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.shuffle = conv(3, 12), nn.ConvTranspose2d(12, 16, 2, 2), nn.PixelShuffle(2)
        self.b, self.head = conv(4, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.shuffle(self.up(self.a(x)))))


class Attention(nn.Module):
    """Two heads; the scale is given, the head widths are taken from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.q, self.k, self.v = conv(3, 12), nn.Conv2d(12, 16, 1), nn.Conv2d(12, 16, 1), nn.Conv2d(12, 8, 1)
        self.proj, self.head = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(x), 4)
        n, _, h, w = x.shape
        q, k, v = (layer(x).reshape(n, 2, -1, h * w) for layer in (self.q, self.k, self.v))
        attention = (q.transpose(-2, -1) @ k * 0.35).softmax(-1)
        y = (v @ attention.transpose(-2, -1)).reshape(n, -1, h, w)
        return self.head(self.proj(y))


class FusedAttention(nn.Module):
    """Torch's own function with its default scale: the widths of query and key stay, that of the values may go."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 16), nn.Linear(3, 16), nn.Linear(3, 16)
        self.proj, self.out = nn.Linear(16, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        n, t, _ = tokens.shape
        q, k, v = (layer(tokens).reshape(n, t, 2, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(self.proj(y.transpose(1, 2).reshape(n, t, -1)))


class WholeHeads(nn.Module):
    """Heads of a width that stays, and as many of them as there is width for."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.q, self.k, self.v = nn.Linear(3, 24), nn.Linear(3, 24), nn.Linear(3, 24)
        self.proj, self.out = nn.Linear(24, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        n, t, _ = tokens.shape
        q, k, v = (layer(tokens).view(n, t, -1, self.width).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(self.proj(self.attend(q, k, v).transpose(1, 2).reshape(n, t, -1)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class HandWrittenHeads(WholeHeads):
    """The same in the ops that it is made of."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v


class Weighed(nn.Module):
    """Channels weighed by a vector, of many pixels and of one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Linear(12, 8)
        self.vector, self.other = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        pixels = F.linear(y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1]), self.vector)
        return pixels.reshape(len(x), -1) + torch.dot(F.relu(self.b(y.mean((0, 2, 3)))), self.other)


class SharedKeys(nn.Module):
    """Two query heads to each head of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 16), nn.Linear(3, 8), nn.Linear(3, 8)
        self.proj = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        n, t, _ = tokens.shape
        q = self.q(tokens).reshape(n, t, 4, -1).transpose(1, 2)
        k, v = (layer(tokens).reshape(n, t, 2, -1).transpose(1, 2) for layer in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)
        return self.proj(y.transpose(1, 2).reshape(n, t, -1))


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.gn, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 12, 1)
        self.ln, self.fc, self.slope, self.out = nn.LayerNorm(12), nn.Linear(12, 20), nn.PReLU(16), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.slope(self.gn(self.a(x))))
        x = self.ln(x.permute(0, 2, 3, 1))
        return self.out(F.gelu(self.fc(x)) * torch.sigmoid(x.mean(-1, keepdim=True)))


class Shared(nn.Module):
    """One layer used twice, and one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = conv(3, 12), nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.other = nn.Conv2d(12, 4, 1)
        self.other.weight = self.head.weight
        self.gamma = nn.Parameter(torch.rand(12, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.stem(x)
        y = self.twice(F.relu(self.twice(x))) * self.gamma
        return self.head(y), {"other": self.other(F.relu(y))}


class HardCoded(nn.Module):
    """The width of the split is a number kept in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.stem, self.a, self.free, self.head = conv(3, 16), conv(8, 8), conv(16, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).split((self.c, self.c), 1)
        return self.head(self.free(torch.cat([a, self.a(b)], 1)))


class Literal(nn.Module):
    """The width of the split is a literal, which no attribute can refresh."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.free, self.head = conv(3, 16), conv(8, 8), conv(16, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).split((8, 8), 1)
        return self.head(self.free(torch.cat([a, self.a(b)], 1)))


class C2fWithWidth(nn.Module):
    """A width that only another form of the forward needs."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = C2f(), nn.Conv2d(4, 3, 1)
        self.block.c = 12

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.block(x)))


class SlicedBySelf(nn.Module):
    """Slices whose bounds are kept in a tuple, counted from the start and from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = (6, 10)
        self.stem, self.a, self.b, self.head = conv(3, 16), conv(6, 8), conv(10, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.a(x[:, : self.widths[0]]) * self.b(x[:, -self.widths[1] :]))


@dataclass
class HeadConfig:
    heads: int = 2
    head_dim: int = 8


class ConfiguredHeads(nn.Module):
    """Attention as in C2PSA: one projection, head widths from a config, and the values viewed as wide as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.config = HeadConfig()
        self.stem, self.qkv, self.proj = conv(3, 16), nn.Conv2d(16, 48, 1), nn.Conv2d(16, 16, 1)
        self.free, self.head = conv(16, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(x), 4)
        n, c, h, w = x.shape
        heads, d = self.config.heads, self.config.head_dim
        q, k, v = self.qkv(x).view(n, heads, d * 3, h * w).split([d, d, d], dim=2)
        attention = (q.transpose(-2, -1) @ k * 0.35).softmax(-1)
        y = (v @ attention.transpose(-2, -1)).view(n, c, h, w)
        return self.head(self.free(F.relu(x + self.proj(y))))


class WidthNorm(nn.Module):
    """A layer norm of one's own, which keeps its shape as ConvNeXt's does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.shape = (
            nn.Parameter(torch.rand(width)),
            nn.Parameter(torch.rand(width)),
            (width,),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.shape, self.weight, self.bias).permute(0, 3, 1, 2)


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = conv(3, 12), WidthNorm(12), conv(12, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x))))


class WeightNorm(nn.Module):
    """Weights that are computed from a length and a direction."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.a, self.b = norm(nn.Conv2d(3, 12, 3, padding=1)), norm(nn.Conv2d(12, 12, 3, padding=1, groups=12))
        self.c, self.head = norm(nn.Conv2d(12, 8, 1)), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


class Standardised(nn.Conv2d):
    """Weights with the statistics of each row taken out, times a gain, as in normaliser-free networks."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(o, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, (self.gain * 0.3).view(-1), training=True)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


class StandardisedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = Standardised(3, 8), conv(8, 12), conv(12, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(F.relu(self.a(x)))))


class Windows(nn.Module):
    """Overlapping windows, weighted one by one and added up again, as in outlook attention; and strided windows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 12), nn.Conv2d(3, 9, 3, 2, 1), conv(12, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n, c, h, w = y.shape
        parts = F.unfold(y, 3, padding=1, stride=2).view(n, c, 9, -1)
        parts = parts * torch.sigmoid(self.b(x)).flatten(2).unsqueeze(1)
        y = self.c(F.fold(parts.flatten(1, 2), (h, w), 3, padding=1, stride=2))
        return self.head(y.unfold(2, 4, 4).unfold(3, 4, 4).amax((4, 5)))


class Recurrent(nn.Module):
    """A column of features read upwards and downwards, its last states, and a row read by other kinds of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 12)
        self.lstm = nn.LSTM(12, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.rnn = nn.GRU(20, 9, bias=False), nn.RNN(9, 8, nonlinearity="relu")
        self.head, self.state, self.start = nn.Linear(8, 3), nn.Linear(10, 4), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x).mean(3).transpose(1, 2)
        y, (last, _) = self.lstm(x)
        z, _ = self.rnn(self.gru(y)[0], self.start(x[:1]))
        return self.head(z), self.state(last[-1])


class NarrowHeads(nn.Module):
    """Two channels a head, joined by a linear layer: with one each, they lie in memory without gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.out = conv(3, 12), nn.Linear(12, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.a(x), 4).flatten(2).transpose(1, 2)[:1]
        q, k, v = (part.unflatten(-1, (3, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Table(nn.Module):
    """An embedding and a learned position, added to a stream of features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table, self.place = conv(3, 12), nn.Embedding(64, 12), nn.Parameter(torch.rand(1, 64, 12))
        self.hidden, self.head = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.a(x), 2).flatten(2).transpose(1, 2)
        x = x + self.table(torch.arange(x.shape[1]).expand(len(x), -1)) + self.place
        return self.head(F.relu(self.hidden(x)))


class TwoChannels(nn.Module):
    """A learned position of two channels, of which one is left: its axis is no longer the one that it was."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.place, self.gamma = conv(3, 2), nn.Parameter(torch.rand(1, 64, 2)), nn.Parameter(torch.rand(2))
        self.hidden, self.head = nn.Linear(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.a(x), 8).flatten(2).transpose(1, 2)
        return self.head(F.relu(self.hidden(F.relu(x + self.place) * self.gamma)))


class InPlace(nn.Module):
    """Writes into views of a value that is used again, and a transpose in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y[:, :, 0] = 0
        y[..., 1] *= 2
        y = self.b(y)
        y.transpose_(2, 3)
        return self.head(y)


class Closure(nn.Module):
    """A width that only a function's closure knows."""

    def __init__(self) -> None:
        super().__init__()
        width = 8
        self.a, self.b, self.c = conv(3, 12), conv(12, width), conv(width, 10)
        self.head = nn.Conv2d(10, 3, 1)
        self.fold = lambda x: x.reshape(-1, width, 256).view(-1, width, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.fold(self.b(self.a(x)))))


class AuxiliaryHead(nn.Module):
    """A head that only training runs: it loses the inputs that the others lose."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.aux = conv(3, 12), conv(12, 8), nn.Conv2d(8, 3, 1), conv(12, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.a(x)
        y = self.head(F.dropout(self.b(features), 0.2, self.training))
        return (y, self.aux(features)) if self.training else y


class OptionA(nn.Module):
    """A strided shortcut padded with zero channels, as in the CIFAR ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            conv(3, 8),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.Conv2d(12, 16, 3, 1, 1),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.b(F.relu(self.a(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(F.relu(y).mean((2, 3)))


class Reductions(nn.Module):
    """Reductions over space with several outputs, and pointwise ops with tensors on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 10), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
        x = self.b((x - mean) / (variance + 1).pow(torch.sigmoid(mean)))
        values, _ = x.max(-1, keepdim=True)
        return self.head(torch.maximum(x, values * 0.5)), self.head(x.clamp_min(values * 0.1))


class WidthScale(nn.Module):
    """Attention whose scale follows the width that it reads from a shape, and a mean written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.q, self.b, self.head = conv(3, 12), nn.Conv2d(12, 8, 1), conv(12, 10), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        q = self.q(x)
        q = q * q.shape[1] ** -0.5
        total = (q * q).mean(1, keepdim=True)
        y = self.b(x * total)
        y = y / y.shape[1]
        return self.head(y)


class Dense(nn.Module):
    """Hard-coded heads and a free layer behind one source line: the line tells too little."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 1), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.a(x).view(-1, 16, 256).view(-1, 16, 16, 16))))


class ChannelsLast(nn.Module):
    """A layer norm over the last axis leaves memory that pooling to 1×1 gives new strides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.head = conv(3, 12), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class BiasedAttention(nn.Module):
    """Attention whose scores are a product with a bias in one op, and values in three axes through a 3D pool."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(3, 8, 1) for _ in range(3))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x).flatten(2), self.k(x).flatten(2), self.v(x)
        v = F.max_pool3d(v.unsqueeze(2), (1, 3, 3), 1, (0, 1, 1)).squeeze(2).flatten(2)
        scores = torch.baddbmm(x.new_zeros(1, 1, k.shape[2]), q.transpose(1, 2), k, alpha=0.3)
        y = torch.bmm(v, scores.softmax(2).transpose(1, 2))
        return self.head(y.reshape(y.shape[0], -1, *x.shape[2:]))


class EmptySlice(nn.Module):
    """A slice that is empty at this size, as the prefix of a sequence without class tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head, self.prefix = conv(3, 12), nn.Linear(12, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).transpose(1, 2)
        x = torch.cat([x[:, : self.prefix], torch.relu(x[:, self.prefix :])], 1)
        return self.head(x)


class Anchored(nn.Module):
    """A detector that keeps its anchors until the shape of its features changes, channels included."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), conv(12, 8), nn.Conv2d(8, 4, 1)
        self.shape: tuple[int, ...] | None = None
        self.anchors = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.shape != x.shape:
            ys, xs = torch.meshgrid(torch.arange(x.shape[2]) + 0.5, torch.arange(x.shape[3]) + 0.5, indexing="ij")
            self.anchors, self.shape = torch.stack((xs, ys, xs, ys)), x.shape
        return self.head(self.b(x)) + self.anchors


class Picked(nn.Module):
    """Channels in the order of a buffer, read by two layers; a stream that a grouped layer picks from as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 16), conv(16, 12), nn.Conv2d(24, 3, 1)
        self.grouped = conv(16, 12, groups=4)
        self.register_buffer("order", torch.randperm(16))
        self.register_buffer("learned", torch.tensor([0, 5, 2, 7, 7, 3, 1, 8, 0, 15, 9, 10, 4, 3, 2, 6]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.head(torch.cat([self.b(y[:, self.order]), self.grouped(y.index_select(1, self.learned))], 1))


class GatedLinear(nn.Module):
    """Halves that gate one another: along the channels, of one layer and of two joined ones, and along positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.left, self.right = conv(3, 16), conv(8, 6), nn.Conv2d(8, 6, 1)
        self.b, self.head = conv(6, 10), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.a(x), 1)
        x = F.glu(torch.cat([self.left(x), self.right(x)], 1), dim=-3)
        return self.head(F.glu(self.b(x)))


NETWORKS = {
    cls.__name__: cls
    for cls in (
        Chain,
        Residual,
        C2f,
        Depthwise,
        Grouped,
        Shuffle,
        NarrowShuffle,
        ShuffledThirds,
        CountedThirds,
        EqualHalves,
        QuarterOfTen,
        BorrowedWidth,
        Patches,
        Stacked,
        Rolled,
        SharesOfChannels,
        Squeeze,
        Flattened,
        Transposed,
        Attention,
        FusedAttention,
        WholeHeads,
        HandWrittenHeads,
        SharedKeys,
        Weighed,
        Norms,
        Shared,
        HardCoded,
        Literal,
        C2fWithWidth,
        SlicedBySelf,
        ConfiguredHeads,
        OwnNorm,
        WeightNorm,
        StandardisedWeights,
        Windows,
        Recurrent,
        NarrowHeads,
        Table,
        TwoChannels,
        InPlace,
        Closure,
        AuxiliaryHead,
        OptionA,
        Reductions,
        WidthScale,
        Dense,
        ChannelsLast,
        BiasedAttention,
        EmptySlice,
        Anchored,
        GatedLinear,
        Picked,
    )
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode with statistics that differ from channel to channel, as after training."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def example(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def stack() -> nn.Module:
    """Layers of 64 channels in a row, wide enough to be timed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 5, 1)
    ).eval()


def residual() -> nn.Module:
    """For the command line."""
    return build("Residual")
