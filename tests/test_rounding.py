"""A proof judges rounding by what went into a sum: a tensor of one element, or one that cancels, has no deviation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.graph import Graph, Node
from channelcut.proof.compare import relative_error
from channelcut.proof.execute import Execution
from channelcut.proof.rounding import SHAKE, Shaken, rounding_of


class Squeezed(nn.Module):
    """Squeeze and excitation with one hidden channel, whose value is 1e-9 of the terms of its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce = nn.Conv2d(3, 256, 3, padding=1), nn.Conv2d(256, 1, 1)
        self.expand, self.head = nn.Conv2d(1, 256, 1), nn.Conv2d(256, 4, 1)
        with torch.no_grad():
            self.stem.weight[192:], self.stem.bias[192:] = self.stem.weight[128:192], self.stem.bias[128:192]
            self.reduce.weight.uniform_(0.5, 1.5)
            self.reduce.weight[:, 192:] = -self.reduce.weight[:, 128:192] * (1 + 1e-6)
            assert self.reduce.bias is not None
            self.reduce.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.silu(self.stem(x)) / 3
        return self.head(y * self.expand(self.reduce(y.mean((2, 3), keepdim=True))).sigmoid())


class Summed(nn.Module):
    """A softmax, and how far its sum is from 1: rounding noise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 4096), nn.Linear(4096, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.b(self.a(x).relu()).softmax(-1)
        return self.c(y), y.sum(-1) - 1


class Homogeneous(nn.Module):
    """What a layer without bias does to three times its input, less three times what it does to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 4096), nn.Linear(4096, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x).sigmoid()
        return self.c(self.b(y)), self.b(3 * y) - 3 * self.b(y)


def last_half(tensor: Tensor, slot: Any) -> Tensor:
    """An importance that keeps the last ones."""
    return torch.arange(tensor.shape[slot.axis]).double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("network", "example", "importance"),
    [
        (Squeezed, torch.rand(1, 3, 20, 20), last_half),
        (Summed, torch.linspace(-1, 1, 64).view(1, 64), "l2"),
        (Homogeneous, torch.rand(1, 64), "l2"),
    ],
)
def test_rounding_is_no_failure(network: type[nn.Module], example: Tensor, importance: Any, seed: int) -> None:
    torch.manual_seed(seed)
    proof = cc.prune(network().eval(), example, keep=0.5, importance=importance).proof
    assert proof.passed and proof.max_relative_error <= proof.tolerance


def test_of_one_element_what_went_into_the_sum_is_the_measure() -> None:
    weight, x = torch.rand(1, 300, dtype=torch.float64), torch.rand(1, 300, dtype=torch.float64)
    value, terms = x @ weight.T, float((x * weight).norm())
    inputs = (
        Node(0, "input", "x", None),
        Node(1, "state", "w", None),
    )
    graph = Graph(inputs, {}, {}, training=False, front_end="dispatch")
    shaken = Shaken(Execution(graph, {"w": weight}, [x]))
    changed = shaken.changed(x) @ shaken.changed(weight).T
    rounding = rounding_of(value, changed, largest=1.0)
    assert 0.05 * SHAKE * terms < rounding < 5 * SHAKE * terms
    for units, accepted in ((1, True), (50, True), (1e9, False)):
        error = relative_error(value, value + units * 2.0**-52 * value, rounding / 1e-9)
        assert (error <= 1e-9) is accepted, units


def test_where_rounding_decides_what_a_value_is_it_excuses_nothing() -> None:
    value = torch.tensor([0.3], dtype=torch.float64)
    assert rounding_of(value, value + 1e-11, largest=1.0) == pytest.approx(1e-11, rel=1e-4)
    assert rounding_of(value, value + 0.5, largest=1.0) == 0.0
