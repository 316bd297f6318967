"""A forward without arithmetic must run the ops, shapes and types of the real one, and its shortcut the layouts too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from channelcut.core.trees import leaves
from channelcut.cut import hollow
from channelcut.cut.hollow import Hollow
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


@pytest.mark.parametrize("name", NAMES)
def test_every_op_gives_what_it_gives_with_arithmetic(name: str) -> None:
    model = build(name)
    with torch.no_grad(), Steps() as real:
        model(INPUT)
    model = build(name)  # anew, because a forward may keep what it computed
    with torch.no_grad(), Hollow(), Steps() as empty:
        model(INPUT)
    assert empty.found == real.found


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
