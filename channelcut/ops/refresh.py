"""The numbers by which modules repeat the shapes of their tensors: their values after a cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.attributes import set_attribute
from channelcut.core.errors import UserError
from channelcut.core.footprint import Footprint
from channelcut.core.groups import Groups, Role
from channelcut.core.ids import compact
from channelcut.core.tensors import Kept
from channelcut.ops.layers import INPUT, NORMS
from channelcut.ops.registry import LAYERS


def refresh(model: nn.Module, changed: Mapping[str, Mapping[str, Any]]) -> None:
    """Set attributes of modules, by module path and (dotted) name.

    Raises:
        UserError: there is no such attribute.
    """
    for path, values in changed.items():
        for attribute, value in values.items():
            try:
                set_attribute(model.get_submodule(path), attribute, value)
            except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
                raise UserError(
                    f"The plan gives {attribute!r} of {path or 'the model'} a new value, and there is no such number: "
                    "it was changed or damaged, or the model is built differently now. Plan again."
                ) from error


def attributes(model: nn.Module, groups: Groups, kept: NDArray[np.bool_], positions: Kept) -> dict[str, dict[str, Any]]:
    """New values of the numbers by which modules repeat the shapes of tensors: torch.nn layers' own, and followers.

    `positions` are what `kept_positions` says.
    """
    found = _layer_attributes(model, groups, kept, positions)
    shares = [group.kept_width(kept) / group.width for group in groups.groups]
    for follower in groups.followers:
        value = follower.constant + sum(coefficient * shares[index] for index, coefficient in follower.terms)
        full = follower.constant + sum(coefficient for _, coefficient in follower.terms)
        if round(value) != round(full):
            found.setdefault(follower.module, {}).setdefault(follower.attribute, round(value))
    return found


def _layer_attributes(
    model: nn.Module, groups: Groups, kept: NDArray[np.bool_], positions: Kept
) -> dict[str, dict[str, Any]]:
    roles = {(slot.tensor, slot.axis): slot.role for slot in groups.slots}
    found: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        refresh = next((refresh for family, refresh in LAYERS.items() if isinstance(module, family)), None)
        if refresh is None:
            continue
        inside = _inside(path, module)
        shapes = {key: _kept_shape(tensor, positions.get(name, {})) for key, (name, tensor) in inside.items()}
        if isinstance(module, NORMS) and all(tensor is None for _, tensor in inside.values()):
            given = _read(path, groups, kept)
            shapes = {} if given is None else {INPUT: given}
        elif not any(name in positions for name, _ in inside.values()):
            continue
        if not shapes:
            continue
        whole_groups = roles.get((inside["weight"][0] if "weight" in inside else "", 0)) in (Role.GROUP, Role.DEPTHWISE)
        values = refresh(module, shapes, whole_groups)
        changed = {key: value for key, value in values.items() if getattr(module, key, value) != value}
        if changed:
            found[path] = changed
    return found


def _read(path: str, groups: Groups, kept: NDArray[np.bool_]) -> tuple[int, ...] | None:
    """The shape after a cut of the first value that a layer reads; None where the graph does not show it."""
    for node in groups.graph.calls:
        if node.site.module == path and node.inputs:
            ids = groups.channels_of(node.inputs[0].index)
            return Footprint.of(compact(ids).numpy(), ids.shape).kept_shape(kept) if isinstance(ids, Tensor) else None
    return None


def _inside(path: str, module: nn.Module) -> dict[str, tuple[str, Tensor | None]]:
    """The tensors of a layer by their role in it; a computed weight is known by the parameter that has its shape."""
    prefix = f"{path}." if path else ""
    found: dict[str, tuple[str, Tensor | None]] = {
        key: (prefix + key, getattr(module, key)) for key in (*module._parameters, *module._buffers)
    }
    if found.get("weight", ("", None))[1] is None and isinstance(weight := getattr(module, "weight", None), Tensor):
        for name, tensor in module.named_parameters():
            if tensor.shape == weight.shape:
                found["weight"] = (prefix + name, tensor)
    return found


def _kept_shape(tensor: Tensor | None, axes: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    shape = () if tensor is None else tuple(tensor.shape)
    return tuple(len(axes[a]) if a in axes else extent for a, extent in enumerate(shape))
