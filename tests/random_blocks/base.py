"""How a block is written: a module that reads feature maps (N, C, H, W) and gives one, built for any shapes.

Options are wishes (`groups=4`): what the shapes do not allow is brought down to what they do, so that a description
stays valid when blocks are taken out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
WIDTHS = (8, 4, 6, 12, 16, 24)
LARGEST = 16


class Options:
    """The options of one block as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this block has no option {name!r}")


@dataclass(frozen=True)
class Kind:
    """A kind of block: its module, how many maps it reads, and the choices of every option, the plainest first."""

    module: Callable[..., nn.Module]
    sources: int
    choices: Mapping[str, tuple[Any, ...]]


BLOCKS: dict[str, Kind] = {}
HEADS: dict[str, Kind] = {}


def block(
    name: str, sources: int = 1, table: dict[str, Kind] = BLOCKS, **choices: tuple[Any, ...]
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def register(cls: type[nn.Module]) -> type[nn.Module]:
        assert name not in table, name
        table[name] = Kind(cls, sources, choices)
        return cls

    return register


def head(name: str, **choices: tuple[Any, ...]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    return block(name, 1, HEADS, **choices)


def divisor(number: int, wish: int) -> int:
    """The largest divisor of `number` that is at most `wish`."""
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(1, wish))


def multiple(number: int, of: int) -> int:
    """The least multiple of `of` that is at least `number`."""
    return -(-number // of) * of


class ChannelsLast(nn.Module):
    """A module over the last axis, applied to the channels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Slope(nn.Module):
    """A channel-wise PReLU by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.rand(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) - self.slope * torch.relu(-x)


NORMS = ("none", "batch", "group", "instance", "layer", "plain instance", "plain batch", "rms", "group 1")


def norm(name: str, width: int) -> nn.Module:
    return {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(width),
        "plain batch": lambda: nn.BatchNorm2d(width, affine=False),
        "group": lambda: nn.GroupNorm(divisor(width, 4), width),
        "group 1": lambda: nn.GroupNorm(1, width),
        "instance": lambda: nn.InstanceNorm2d(width, affine=True),
        "plain instance": lambda: nn.InstanceNorm2d(width),
        "layer": lambda: ChannelsLast(nn.LayerNorm(width)),
        "rms": lambda: ChannelsLast(nn.RMSNorm(width)),
    }[name]()


ACTIVATIONS = ("relu", "silu", "prelu", "prelu 1", "gelu", "hardswish", "leaky", "slope", "sigmoid", "softplus")


def activation(name: str, width: int) -> nn.Module:
    return {
        "relu": nn.ReLU,
        "silu": nn.SiLU,
        "prelu": lambda: nn.PReLU(width),
        "prelu 1": nn.PReLU,
        "gelu": nn.GELU,
        "hardswish": lambda: nn.Hardswish(inplace=True),
        "leaky": lambda: nn.LeakyReLU(0.1),
        "slope": lambda: Slope(width),
        "sigmoid": nn.Sigmoid,
        "softplus": nn.Softplus,
    }[name]()
