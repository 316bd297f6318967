"""How a detector of Ultralytics' teaches its cut: what it is sure of counts, and the background does not outweigh it.

In evaluation mode these networks return, beside the decoded boxes, what every head said before: `scores` (N, classes,
anchors) as logits and `boxes` (N, 4 or 4 · bins, anchors), of YOLO26 and YOLOv10 for `one2many` and `one2one`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channelcut.adapters.ultralytics.data import task_of
from channelcut.recovery.distil.losses import Teaching

_BOXES = ("detect", "segment", "pose", "obb")
_FIXED = ("*.dfl.*",)  # the numbers of the bins of a box, which their trainers keep as well


def teaching(model: nn.Module) -> Teaching:
    """The loss of the heads where the network is a detector of theirs with such heads; else every output by itself."""
    if task_of(model) not in _BOXES or "RTDETR" in type(model).__name__:
        return Teaching(fixed=_FIXED)
    return Teaching(heads_loss, _FIXED, dense=True)


def heads_loss(teacher: Any, student: Any) -> Tensor | None:
    """The mean over the heads of what they differ by; None for results that hold no such heads.

    Scores: Kullback-Leibler divergence of every class at every anchor, over the sum of the teacher's best scores. All
    else that has a value for each anchor: squared differences in the teacher's variances, weighted by its best scores.
    """
    pairs = list(zip(_heads(teacher), _heads(student), strict=True))
    return torch.stack([_head_loss(his, own) for his, own in pairs]).mean() if pairs else None


def _heads(result: Any) -> list[Mapping[str, Tensor]]:
    """What the heads say, found by the names of their parts."""
    if isinstance(result, Mapping):
        if "scores" in result and "boxes" in result:
            return [result]
        return [head for value in result.values() for head in _heads(value)]
    if isinstance(result, (tuple, list)):
        return [head for value in result for head in _heads(value)]
    return []


def _head_loss(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> Tensor:
    logits = teacher["scores"].float()
    wanted = logits.sigmoid()
    sure = wanted.amax(1, keepdim=True)
    total = sure.sum().clamp(min=1e-6)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    found = [(F.binary_cross_entropy_with_logits(student["scores"].float(), wanted, reduction="sum") - entropy) / total]
    for name, his in teacher.items():
        own = student.get(name)
        if name == "scores" or not isinstance(his, Tensor) or own is None or his.shape != own.shape:
            continue
        if his.shape[-1] != sure.shape[-1]:
            continue
        values = his.float()
        centre = (values * sure).sum((0, 2), keepdim=True) / total
        scale = ((values - centre).square().mean(1, keepdim=True) * sure).sum() / total
        difference = ((own.float() - values).square().mean(1, keepdim=True) * sure).sum() / total
        found.append(difference / scale.clamp(min=1e-6))
    return torch.stack(found).sum()
