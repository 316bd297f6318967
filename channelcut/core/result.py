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
class Rescaling:
    """What was rescaled: the tensors by kind (`weight_norm`, `mean`), and how far the outputs were from the original's.

    `before` and `after` are in deviations of the original's outputs on the calibration inputs; NaN without any.
    """

    tensors: Mapping[str, tuple[str, ...]]
    before: float
    after: float


@dataclass(frozen=True)
class Recovery:
    """What a recovery did: inputs trained on, epochs and steps, and how far from the original it was and came.

    `before` and `after` are the loss on inputs that were held back, outputs and features in variances of the
    original's; `history` has it after every epoch, behind the mean loss of the epoch's steps. `labels`: whether a task
    loss had a say. `unreadable`: images that could not be decoded.
    """

    images: int
    epochs: int
    steps: int
    before: float
    after: float
    init: str
    labels: bool
    history: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]
    unreadable: int
    seconds: float


@dataclass(frozen=True)
class PruneResult:
    """What `prune` returns: the new model and everything that says where it came from.

    Args:
        model: the smaller network, in evaluation mode.
        plan: from the original class to `model`; where the network had been cut before, over all rounds.
        proof: of this cut, before anything was restored.
        groups: what the network that was given could lose, and what `exclude` held of it.
        step: the plan of this round alone, for the network that was given; the same as `plan` in the first round.
        recalibration: what the recalibration saw, where there was one.
        rescaling: what was rescaled, where that was chosen.
        recovery: what the recovery did, where there was one.
        seconds: time by stage.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.prune(model, torch.rand(1, 3, 16, 16), keep=0.5)
        >>> result.model[0].out_channels, result.plan.params_ratio
        (4, 0.5076923076923077)
    """

    model: nn.Module
    plan: Plan
    proof: Proof
    groups: Groups
    step: Plan
    recalibration: Recalibration | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    rescaling: Rescaling | None = None
    recovery: Recovery | None = None
