"""`make_plan`: from kept channels to kept positions of every tensor, and the attributes that follow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.groups import Groups, Role
from channelcut.core.plan import Cost, GroupPlan, Plan
from channelcut.cost import BilinearCost
from channelcut.cost.bilinear import full_widths
from channelcut.ops.registry import LAYERS

Kept = dict[str, dict[int, tuple[int, ...]]]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, every shared one under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def architecture_fingerprint(model: nn.Module) -> str:
    """Identify an architecture by the names, shapes and types of its parameters and buffers."""
    lines = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in sorted(named_tensors(model).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def weights_fingerprint(model: nn.Module) -> str:
    """Identify the values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named_tensors(model).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def make_plan(
    model: nn.Module,
    groups: Groups,
    kept: NDArray[np.bool_],
    costs: Mapping[str, BilinearCost],
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Describe the cut that keeps the channels marked in `kept`, shape (channel_count,)."""
    positions = kept_positions(groups, kept)
    widths = np.array([g.kept_width(kept) for g in groups.groups], dtype=np.int64)
    full = full_widths(groups.groups)
    cost = {
        when: Cost(costs["macs"](at), round(costs["params"](at))) for when, at in (("before", full), ("after", widths))
    }
    return Plan(
        fingerprint=architecture_fingerprint(model),
        weights=weights_fingerprint(model),
        kept=positions,
        attributes=attributes(model, groups, kept, positions),
        groups=tuple(
            GroupPlan(g.name, len(g.lanes), g.width, int(w)) for g, w in zip(groups.groups, widths, strict=True)
        ),
        before=cost["before"],
        after=cost["after"],
        options=dict(options or {}),
    )


def kept_positions(groups: Groups, kept: NDArray[np.bool_]) -> Kept:
    """The kept positions along every slot that loses any."""
    found: Kept = {}
    for slot in groups.slots:
        mask = kept[slot.channels]
        if not mask.all():
            found.setdefault(slot.tensor, {})[slot.axis] = tuple(np.flatnonzero(mask).tolist())
    return found


def attributes(model: nn.Module, groups: Groups, kept: NDArray[np.bool_], positions: Kept) -> dict[str, dict[str, Any]]:
    """New values of the numbers by which modules repeat the shapes of tensors: torch.nn layers' own, and followers.

    `positions` are what `kept_positions` says.
    """
    found = _layer_attributes(model, groups, positions)
    shares = [group.kept_width(kept) / group.width for group in groups.groups]
    for follower in groups.followers:
        value = follower.constant + sum(coefficient * shares[index] for index, coefficient in follower.terms)
        full = follower.constant + sum(coefficient for _, coefficient in follower.terms)
        if round(value) != round(full):
            found.setdefault(follower.module, {}).setdefault(follower.attribute, round(value))
    return found


def _layer_attributes(model: nn.Module, groups: Groups, positions: Kept) -> dict[str, dict[str, Any]]:
    roles = {(slot.tensor, slot.axis): slot.role for slot in groups.slots}
    found: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        refresh = next((refresh for family, refresh in LAYERS.items() if isinstance(module, family)), None)
        if refresh is None:
            continue
        inside = _inside(path, module)
        if not any(name in positions for name, _ in inside.values()):
            continue
        shapes = {key: _kept_shape(tensor, positions.get(name, {})) for key, (name, tensor) in inside.items()}
        whole_groups = roles.get((inside["weight"][0] if "weight" in inside else "", 0)) in (Role.GROUP, Role.DEPTHWISE)
        values = refresh(module, shapes, whole_groups)
        changed = {key: value for key, value in values.items() if getattr(module, key, value) != value}
        if changed:
            found[path] = changed
    return found


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
