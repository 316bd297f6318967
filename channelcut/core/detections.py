"""What the outputs of a user's detector say, as a function of theirs reads them, and how much of it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from channelcut.core.copies import cloned
from channelcut.core.errors import UserError
from channelcut.core.sensitivity import Weighing, floating
from channelcut.core.words import kind_of

Detections = Callable[[Any], Mapping[str, Tensor]]
"""detections(outputs) -> {"scores": (N, anchors, classes), "boxes": (N, anchors, 4)}, see `channelcut.plan`."""

# Precision is averaged over IoU up to 0.95, which asks more of boxes than of scores (benchmarks/scores.py has both).
BOXES = 4.0
_EXPECTED = (
    'Expected {"scores": (N, anchors, classes) from 0 to 1, "boxes": (N, anchors, 4) as x1, y1, x2, y2}, of every '
    "anchor before suppression."
)


class DetectionsError(UserError):
    """A function that should read what outputs detect does not."""


class Detected(NamedTuple):
    """Candidates before suppression: scores (N, anchors, classes) from 0 to 1, boxes (N, anchors, 4) as x1 y1 x2 y2."""

    scores: Tensor
    boxes: Tensor

    @property
    def confidence(self) -> Tensor:
        """The best score of each anchor, (N, anchors, 1), without a gradient."""
        return self.scores.detach().amax(2, keepdim=True)

    @property
    def sizes(self) -> Tensor:
        """Width and height of each box, twice, (N, anchors, 4), without a gradient; a pixel at least."""
        boxes = self.boxes.detach()
        return (boxes[..., 2:] - boxes[..., :2]).abs().clamp_min(1.0).repeat(1, 1, 2)


def detected(detections: Detections, result: Any) -> Detected:
    """What a user's function reads in the result of a forward, in float32.

    Raises:
        DetectionsError: it fails, or returns something else.
    """
    try:
        found = detections(cloned(result))  # it may decode in place
    except UserError as error:
        raise DetectionsError(str(error)) from error
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DetectionsError(
            f"detections(outputs) fails with {said}. It is called with what the forward returns."
        ) from error
    parts = [found.get(name) if isinstance(found, Mapping) else None for name in ("scores", "boxes")]
    if not all(isinstance(part, Tensor) and part.is_floating_point() and part.dim() == 3 for part in parts):
        said = (
            ", ".join(f"{key}: {_words(value)}" for key, value in found.items()) if isinstance(found, Mapping) else ""
        )
        raise DetectionsError(f"detections(outputs) returns {kind_of(found)} ({said or 'no mapping'}). {_EXPECTED}")
    scores, boxes = (part.float() for part in parts if part is not None)
    if scores.shape[:2] != boxes.shape[:2] or boxes.shape[2] != 4 or not scores.numel():
        raise DetectionsError(
            f"detections(outputs) returns scores of shape {tuple(scores.shape)} and boxes of shape "
            f"{tuple(boxes.shape)}. {_EXPECTED}"
        )
    return Detected(scores, boxes)


def check_detected(found: Detected) -> None:
    """Refuse scores that are none, as logits are, and boxes that are not finite.

    Raises:
        DetectionsError: says between which numbers the scores are.
    """
    if not bool(torch.isfinite(found.boxes.detach()).all()):
        raise DetectionsError("detections(outputs) returns boxes that are not finite. Expected corners in pixels.")
    low, high = found.scores.detach().min().item(), found.scores.detach().max().item()
    if not (low >= 0.0 and high <= 1.0):
        raise DetectionsError(
            f"detections(outputs) returns scores from {low:.3g} to {high:.3g}. Expected numbers from 0 to 1: of "
            "logits, their sigmoid or softmax."
        )


def weighing(detections: Detections) -> Weighing:
    """A change counts as a score, and `BOXES` times as much as a share of the size of a box whose confidence is 1.

    The many anchors of the background, whose boxes nobody reads, count by their scores alone.
    """

    def leaves(result: Any) -> Sequence[Tensor]:
        found = detected(detections, result)
        check_detected(found)
        if (
            not found.scores.requires_grad
            and torch.is_grad_enabled()
            and any(t.requires_grad for t in floating(result))
        ):
            raise DetectionsError(
                "No gradient leads through detections(outputs) to the outputs: it detaches them, or leaves torch. "
                "Expected tensors that are computed of them by torch alone."
            )
        return [found.scores, BOXES * found.confidence * found.boxes / found.sizes]

    return Weighing(leaves, in_units=True)


def _words(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind_of(value)
