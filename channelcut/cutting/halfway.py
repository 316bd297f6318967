"""A network on the way to a cut, and its weights in the shapes of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from channelcut.core.copies import private_copy
from channelcut.core.plan import Plan
from channelcut.core.tensors import named_tensors, select


@dataclass(frozen=True)
class Halfway:
    """A network that has lost some of what is to go, with refitted weights, and the plan that led to it."""

    model: nn.Module
    plan: Plan

    def rest(self, plan: Plan) -> Plan:
        """What is left to go until `plan` is reached, which keeps nothing that this network lacks: positions in it."""
        had = self.plan.kept
        return replace(plan, kept={name: _relative(had.get(name, {}), axes) for name, axes in plan.kept.items()})


def carried(halfway: Halfway, smaller: nn.Module, rest: Plan) -> nn.Module:
    """A copy of a cut network with the weights that a network on the way to it has.

    Args:
        halfway: the network on the way.
        smaller: a cut of the original; it is not changed.
        rest: what lies between them.
    """
    clone, source = private_copy(smaller), named_tensors(halfway.model)
    with torch.no_grad():
        for name, tensor in named_tensors(clone).items():
            if name in source and name not in rest.indices:
                tensor.copy_(select(source[name], rest.kept.get(name, {})))
    return clone


def _relative(
    before: Mapping[int, tuple[int, ...]], after: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    """Where the positions that a tensor keeps stand among those that it had kept before, by axis."""
    found: dict[int, tuple[int, ...]] = {}
    for axis, positions in after.items():
        if (had := before.get(axis)) is None:
            found[axis] = positions
        else:
            place = {position: index for index, position in enumerate(had)}
            found[axis] = tuple(place[position] for position in positions)
    return found
