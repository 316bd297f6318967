"""The layers that read channels: modules whose weight mixes them, and their inputs as rows of channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.groups import Groups, Role


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer that mixes channels: its path, and the channel of each feature that it reads."""

    path: str
    channels: NDArray[np.int64]
    axis: int

    def rows(self, given: Tensor) -> Tensor:
        """What it is given as rows of features, shape (rows, features)."""
        return given.movedim(self.line(given.dim()), -1).reshape(-1, len(self.channels))

    def line(self, dims: int) -> int:
        """The axis of features among those of what it is given or returns."""
        return 1 if self.axis < 0 else dims - 1

    def weight(self, layer: nn.Module) -> Tensor:
        """Its weight, shape (outputs, features, taps)."""
        weight = layer.get_parameter("weight").detach()
        return weight.movedim(abs(self.axis) - 1, 1).flatten(2) if weight.dim() > 2 else weight[:, :, None]


def readers_of(groups: Groups, model: nn.Module) -> list[Reader]:
    """The modules that mix channels, of those that can go; other calls with such weights are left out."""
    modules = dict(model.named_modules())
    free = groups.group_of() >= 0
    found = []
    for slot in groups.slots:
        path, _, name = slot.tensor.rpartition(".")
        layer = modules.get(path)
        if slot.role is not Role.IN or name != "weight" or not free[slot.channels].any():
            continue
        if isinstance(layer, nn.Linear):
            found.append(Reader(path, slot.channels, 1))
        elif isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == 1:
            found.append(Reader(path, slot.channels, -(slot.axis + 1)))
    return found
