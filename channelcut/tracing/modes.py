"""Copies of the user's model, and settings under which its forward shows the ops that it is made of."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from channelcut.core.errors import UserError


def private_copy(model: nn.Module, replaced: Mapping[torch.Tensor, torch.Tensor] | None = None) -> nn.Module:
    """A deep copy; tensors with a history that a forward left on the modules are copied without it.

    The keys of `replaced` are not copied: their values stand for them in the copy.

    Raises:
        UserError: the model holds something that cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): other for tensor, other in (replaced or {}).items()}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif type(value) is OrderedDict and not value:  # a dozen empty tables of hooks a module, slow to copy
                memo[id(value)] = OrderedDict()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"The model cannot be copied ({type(error).__name__}: {text}). channelcut works on a copy so that yours "
            "stays as it is: remove handles, open files or non-leaf tensors from the module's attributes."
        ) from error


def doubled(inputs: Any) -> Any:
    """The inputs twice along the batch."""
    return pytree.tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]) if t.dim() > 1 else t, inputs)


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
