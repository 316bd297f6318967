"""Sums, means and lengths over channels, and lengths of weights: what is cut is the sum of what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import channelcut as cc

Reduction = Callable[[Tensor], Tensor]
REDUCTIONS: dict[str, Reduction] = {
    "sum": lambda y: y.sum(1, keepdim=True),
    "sum of all": lambda y: y.sum().view(1, 1, 1, 1),
    "sum after an activation that zero does not pass": lambda y: y.sigmoid().sum(1, keepdim=True),
    "mean": lambda y: y.mean(1, keepdim=True),
    "length": lambda y: y.norm(dim=1, keepdim=True),
    "largest magnitude": lambda y: torch.linalg.vector_norm(y, float("inf"), dim=1, keepdim=True),
    "root of squares": lambda y: y.pow(2).sum(1, keepdim=True).sqrt(),
    "count": lambda y: (y > 0).sum(1, keepdim=True).float(),
    "two axes": lambda y: y.view(len(y), 4, -1, *y.shape[2:]).sum((1, 2)).unsqueeze(1),
    "mean of two axes": lambda y: y.view(len(y), 4, -1, *y.shape[2:]).mean((1, 2)).unsqueeze(1),
    "product with itself": lambda y: (y * y.flip(3)).sum(1, keepdim=True),
}


class Reduced(nn.Module):
    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self.reduction = reduction
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.reduction(self.a(x)))


@pytest.mark.parametrize("tracer", ["dispatch", "export"])
@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_a_sum_over_channels_is_the_sum_of_the_kept_ones(name: str, tracer: str) -> None:
    torch.manual_seed(0)
    model, x = Reduced(REDUCTIONS[name]).eval(), torch.rand(2, 3, 8, 8)
    result = cc.prune(model, x, keep=0.5, tracer=tracer)
    assert result.proof.passed and result.model.a.out_channels == 8
    kept = list(result.plan.kept["a.weight"][0])
    with torch.no_grad():  # by hand
        torch.testing.assert_close(result.model(x), model.b(model.reduction(model.a(x)[:, kept])))


@pytest.mark.parametrize("reduction", [lambda y: y.prod(1, keepdim=True), lambda y: y.var(1, keepdim=True)])
def test_what_is_no_sum_pins(reduction: Reduction) -> None:
    groups = cc.analyze(Reduced(reduction).eval(), torch.rand(2, 3, 8, 8))
    assert not groups.groups and any("reduced over the channels" in str(pin) for pin in groups.pins)


def test_a_least_magnitude_pins() -> None:
    model = Reduced(lambda y: torch.linalg.vector_norm(y, float("-inf"), dim=1, keepdim=True)).eval()
    assert not cc.analyze(model, torch.rand(2, 3, 8, 8)).groups


def test_a_contraction_of_activations_is_over_the_kept_ones() -> None:
    """Zeros in the weights do not pass a sigmoid, so that a removed channel would count for a quarter."""
    model = Reduced(lambda y: torch.einsum("bchw,bchw->bhw", y.sigmoid(), y.sigmoid())[:, None]).eval()
    result = cc.prune(model, torch.rand(2, 3, 8, 8), keep=0.5, tracer="dispatch")
    assert result.proof.passed and result.model.a.out_channels == 8


def _old(layer: nn.Module) -> nn.Module:
    found: nn.Module = nn.utils.weight_norm(layer)  # type: ignore[no-untyped-call]
    return found


WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: parametrizations.weight_norm(nn.Conv1d(16, 32, 3)),
    "transposed": lambda: parametrizations.weight_norm(nn.ConvTranspose1d(16, 32, 4, 2, 1)),
    "transposed, by hooks": lambda: _old(nn.ConvTranspose1d(16, 32, 4, 2, 1)),
    "depthwise": lambda: parametrizations.weight_norm(nn.Conv1d(16, 32, 3, groups=16)),
    "transposed depthwise": lambda: parametrizations.weight_norm(nn.ConvTranspose1d(16, 32, 4, groups=16)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracer", ["dispatch", "export"])
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_lengths_belong_to_their_axis(name: str, tracer: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv1d(1, 16, 3), nn.ReLU(), WEIGHTS[name](), nn.ReLU(), nn.Conv1d(32, 1, 3)).eval()
    result = cc.prune(model, torch.randn(2, 1, 32), keep=0.5, tracer=tracer)
    assert result.proof.passed and result.proof.training == "passed"
    assert result.plan.params_ratio < 0.55
