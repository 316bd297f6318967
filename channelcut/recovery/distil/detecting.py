"""How a detector teaches its cut where a function says what its outputs detect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from channelcut.core.detections import BOXES, Detections, check_detected, detected

_LEAST = 1e-7  # of a score, whose logarithm is taken
_STRAIGHT = 0.1  # of a box's size: from there on its error counts in proportion, so that single boxes do not rule


class DetectionsLoss:
    """The loss between what a teacher and its student detect; background does not outweigh a few objects.

    Scores: Kullback-Leibler divergence of every class at every anchor, over the sum of the teacher's best scores.
    Boxes: the error of each side in shares of the box's size, weighted by the teacher's best scores.
    """

    def __init__(self, detections: Detections) -> None:
        self.detections, self.checked = detections, False

    def __call__(self, teacher: Any, student: Any) -> Tensor:
        """The loss, shape (), of the results of both on the same inputs."""
        his, own = detected(self.detections, teacher), detected(self.detections, student)
        if not self.checked:  # once: a GPU would wait for the numbers
            check_detected(his)
            self.checked = True
        total = his.confidence.sum().clamp(min=1e-6)
        scores = _divergence(his.scores, own.scores) / total
        errors = (own.boxes - his.boxes) / his.sizes
        sides = F.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none", beta=_STRAIGHT)
        return scores + BOXES * (sides.mean(2, keepdim=True) * his.confidence).sum() / total


def _divergence(wanted: Tensor, given: Tensor) -> Tensor:
    """Of two classes each, (p, 1 - p), summed over all elements; in float32, which autocast refuses to leave."""
    wanted, given = (scores.clamp(_LEAST, 1 - _LEAST) for scores in (wanted, given))
    with torch.autocast(wanted.device.type, enabled=False):
        cross, own = (F.binary_cross_entropy(scores, wanted, reduction="sum") for scores in (given, wanted))
    return cross - own
