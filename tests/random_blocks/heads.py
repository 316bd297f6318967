"""What networks end in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import Options, Shape, head


@head("map", act=(False, True))
class Map(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.act, self.conv = o.act, nn.Conv2d(shape[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x)) if self.act else self.conv(x)


@head("mean", hidden=(0, 8), how=("mean", "adaptive", "token"))
class Mean(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how
        self.hidden = nn.Sequential(nn.Linear(shape[0], o.hidden), nn.ReLU()) if o.hidden else nn.Identity()
        self.out = nn.Linear(o.hidden or shape[0], 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "adaptive":
            x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        elif self.how == "token":
            x = x.flatten(2)[..., 0]
        else:
            x = x.mean((2, 3))
        return self.out(self.hidden(x))


@head("flatten", how=("flatten", "view", "hard", "last"), norm=(False, True))
class Flatten(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how = o.how
        self.pool = nn.AdaptiveMaxPool2d((min(4, shape[1]), min(4, shape[2])))
        self.features = shape[0] * min(4, shape[1]) * min(4, shape[2])
        self.hidden, self.out = nn.Linear(self.features, 10), nn.Linear(10, 3)
        self.norm = nn.BatchNorm1d(self.features) if o.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        if self.how == "view":
            x = x.contiguous().view(x.size(0), -1)
        elif self.how == "hard":
            x = x.reshape(-1, self.features)
        elif self.how == "last":
            x = x.permute(0, 2, 3, 1).flatten(1)
        else:
            x = torch.flatten(x, 1)
        return self.out(F.relu(self.hidden(self.norm(x))))


@head("raw")
class Raw(nn.Module):
    """The map itself, as backbones give it."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


@head("boxes", bins=(1, 4))
class Boxes(nn.Module):
    """A detector's: distances as the expectation over bins, and scores."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.bins = o.bins
        self.box, self.cls = nn.Conv2d(shape[0], 4 * o.bins, 1), nn.Sequential(nn.Conv2d(shape[0], 6, 1), nn.SiLU())
        self.scores = nn.Conv2d(6, 2, 1)
        self.register_buffer("project", torch.arange(o.bins, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        box = self.box(x).reshape(n, 4, self.bins, h * w)
        if self.bins > 1:
            box = (box.softmax(2) * self.project.view(1, 1, -1, 1)).sum(2)
        scores = self.scores(self.cls(x)).reshape(n, 2, -1)
        return torch.cat([box.reshape(n, 4, -1), torch.sigmoid(scores)], 1)


@head("tokens", norm=("layer", "none"))
class TokensHead(nn.Module):
    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape[0]) if o.norm == "layer" else nn.Identity()
        self.out = nn.Linear(shape[0], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x.flatten(2).transpose(1, 2)))
