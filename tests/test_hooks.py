"""Hooks in an analysis: those of the user's see real values, those of torch's are part of the computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm, weight_norm

import channelcut as cc
from channelcut.tracing import trace
from tests.networks import build


def example() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_hook_of_the_users_sees_real_values() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 2, 1)).eval()
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    model[2].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    model(example())
    whole, rectified = (value.flatten(2) for value in seen)
    seen.clear()
    groups = cc.analyze(model, example())
    assert [group.name for group in groups.groups] == ["0.weight", "2.weight"] and len(seen) >= 4
    for value in (value.flatten(2) for value in seen):
        if value.shape == whole.shape:
            assert torch.equal(value, whole) or torch.equal(value, rectified) or len(value) == 2
        else:  # of the narrower copies of the probe: each of its channels is one of the whole
            channels = torch.cat((whole, rectified), 1)[0]
            assert all(any(torch.allclose(line, channel, atol=1e-6) for channel in channels) for line in value[0])


def test_a_prune_with_a_hook_is_proven_and_keeps_it() -> None:
    seen: list[bool] = []
    model = build("Residual")
    model.stem.register_forward_hook(lambda module, args, output: seen.append(bool(output.detach().isfinite().all())))
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed and all(seen)
    seen.clear()
    result.model(example())
    assert seen == [True]


def test_what_a_hook_changes_is_analysed() -> None:
    """Twelve fixed channels come to the four of a layer; the layer that reads all of them follows."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(10, 6, 3), nn.Conv2d(6, 2, 1)).eval()
    model[0].register_forward_hook(lambda module, args, output: torch.cat((output, args[0][:, :2, 1:-1, 1:-1]), 1))
    kept = cc.prune(model, example(), keep=0.5).plan.kept
    assert len(kept["0.weight"][0]) == 4 and kept["1.weight"][1][-2:] == (8, 9)


def test_a_hook_on_all_modules_counts() -> None:
    seen: list[Any] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(output))
    try:
        assert not trace(build("Chain"), (example(),)).hollow
    finally:
        hook.remove()
    assert seen


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_hooks_of_torch_run_without_arithmetic(norm: Any) -> None:
    model = nn.Sequential(norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), nn.Conv2d(16, 2, 1)).eval()
    graph = trace(model, (example(),))
    assert graph.hollow and any("norm" in node.name or node.name == "aten.div" for node in graph.calls)
