"""Where a cut network departs from its original."""

from __future__ import annotations

import torch
from torch import nn

import channelcut as cc
from benchmarks.error_profile import error_profile


def test_errors_stand_where_the_networks_differ() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    x = torch.rand(4, 3, 12, 12)
    with torch.no_grad():
        for layer in (0, 2):  # without half of its channels it says what it said
            model[layer].weight[::2] = 0.0
            model[layer].bias[::2] = 0.0
    result = cc.prune(model, x, keep=0.5)
    found = error_profile(model, result.model, result.plan, x, depth=1)
    assert list(found) == ["0", "2"] and max(found.values()) < 1e-9
    with torch.no_grad():
        result.model[2].weight.zero_()
        result.model[2].bias.copy_(model[2](model[:2](x)).mean((0, 2, 3))[1::2])
    changed = error_profile(model, result.model, result.plan, x, depth=1)
    assert changed["0"] == found["0"] and 0.99 < changed["2"] < 1.01, "the mean explains nothing"
