"""Attention over positions, in the ways that it is written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import Options, Shape, block


class Tokens(nn.Module):
    """Few positions, so that attention is quick: the map is pooled to at most 4×4 and brought back."""

    def pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[-1] // 4) if x.shape[-1] >= 8 and x.shape[-2] == x.shape[-1] else x

    def back(self, y: Tensor, x: Tensor) -> Tensor:
        return y if y.shape[2:] == x.shape[2:] else F.interpolate(y, size=x.shape[2:])


@block(
    "attention",
    heads=(1, 2, 3),
    head_width=(4, 2, 6),
    value_width=(4, 3),
    how=("matmul", "sdpa", "sdpa default", "bmm", "linear", "channels"),
    views=("shapes", "hard", "unflatten", "chunk", "whole heads"),
)
class Attention(Tokens):
    """Query, key and value of layers of their own."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.heads, self.d, self.how, self.views = o.heads, o.head_width, o.how, o.views
        values = o.head_width if o.views == "whole heads" else o.value_width
        self.q, self.k = (nn.Conv2d(shape[0], o.heads * o.head_width, 1) for _ in range(2))
        self.v, self.proj = nn.Conv2d(shape[0], o.heads * values, 1), nn.Conv2d(o.heads * values, shape[0], 1)

    def split(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.views == "hard":
            return x.reshape(n, self.heads, c // self.heads if c != self.heads * self.d else self.d, h * w)
        if self.views == "unflatten":
            return x.flatten(2).unflatten(1, (self.heads, -1))
        if self.views == "chunk":
            return torch.stack(x.flatten(2).chunk(self.heads, 1), 1)
        if self.views == "whole heads":
            return x.reshape(n, -1, self.d, h * w)
        return x.reshape(n, self.heads, -1, h * w)

    def forward(self, x: Tensor) -> Tensor:
        small = self.pooled(x)
        n, _, h, w = small.shape
        q, k, v = (self.split(layer(small)) for layer in (self.q, self.k, self.v))
        if self.how == "matmul":
            y = v @ (q.transpose(-2, -1) @ k * 0.4).softmax(-1).transpose(-2, -1)
        elif self.how == "bmm":
            scores = torch.bmm(q.flatten(0, 1).transpose(1, 2), k.flatten(0, 1)) * self.d**-0.5
            y = torch.bmm(v.flatten(0, 1), scores.softmax(-1).transpose(1, 2))
        elif self.how == "linear":
            y = (v @ k.softmax(-1).transpose(-2, -1)) @ torch.sigmoid(q)
        elif self.how == "channels":
            y = (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ k
            y = v + y.mean(2, keepdim=True)
        else:
            scale = None if self.how == "sdpa default" else 0.4
            y = F.scaled_dot_product_attention(q.mT, k.mT, v.mT, scale=scale).mT
        return x + self.back(self.proj(y.reshape(n, -1, h, w)), x)


@block(
    "qkv",
    heads=(1, 2, 3),
    head_width=(4, 6),
    how=("chunk", "unbind", "index", "yolo", "hard", "split"),
    sdpa=(False, True),
    norm=(True, False),
)
class Qkv(Tokens):
    """Query, key and value of one layer."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.heads, self.d, self.how, self.sdpa = o.heads, o.head_width, o.how, o.sdpa
        inner = o.heads * o.head_width
        self.norm = nn.LayerNorm(shape[0]) if o.norm else nn.Identity()
        self.qkv, self.proj = nn.Linear(shape[0], 3 * inner), nn.Linear(inner, shape[0])

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Each (N, heads, positions, head width)."""
        n, tokens, width = qkv.shape
        if self.how in ("unbind", "index"):
            parts = qkv.reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            return parts.unbind(0) if self.how == "unbind" else (parts[0], parts[1], parts[2])
        if self.how == "yolo":
            return qkv.view(n, tokens, self.heads, 3 * self.d).transpose(1, 2).split([self.d, self.d, self.d], -1)
        if self.how == "hard":
            return tuple(p.view(n, tokens, self.heads, self.d).transpose(1, 2) for p in qkv.chunk(3, -1))
        pieces = qkv.split(width // 3, -1) if self.how == "split" else qkv.chunk(3, dim=-1)
        return tuple(p.reshape(n, tokens, self.heads, -1).transpose(1, 2) for p in pieces)

    def forward(self, x: Tensor) -> Tensor:
        small = self.pooled(x)
        n, _, h, w = small.shape
        tokens = small.flatten(2).transpose(1, 2)
        q, k, v = self.split(self.qkv(self.norm(tokens)))
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        else:
            y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        tokens = tokens + self.proj(y.transpose(1, 2).flatten(2))
        return self.back(tokens.transpose(1, 2).reshape(n, -1, h, w), x)


@block("module attention", heads=(1, 2))
class ModuleAttention(Tokens):
    """torch's own."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        heads = o.heads if shape[0] % o.heads == 0 else 1
        self.norm, self.attention = nn.LayerNorm(shape[0]), nn.MultiheadAttention(shape[0], heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        small = self.pooled(x)
        n, _, h, w = small.shape
        tokens = self.norm(small.flatten(2).transpose(1, 2))
        y, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return x + self.back(y.transpose(1, 2).reshape(n, -1, h, w), x)


@block("mlp", hidden=(8, 12, 16), norm=(True, False), gate=(False, True), token=(False, True))
class Mlp(Tokens):
    """A feed-forward layer on positions, gated or not, with or without a learned token in front."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        c = shape[0]
        self.gate = o.gate
        self.norm = nn.LayerNorm(c) if o.norm else nn.Identity()
        self.up, self.down = nn.Linear(c, o.hidden * (2 if o.gate else 1)), nn.Linear(o.hidden, c)
        self.token = nn.Parameter(torch.randn(1, 1, c)) if o.token else None

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(n, -1, -1), tokens], 1)
        y = self.up(self.norm(tokens))
        if self.gate:
            a, b = y.chunk(2, -1)
            y = a * F.silu(b)
        tokens = tokens + self.down(F.gelu(y))
        if self.token is not None:
            tokens = tokens[:, 1:] + tokens[:, :1]
        return tokens.transpose(1, 2).reshape(n, -1, h, w)
