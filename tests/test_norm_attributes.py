"""Norms without parameters: the numbers by which they know their channels follow a cut, and nothing warns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc

MAPS, LINES, ROWS = (torch.rand(2, 3, 8, 8), torch.rand(3, 8), torch.rand(5, 3))
NORMS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, object]]] = {
    "instance": (lambda: nn.InstanceNorm2d(16), MAPS, {"num_features": 8}),
    "instance, without a batch": (lambda: nn.InstanceNorm1d(16), LINES, {"num_features": 8}),
    "batch, with statistics": (lambda: nn.BatchNorm2d(16, affine=False), MAPS, {"num_features": 8}),
    "batch": (lambda: nn.BatchNorm1d(16, affine=False, track_running_stats=False), ROWS, {"num_features": 8}),
    "group": (lambda: nn.GroupNorm(4, 16, affine=False), MAPS, {"num_channels": 8, "num_groups": 4}),
    "groups of one": (lambda: nn.GroupNorm(16, 16, affine=False), MAPS, {"num_channels": 8, "num_groups": 8}),
    "layer": (lambda: nn.LayerNorm(16, elementwise_affine=False), ROWS, {"normalized_shape": (8,)}),
}


@pytest.mark.filterwarnings("error::UserWarning:torch.nn")
@pytest.mark.parametrize("tracer", ["dispatch", "export"])
@pytest.mark.parametrize("name", sorted(NORMS))
def test_what_a_norm_says_of_its_channels(name: str, tracer: str, tmp_path: Path) -> None:
    make, x, expected = NORMS[name]
    layer = {2: nn.Linear, 4: nn.Conv2d}.get(x.dim(), nn.Linear) if name != "instance, without a batch" else nn.Conv1d
    size = () if layer is nn.Linear else (1,)

    def build() -> nn.Sequential:
        return nn.Sequential(layer(3, 16, *size), make(), nn.ReLU(), layer(16, 4, *size)).eval()

    result = cc.prune(build(), x, keep=0.5, tracer=tracer)
    norm = result.model.get_submodule("1")
    assert {key: getattr(norm, key) for key in expected} == expected
    cc.save(result, tmp_path)
    assert torch.equal(cc.load(build, tmp_path)(x), result.model(x))
