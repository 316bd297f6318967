"""`cut`: one `index_select` per slot, on a copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.errors import ChannelcutError, UserError
from channelcut.core.plan import Plan
from channelcut.cutting.planning import architecture_fingerprint, named_tensors
from channelcut.tracing.attributes import set_attribute
from channelcut.tracing.modes import private_copy


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` without the channels that `plan` drops; `model` itself is not touched.

    Raises:
        UserError: the plan was made for another architecture.
    """
    if architecture_fingerprint(model) != plan.fingerprint:
        raise UserError(
            "This plan belongs to another architecture: the names or shapes of the model's parameters differ from "
            f"those it was made for (fingerprint {architecture_fingerprint(model)}, expected {plan.fingerprint}). "
            "Build the same class with the same arguments, before any fuse()."
        )
    try:
        tensors = {t: select(t.detach(), plan.kept[n]) for n, t in named_tensors(model).items() if n in plan.kept}
    except IndexError as error:
        raise UserError(
            f"The plan keeps positions that the model does not have ({error}): it was changed or damaged. Write the "
            "result again with `channelcut compress --force`."
        ) from error
    clone = copy_with(model, tensors)
    refresh(clone, plan.attributes)
    return clone


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


def refresh(model: nn.Module, changed: Mapping[str, Mapping[str, Any]]) -> None:
    """Set attributes of modules, by module path and (dotted) name."""
    for path, values in changed.items():
        module = model.get_submodule(path)
        for attribute, value in values.items():
            try:
                set_attribute(module, attribute, value)
            except (AttributeError, KeyError, IndexError) as error:
                raise ChannelcutError(f"{path} has no attribute {attribute!r} to refresh.") from error


def select(tensor: Tensor, kept: Mapping[int, tuple[int, ...]]) -> Tensor:
    """The kept positions of a tensor along each cut axis."""
    for axis, positions in kept.items():
        tensor = tensor.index_select(axis, torch.tensor(positions, dtype=torch.long, device=tensor.device))
    return tensor.contiguous()
