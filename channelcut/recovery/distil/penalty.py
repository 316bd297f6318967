"""A penalty that grows on the channels that are to go, so that the others take over before they go.

That of growing regularisation (Wang et al. 2021, arXiv:2012.09243), over all tensors of a channel, those that make it
and those that read it, as in the sparse learning of DepGraph (Fang et al. 2023, arXiv:2301.12900).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from channelcut.core.plan import Plan


@dataclass(frozen=True)
class Penalty:
    """Squared norms of the channels to go, weighted by a number that grows in a line from step to step.

    It is taken off the weights after each step, as a decoupled weight decay is (Loshchilov and Hutter 2019,
    arXiv:1711.05101), so that the optimiser does not divide it by the size of other gradients.

    places: by the name of a parameter, for each axis, the positions of the channels that go.
    total: the logarithm of how much they would shrink over all steps if nothing held them.
    """

    places: Mapping[str, Mapping[int, tuple[int, ...]]]
    total: float

    @classmethod
    def of(cls, model: nn.Module, plan: Plan, total: float) -> Penalty:
        """The penalty on what a plan removes from a network."""
        places = {}
        for name, parameter in model.named_parameters():
            kept = plan.kept.get(name, {})
            gone = {axis: set(range(parameter.shape[axis])) - set(kept[axis]) for axis in kept}
            if parameter.is_floating_point() and any(gone.values()):
                places[name] = {axis: tuple(sorted(positions)) for axis, positions in gone.items() if positions}
        return cls(places, total)

    def shrink(self, model: nn.Module, step: int, steps: int) -> None:
        """What it does in one of so many steps, of which the first is 0."""
        share = math.exp(-2 * self.total * (step + 1) / (steps * (steps + 1)))
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, axes in self.places.items():
                for axis, positions in axes.items():
                    parameter = named[name]
                    if parameter.requires_grad:
                        index = torch.tensor(positions, device=parameter.device)
                        parameter.index_copy_(axis, index, parameter.index_select(axis, index) * share)
