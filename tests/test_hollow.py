"""A forward without arithmetic must run the ops, shapes and types of the real one, and its shortcut the layouts too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from channelcut.core.trees import leaves
from channelcut.trace import hollow, trace_modes
from channelcut.trace.hollow import Hollow, weightless_copy
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
    with torch.no_grad(), Hollow(), Steps() as empty:
        model(INPUT)
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
        with torch.no_grad(), Hollow():
            model(INPUT)
    assert {"native_batch_norm", "add", "silu"} <= taken
