"""Copies of the user's model and inputs: what runs, changes or is cut is never theirs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
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


def cloned(inputs: Any) -> Any:
    """The inputs in tensors of their own, for a forward that may write into them."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, inputs)


def doubled(inputs: Any) -> Any:
    """The inputs twice along the batch."""
    return pytree.tree_map_only(torch.Tensor, lambda t: torch.cat([t, t]) if t.dim() > 1 else t, inputs)


def copy_with(model: nn.Module, tensors: Mapping[Tensor, Tensor]) -> nn.Module:
    """A copy of `model` with other tensors in the place of some of its own; what it shares stays shared."""
    replaced = {
        old: nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        for old, new in tensors.items()
    }
    clone = private_copy(model, replaced)
    for module in clone.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()  # its own list of them
    return clone
