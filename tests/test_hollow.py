"""A forward without arithmetic must run the ops, shapes and types of the real one, and its shortcut the layouts too."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import channelcut as cc
from channelcut.core.trees import leaves
from channelcut.trace import hollow, trace_modes
from channelcut.trace.hollow import Hollow, roots, weightless_copy
from tests.networks import NETWORKS, build

INPUT = torch.rand(2, 3, 32, 32)
NAMES = sorted(set(NETWORKS) - {"Table", "Flattened"})  # these two are made for smaller images


class Steps(TorchDispatchMode):
    """Notes the op, and what every tensor that it gives looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found.append((str(func), [(t.shape, t.dtype) for t in leaves(result) if isinstance(t, Tensor)]))
        return result


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_every_op_gives_what_it_gives_with_arithmetic(name: str, training: bool) -> None:
    model = build(name).train(training)
    with torch.no_grad(), Steps() as real:
        model(INPUT)
    model = weightless_copy(build(name)).train(training)  # anew, because a forward may keep what it computed
    x = INPUT.clone()
    with torch.no_grad(), Hollow(roots(model, x)), Steps() as empty:
        model(x)
    assert empty.found == real.found


def test_a_hollow_training_forward_leaves_the_model_alone() -> None:
    """It shares no tensor that a forward could write into, and moves no statistic."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 2048, 1), nn.BatchNorm2d(2048)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace_modes(model, (INPUT,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shared = {id(p) for p in model.parameters()} & {id(p) for p in weightless_copy(model).parameters()}
    assert not shared and not model.training


def test_the_shortcut_gives_the_layout_that_the_op_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same op on the same tensors, with and without the shortcut, over every network."""
    taken, shortcut = set(), hollow._shortcut

    def compared(func: Any, args: Any, kwargs: Any, tensors: Any) -> Any:
        result = shortcut(func, args, kwargs, tensors)
        if result is not None:
            taken.add(func.overloadpacket.__name__)
            real = func(*args, **kwargs)
            for a, b in zip(leaves(result), leaves(real), strict=True):
                assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), (str(func), args)
        return result

    monkeypatch.setattr(hollow, "_shortcut", compared)
    for name in NAMES:
        model = build(name)
        x = INPUT.clone()
        with torch.no_grad(), Hollow(roots(model, x)):
            model(x)
    assert {"native_batch_norm", "add", "silu"} <= taken


@lru_cache
def grid(height: int, width: int) -> Tensor:
    """What a library may keep for all its models."""
    return torch.stack(torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")) * 2


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        where = grid(*x.shape[2:]).expand(len(x), -1, -1, -1)
        return self.c(self.b(torch.cat((x, where), 1)))


def test_what_a_forward_keeps_in_a_global_cache_has_its_values() -> None:
    cc.analyze(Cached().eval(), torch.rand(1, 3, 64, 64))
    kept = grid(64, 64)
    assert grid.cache_info().currsize == 1, "analyze must have filled the cache, or this shows nothing"
    assert torch.equal(kept, grid.__wrapped__(64, 64))
