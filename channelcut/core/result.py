"""The result of pruning: the new model and everything that says where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

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
class Refit:
    """One layer that compensation looked at.

    before, after: its squared error on the images held back, as a share of what the original's output varies there,
    weighted by what matters to the network's outputs; of the network as it was compensated up to this layer.
    kept: why it stayed as it was; empty where it was refitted.
    """

    layer: str
    before: float
    after: float
    kept: str = ""


@dataclass(frozen=True)
class Compensation:
    """What a compensation did: images, the layers in order, those that it could not look at and why, seconds.

    `refused` says why nothing was compensated at all. `weighted`: positions counted for how much the network's outputs
    depend on them; not where no gradient leads there. `unreadable`: images that could not be decoded.
    """

    images: int = 0
    layers: tuple[Refit, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    refused: str = ""
    weighted: bool = True
    unreadable: int = 0

    @property
    def refitted(self) -> int:
        """How many layers have got other weights."""
        return sum(not refit.kept for refit in self.layers)

    @property
    def errors(self) -> tuple[float, float] | tuple[None, None]:
        """The mean of the layers' errors before and after; None without any."""
        count = len(self.layers)
        if not count:
            return None, None
        return sum(refit.before for refit in self.layers) / count, sum(refit.after for refit in self.layers) / count

    def to_dict(self) -> dict[str, Any]:
        """The compensation as JSON-ready data, for a report."""
        before, after = self.errors
        return asdict(self) | {"refitted": self.refitted, "error_before": before, "error_after": after}

    def to_change(self) -> dict[str, Any]:
        """What a plan says of it, see `Plan.changes`."""
        before, after = self.errors
        return {
            "step": "compensate",
            "images": self.images,
            "layers": self.refitted,
            "not_taken": [refit.layer for refit in self.layers if refit.kept],
            "skipped": dict(self.skipped),
            "error_before": before,
            "error_after": after,
        }


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
        compensation: which layers were refitted, with their errors before and after, where that was chosen.
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
    compensation: Compensation | None = None
    recovery: Recovery | None = None
