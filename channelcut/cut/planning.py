"""`make_plan`: from kept channels to kept positions of every tensor, and the attributes that follow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.groups import Groups
from channelcut.core.plan import Cost, GroupPlan, Plan
from channelcut.cost import BilinearCost
from channelcut.cost.bilinear import full_widths

Kept = dict[str, dict[int, tuple[int, ...]]]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, every shared one under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def fingerprint(model: nn.Module) -> str:
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
    widths = np.array([int(kept[g.lanes[0]].sum()) for g in groups.groups], dtype=np.int64)
    full = full_widths(groups.groups)
    cost = {
        when: Cost(costs["macs"](at), round(costs["params"](at))) for when, at in (("before", full), ("after", widths))
    }
    return Plan(
        fingerprint=fingerprint(model),
        weights=weights_fingerprint(model),
        kept=positions,
        attributes=attributes(model, positions),
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


def attributes(model: nn.Module, kept: Kept) -> dict[str, dict[str, Any]]:
    """New values of the attributes by which torch.nn layers repeat the shapes of their tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in named_tensors(model).items():
        axes = kept.get(name, {})
        shapes[name] = tuple(len(axes[a]) if a in axes else extent for a, extent in enumerate(tensor.shape))
    found: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        inside = {
            key: shapes[f"{path}.{key}" if path else key]
            for key in _own(module)
            if (f"{path}.{key}" if path else key) in shapes
        }
        changed = any((f"{path}.{key}" if path else key) in kept for key in inside)
        if changed:
            values = {k: v for k, v in _layer_attributes(module, inside).items() if getattr(module, k) != v}
            if values:
                found[path] = values
    return found


def _own(module: nn.Module) -> list[str]:
    return [*module._parameters, *module._buffers]


def _layer_attributes(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    for family, refresh in LAYERS.items():
        if isinstance(module, family):
            return refresh(module, shapes)
    return {}


def _convolution(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Whole groups go together, so the number of groups shrinks with the axis that the groups divide."""
    outer, inner = shapes["weight"][:2]
    first = module.in_channels if module.transposed else module.out_channels
    groups = module.groups if module.groups == 1 else module.groups * outer // first
    ins, outs = (outer, inner * groups) if module.transposed else (inner * groups, outer)
    return {"in_channels": ins, "out_channels": outs, "groups": groups}


def _first_axis(attribute: str) -> Callable[[Any, Mapping[str, tuple[int, ...]]], dict[str, Any]]:
    def refresh(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        return {attribute: next(shape[0] for shape in shapes.values() if shape)}

    return refresh


LAYERS: dict[type[nn.Module], Callable[[Any, Mapping[str, tuple[int, ...]]], dict[str, Any]]] = {
    nn.modules.conv._ConvNd: _convolution,
    nn.Linear: lambda module, shapes: {"out_features": shapes["weight"][0], "in_features": shapes["weight"][1]},
    nn.modules.batchnorm._NormBase: _first_axis("num_features"),
    nn.LayerNorm: lambda module, shapes: {"normalized_shape": tuple(shapes["weight"])},
    nn.RMSNorm: lambda module, shapes: {"normalized_shape": tuple(shapes["weight"])},
    nn.GroupNorm: _first_axis("num_channels"),
    nn.PReLU: _first_axis("num_parameters"),
}
