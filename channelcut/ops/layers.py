"""Layers of torch that repeat the shapes of their tensors in attributes: what these are after a cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from channelcut.ops.registry import Refresh, Shapes

INPUT = "input"
"""The shape of what a layer reads, among the shapes of its tensors; only a norm without tensors has it."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def convolution(module: Any, shapes: Shapes, whole_groups: bool) -> dict[str, Any]:
    """Where whole groups go, the number of groups shrinks with the axis that the groups divide."""
    outer, inner = shapes["weight"][:2]
    first = module.in_channels if module.transposed else module.out_channels
    groups = module.groups * outer // first if whole_groups else module.groups
    ins, outs = (outer, inner * groups) if module.transposed else (inner * groups, outer)
    return {"in_channels": ins, "out_channels": outs, "groups": groups}


def repeats(attributes: Mapping[str, tuple[str, int]]) -> Refresh:
    """Attributes that are the extent of a tensor along an axis: {"in_features": ("weight", 1)}."""

    def refresh(module: Any, shapes: Shapes, whole_groups: bool) -> dict[str, Any]:
        return {name: shapes[tensor][axis] for name, (tensor, axis) in attributes.items()}

    return refresh


def normalized(module: Any, shapes: Shapes, whole_groups: bool) -> dict[str, Any]:
    """The shape that a layer norm normalises over."""
    axes = len(module.normalized_shape)
    return {"normalized_shape": tuple(shapes[INPUT][-axes:] if INPUT in shapes else shapes["weight"])}


def grouped_norm(module: Any, shapes: Shapes, whole_groups: bool) -> dict[str, Any]:
    """Groups of one channel each go with their channels."""
    channels = shapes[INPUT][1] if INPUT in shapes else next(shape[0] for shape in shapes.values() if shape)
    own = module.num_groups == module.num_channels
    return {"num_channels": channels, "num_groups": channels if own else module.num_groups}


def first_axis(attribute: str) -> Refresh:
    """An attribute that is the only extent of every tensor; of a layer without any, its input's number of channels."""

    def refresh(module: Any, shapes: Shapes, whole_groups: bool) -> dict[str, Any]:
        given = shapes.get(INPUT)
        if given is None:
            return {attribute: next(shape[0] for shape in shapes.values() if shape)}
        # An instance norm may leave out the batch.
        return {attribute: given[len(given) - module._get_no_batch_dim() if _unbatched(module) else 1]}

    return refresh


def _unbatched(module: Any) -> bool:
    return hasattr(module, "_get_no_batch_dim")
