"""`score`: criteria by name or as functions; what those of a slot share: the mean over slots, divided by the lane's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups, Ids, Role, Slot
from channelcut.core.words import kind_of
from channelcut.ops.zeros import idle
from channelcut.scoring.sampled import SAMPLED, Unit

Scores = NDArray[np.float64]
SlotScore = Callable[[Tensor, Slot], "Tensor | None"]
"""Of a tensor and a slot of it: the importance of each position along the slot's axis, or None to leave it out."""
WholeScore = Callable[[Groups, Mapping[str, Tensor], "nn.Module | None"], Any]
"""Of the groups, all tensors and the model: the importance of every channel, shape (channel_count,)."""
Importance = str | SlotScore | WholeScore


def magnitude(power: int) -> SlotScore:
    """Σ|w|^p over all other axes of a weight; p = 1 is L1 (Li et al. 2017, arXiv:1608.08710), p = 2 is squared L2."""

    def of(tensor: Tensor, slot: Slot) -> Tensor | None:
        if slot.role in (Role.BIAS, Role.PARAM) or (slot.role is Role.NORM and not slot.tensor.endswith("weight")):
            return None
        axes = [axis for axis in range(tensor.dim()) if axis != slot.axis]
        powered = tensor.abs().pow(power)
        return powered.sum(axes) if axes else powered

    return of


def batch_norm_scale(tensor: Tensor, slot: Slot) -> Tensor | None:
    """|γ| of the norms that a channel passes (network slimming, Liu et al. 2017, arXiv:1708.06519)."""
    return tensor.abs() if slot.role is Role.NORM and slot.tensor.endswith("weight") else None


def distance_to_others(tensor: Tensor, slot: Slot) -> Tensor | None:
    """Σ over the other filters of the distance to them: what is near the median is replaceable (FPGM, He et al. 2019,
    arXiv:1811.00250).
    """
    if slot.role not in (Role.OUT, Role.DEPTHWISE) or tensor.dim() < 2:
        return None
    filters = tensor.movedim(slot.axis, 0).flatten(1)
    return torch.cdist(filters, filters).sum(1)


DETECTORS, WITH_IMAGES, WITHOUT_IMAGES = "taylor", "fisher", "l2"
"""The criteria where nobody names one: of detectors with images, of others with images, and without images."""

SCORES: dict[str, SlotScore] = {
    "l1": magnitude(1),
    "l2": magnitude(2),
    "bn": batch_norm_scale,
    "fpgm": distance_to_others,
}


def score(
    groups: Groups, tensors: Mapping[str, Tensor], importance: Importance = "l2", model: nn.Module | None = None
) -> Scores:
    """Importance of every channel, shape (channel_count,).

    The importance of a channel is the mean over its slots of what the criterion gives there, divided by the mean of
    its lane, so that groups can be ranked together; a group that the criterion says nothing of is scored by `l2`.
    Fixed and pinned channels get infinity. A function of the whole says the importance of every channel itself, and it
    is taken as it is. Criteria that read images are in `sampled`.

    Args:
        groups: from `couple`.
        tensors: the original parameters and buffers by name.
        importance: a name of `SCORES`, `random`, `tp:NAME` for a criterion of torch-pruning, or a function: with two
            positional parameters it is called with (tensor, slot), once for every slot, with three with (groups,
            tensors, model), once. What it raises is not caught.
        model: the original module; needed for `tp:` criteria.

    Raises:
        UserError: unknown criterion, weights that are not finite, or a function that gives another shape or NaN.
    """
    check_importance(importance)
    _check_finite(groups, tensors)
    if not isinstance(importance, str) and _arity(importance) == 3:
        # Copies: a function of the user's may work in place, and the model that it was given is not ours.
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        clone = None if model is None else private_copy(model)
        return _whole(groups, importance(groups, own, clone), importance_name(importance))  # type: ignore[call-arg, arg-type]
    if reads_images(importance):
        raise without_images(importance_name(importance))
    if importance == "bn" and not any(slot.role is Role.NORM for slot in groups.slots):
        raise UserError("importance 'bn' ranks by batch-norm scales, and this model has no norm. Use l1 or l2.")
    lane_scores = _lane_scores(groups, tensors, importance, model)
    raw, without = np.full(groups.channel_count, np.inf), idle(groups.graph)
    for group in groups.groups:
        read = tuple(index for index in group.slots if groups.slots[index].tensor not in without) or group.slots
        for lane in group.lanes:
            values = lane_scores(lane, read)
            mean = float(np.abs(values).mean())
            raw[lane] = values / mean if mean > 0 else np.ones(len(lane))
    return raw


def check_importance(importance: Any) -> None:
    """Refuse what is no criterion before anything is computed with it.

    Raises:
        UserError: no name that is known, and no function of two or three arguments.
    """
    if importance is None:
        return
    if isinstance(importance, str):
        if importance not in names() and not importance.startswith("tp:"):
            raise UserError(
                f"There is no importance {importance!r}. Choose one of {', '.join(names())}, a "
                "criterion of torch-pruning such as tp:MagnitudeImportance, or pass a function."
            )
    elif not callable(importance) or isinstance(importance, type) or _arity(importance) not in (2, 3):
        kind = importance if isinstance(importance, type) else type(importance)
        peer = f" It is one of torch-pruning: give its name, 'tp:{kind.__name__}'." if _is_peer(kind) else ""
        raise UserError(
            f"importance={importance!r} is no criterion.{peer} Expected a name ({', '.join(names())}, tp:...) "
            "or a function of (tensor, slot) that returns the importance of each position along the slot's axis, or of "
            "(groups, tensors, model) that returns the importance of every channel."
        )


def names() -> list[str]:
    """The criteria that have a name."""
    return sorted({*SCORES, *SAMPLED, "random"})


def reads_images(importance: Importance) -> bool:
    """Whether a criterion is computed of images."""
    return isinstance(importance, str) and importance in SAMPLED


def ranks_by_gradients(importance: Importance) -> bool:
    """Whether a criterion is computed of gradients alone."""
    return isinstance(importance, str) and importance in SAMPLED and SAMPLED[importance].gradients


def check_labels(importance: Importance) -> None:
    """Refuse a criterion that labels say nothing to.

    Raises:
        UserError: it is not computed of gradients.
    """
    if not ranks_by_gradients(importance):
        able = ", ".join(name for name, one in SAMPLED.items() if one.gradients)
        raise UserError(
            f"importance={importance_name(importance)!r} does not read labels. Leave loss= (--labels) out, or choose a "
            f"criterion of gradients: {able}."
        )


def unit_of(importance: Importance) -> Unit:
    """What a score of the criterion says, see `Sampled`; all others are `relative`."""
    return SAMPLED[str(importance)].unit if reads_images(importance) else "relative"


def without_images(name: str) -> UserError:
    """The error of a criterion that reads images and is given none."""
    return UserError(
        f"importance={name!r} is computed of images, and there are none. Give unlabelled images of the kind that the "
        "network will see: calibration= in Python (a tensor (N, C, H, W), a folder, batches), --data on the command "
        f"line; 64 are enough. Without images choose one of {', '.join(sorted(SCORES))}."
    )


def importance_name(importance: Importance) -> str:
    """What a criterion is called in a plan."""
    return importance if isinstance(importance, str) else getattr(importance, "__qualname__", type(importance).__name__)


def _arity(function: Callable[..., Any]) -> int:
    """The number of positional parameters that a function needs."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        return -1
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return -1
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _is_peer(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch_pruning"


def _lane_scores(
    groups: Groups, tensors: Mapping[str, Tensor], importance: Any, model: nn.Module | None
) -> Callable[[Ids, tuple[int, ...]], Scores]:
    """The criterion as a function of a lane and its slots that gives a score to each channel, shape (len(lane),)."""
    if importance == "random":
        return lambda lane, _: np.random.default_rng(int(lane[0])).uniform(0.5, 1.5, len(lane))
    if isinstance(importance, str) and importance.startswith("tp:"):
        from channelcut.scoring.torch_pruning import lane_scores

        return lambda lane, slots: lane_scores(groups, lane, slots, model, importance.removeprefix("tp:"))
    chosen = _by_slot(groups, tensors, SCORES[importance] if isinstance(importance, str) else importance, importance)
    fallback = chosen if importance == "l2" else _by_slot(groups, tensors, SCORES["l2"], "l2")

    def mean(lane: Ids, slots: tuple[int, ...]) -> Scores:
        total, count = slot_sum(groups, lane, slots, chosen)
        if count == 0:  # a group without this criterion's tensors, such as bn without norms
            total, count = slot_sum(groups, lane, slots, fallback)
        return total / max(count, 1)

    return mean


def _by_slot(
    groups: Groups, tensors: Mapping[str, Tensor], criterion: SlotScore, importance: Importance
) -> Callable[[int], Scores | None]:
    """What a criterion gives for each slot, by the slot's index; asked once, however many lanes share a slot."""

    @cache
    def of(index: int) -> Scores | None:
        slot = groups.slots[index]
        tensor = tensors[slot.tensor].detach()
        given = (tensor.abs() if tensor.is_complex() else tensor).float().cpu()
        # Our own criteria leave a tensor as it is; a function of the user's may work in place.
        values = criterion(given if isinstance(importance, str) else given.clone(), slot)
        if values is None:
            return None
        place = f"for axis {slot.axis} of {slot.tensor}"
        return _checked(values, len(slot.channels), f"{importance_name(importance)!r} {place}")

    return of


def _whole(groups: Groups, values: Any, name: str) -> Scores:
    """The scores that a function of the whole gave; what cannot be removed is out of the ranking."""
    given = _checked(values, groups.channel_count, f"{name!r} for all channels")
    return np.where(groups.group_of() >= 0, given, np.inf)


def _checked(values: Any, extent: int, what: str) -> Scores:
    expected = f"Expected one number for each of {extent} channels, shape ({extent},)"
    if not isinstance(values, (Tensor, np.ndarray, list, tuple)):
        raise UserError(f"The importance {what} is {kind_of(values)}. {expected}.")
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"The importance {what} holds no numbers ({error}). {expected}.") from error
    if found.shape != (extent,):
        raise UserError(f"The importance {what} has the shape {found.shape}. {expected}.")
    if np.isnan(found).any():
        raise UserError(f"The importance {what} holds NaN, by which nothing can be ranked. {expected}.")
    return found


def slot_sum(
    groups: Groups, lane: Ids, slots: tuple[int, ...], values_of: Callable[[int], Scores | None]
) -> tuple[Scores, int]:
    """The sum of a criterion over the slots of a lane, shape (len(lane),), and the number of slots it applies to."""
    total, count = np.zeros(len(lane)), 0
    for index in slots:
        inside = np.isin(groups.slots[index].channels, lane)
        values = values_of(index) if inside.any() else None
        if values is not None:
            np.add.at(total, np.searchsorted(lane, groups.slots[index].channels[inside]), values[inside])
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
