"""Every criterion of torch-pruning on our groups: an adapter that shows them a group in the shape they iterate over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.groups import Groups, Ids


@dataclass(frozen=True)
class _Dependency:
    """What torch-pruning reads of a dependency: the layer and which of its pruning functions applies."""

    layer: nn.Module
    pruning_fn: Any


@dataclass(frozen=True)
class _Item:
    """One layer of a group; unpacks to two as torch-pruning's own items do."""

    dep: _Dependency
    idxs: list[int]
    root_idxs: list[int]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.dep, self.idxs))


def lane_scores(
    groups: Groups, lane: Ids, slots: tuple[int, ...], model: nn.Module | None, criterion: str
) -> NDArray[np.float64]:
    """Scores of one lane, shape (len(lane),), by `torch_pruning.pruner.importance.<criterion>`."""
    import torch_pruning as tp

    factory = getattr(tp.importance, criterion, None)
    if factory is None or model is None:
        offered = sorted(name for name in dir(tp.importance) if name.endswith("Importance"))
        raise UserError(f"torch-pruning has no criterion {criterion!r}. It offers: {', '.join(offered)}.")
    items = _items(groups, lane, slots, model)
    if not items:
        return np.ones(len(lane))
    result = factory()(items)
    if result is None:
        return np.ones(len(lane))
    return torch.as_tensor(result).detach().double().numpy()


def _items(groups: Groups, lane: Ids, slots: tuple[int, ...], model: nn.Module) -> list[_Item]:
    from torch_pruning.pruner import function

    pruners = {
        ("conv", "out"): function.prune_conv_out_channels,
        ("conv", "in"): function.prune_conv_in_channels,
        ("linear", "out"): function.prune_linear_out_channels,
        ("linear", "in"): function.prune_linear_in_channels,
        ("norm", "norm"): function.prune_batchnorm_out_channels,
        ("conv", "depthwise"): function.prune_depthwise_conv_out_channels,
        ("layer_norm", "norm"): function.prune_layernorm_out_channels,
    }
    items = []
    for index in slots:
        slot = groups.slots[index]
        owner, _, attribute = slot.tensor.rpartition(".")
        positions = np.flatnonzero(np.isin(slot.channels, lane))
        if attribute != "weight" or not len(positions):
            continue
        layer = model.get_submodule(owner)
        pruner = pruners.get((_family(layer), slot.role))
        if pruner is not None:
            roots = np.searchsorted(lane, slot.channels[positions])
            items.append(_Item(_Dependency(layer, pruner), positions.tolist(), roots.tolist()))
    # torch-pruning takes the first item for the root, whose length sets the number of channels.
    return sorted(items, key=lambda item: len(item.root_idxs) != len(lane))


def _family(layer: nn.Module) -> str:
    if isinstance(layer, nn.modules.conv._ConvNd):
        return "conv"
    if isinstance(layer, nn.Linear):
        return "linear"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return "norm"
    return "layer_norm" if isinstance(layer, nn.LayerNorm) else ""
