"""The result of pruning: the new model and everything that says where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from channelcut.core.groups import Groups
from channelcut.core.plan import Plan
from channelcut.core.proof import Proof


@dataclass(frozen=True)
class Recalibration:
    """What a recalibration saw: inputs, batch-norm layers, seconds."""

    images: int
    layers: int
    seconds: float


@dataclass(frozen=True)
class Pruned:
    """What `prune` returns: the new model, the plan that made it, its proof, and the groups it was chosen from."""

    model: nn.Module
    plan: Plan
    proof: Proof
    groups: Groups
    recalibration: Recalibration | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
