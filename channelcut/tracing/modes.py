"""Settings under which a forward shows the ops that it is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def slow_attention() -> Iterator[None]:
    """Keep torch's transformer layers on the ops that they are made of, instead of one fused op for inference."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled parts of a model eagerly, and compile nothing of what records it.

    Who has compiled nothing has not loaded torch's compiler, which takes a second.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
