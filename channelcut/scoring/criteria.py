"""`score`: the criteria by name, and what they share: the mean over slots, divided by the mean of the group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.errors import UserError
from channelcut.core.groups import Groups, Ids, Slot

Scores = NDArray[np.float64]
SlotScore = Callable[[Tensor, Slot], "Tensor | None"]


def magnitude(power: int) -> SlotScore:
    """Σ|w|^p over all other axes of a weight; p = 1 is L1 (Li et al. 2017, arXiv:1608.08710), p = 2 is squared L2."""

    def of(tensor: Tensor, slot: Slot) -> Tensor | None:
        if not slot.tensor.endswith("weight") or slot.role in ("bias", "param"):
            return None
        axes = [axis for axis in range(tensor.dim()) if axis != slot.axis]
        powered = tensor.abs().pow(power)
        return powered.sum(axes) if axes else powered

    return of


def batch_norm_scale(tensor: Tensor, slot: Slot) -> Tensor | None:
    """|γ| of the norms that a channel passes (network slimming, Liu et al. 2017, arXiv:1708.06519)."""
    return tensor.abs() if slot.role == "norm" and slot.tensor.endswith("weight") else None


SCORES: dict[str, SlotScore] = {"l1": magnitude(1), "l2": magnitude(2), "bn": batch_norm_scale}


def score(
    groups: Groups, tensors: Mapping[str, Tensor], importance: str = "l2", model: torch.nn.Module | None = None
) -> Scores:
    """Importance of every channel, shape (channel_count,).

    The importance of a channel is the mean over its slots of what the criterion gives there, divided by the mean of
    its lane, so that groups can be ranked together. Fixed and pinned channels get infinity.

    Args:
        groups: from `couple`.
        tensors: the original parameters and buffers by name.
        importance: `l1`, `l2`, `bn`, `random`, or `tp:NAME` for a criterion of torch-pruning.
        model: the original module; needed for `tp:` criteria.

    Raises:
        UserError: unknown criterion, or weights that are not finite.
    """
    _check_finite(groups, tensors)
    if importance == "bn" and not any(slot.role == "norm" for slot in groups.slots):
        raise UserError("importance 'bn' ranks by batch-norm scales, and this model has no norm. Use l1 or l2.")
    raw = np.full(groups.channel_count, np.inf)
    for group in groups.groups:
        for lane in group.lanes:
            values = _lane_scores(groups, lane, group.slots, tensors, importance, model)
            mean = float(values.mean())
            raw[lane] = values / mean if mean > 0 else np.ones(len(lane))
    return raw


def _lane_scores(
    groups: Groups,
    lane: Ids,
    slots: tuple[int, ...],
    tensors: Mapping[str, Tensor],
    importance: str,
    model: torch.nn.Module | None,
) -> Scores:
    if importance == "random":
        return np.random.default_rng(int(lane[0])).uniform(0.5, 1.5, len(lane))
    if importance.startswith("tp:"):
        from channelcut.scoring.torch_pruning import lane_scores

        return lane_scores(groups, lane, slots, model, importance.removeprefix("tp:"))
    if importance not in SCORES:
        raise UserError(
            f"There is no importance {importance!r}. Choose one of {', '.join(sorted(SCORES))}, random, or a "
            f"criterion of "
            "torch-pruning such as tp:MagnitudeImportance."
        )
    total, count = slot_mean(groups, lane, slots, tensors, SCORES[importance])
    if count == 0 and importance != "l2":  # a group without this criterion's tensors, such as bn without norms
        total, count = slot_mean(groups, lane, slots, tensors, SCORES["l2"])
    return total / max(count, 1)


def slot_mean(
    groups: Groups, lane: Ids, slots: tuple[int, ...], tensors: Mapping[str, Tensor], criterion: SlotScore
) -> tuple[Scores, int]:
    """The sum of a criterion over the slots of a lane, shape (len(lane),), and the number of slots it applies to."""
    total, count = np.zeros(len(lane)), 0
    for index in slots:
        slot = groups.slots[index]
        inside = np.isin(slot.channels, lane)
        if not inside.any():
            continue
        values = criterion(tensors[slot.tensor].detach().float().cpu(), slot)
        if values is not None:
            found = values.to(torch.float64).numpy()[inside]
            np.add.at(total, np.searchsorted(lane, slot.channels[inside]), found)
            count += 1
    return total, count


def _check_finite(groups: Groups, tensors: Mapping[str, Tensor]) -> None:
    bad = sorted({s.tensor for s in groups.slots if not bool(torch.isfinite(tensors[s.tensor].detach()).all())})
    if bad:
        raise UserError(
            f"The weights are not finite: {', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''} holds NaN or "
            f"infinity, so "
            "no importance can be computed. Expected: a trained model. Load a checkpoint from before the divergence."
        )
