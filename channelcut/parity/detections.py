"""Do two outputs of a detector find the same boxes?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MIN_IOU = 0.9
AT_LEAST = 20  # where no box reaches the score, the best ones are compared: untrained weights score low everywhere
_AT_MOST = 300
_TIE = 1e-3  # of an end-to-end detector, boxes whose score ties with the last that was kept: rounding picked them
_SLACK = 0.5  # a partner may score this much of the threshold: a box at the edge of the score is no disagreement


def is_end_to_end(shape: tuple[int, ...]) -> bool:
    """(N, boxes, 6): x1, y1, x2, y2, score, class of the best boxes, by score."""
    return len(shape) == 3 and shape[2] == 6 and 1 < shape[1] <= 1000


def is_raw(shape: tuple[int, ...]) -> bool:
    """(N, 4 + classes, anchors): centre x, y, width, height, then a score a class, as Ultralytics' heads give them.

    Behind the classes may stand what else a box has: coefficients of a mask, keypoints, an angle.
    """
    return len(shape) == 3 and shape[1] >= 5 and shape[2] >= 4 * shape[1]


def agreement(
    reference: Array, candidate: Array, score: float = 0.25, classes: int | None = None, least: int = AT_LEAST
) -> tuple[float, int] | None:
    """Share of boxes that have a partner on the other side (IoU of at least 0.9, same class), and how many were asked.

    Both ways round, over all images. The boxes asked are those of at least `score`, or the `least` best of an image
    where none reaches it; of an end-to-end detector only those that rounding cannot have picked, whose score is above
    that of the last box by more than a tie. `classes`: how many scores a raw output has, where not all else are. None
    for outputs of neither form.
    """
    if reference.shape != candidate.shape or not (is_end_to_end(reference.shape) or is_raw(reference.shape)):
        return None
    matched = asked = 0
    for one, other in zip(reference, candidate, strict=True):
        sides = _boxes(one, classes), _boxes(other, classes)
        edge = max(side[-1, 4] for side in sides) if is_end_to_end(reference.shape) else 0.0
        for mine, theirs in (sides, sides[::-1]):
            hit, count = _matched(mine[mine[:, 4] > edge * (1 + _TIE)], theirs, score, least)
            matched, asked = matched + hit, asked + count
    return matched / asked if asked else 1.0, asked


def agreement_of_rows(
    reference: Array, candidate: Array, score: float = 0.25, least: int = AT_LEAST
) -> tuple[float, int]:
    """As `agreement`, for one image whose boxes are decoded: rows (K, 6) of x1, y1, x2, y2, score, class."""
    sides = [rows[np.argsort(-rows[:, 4], kind="stable")].astype(np.float64) for rows in (reference, candidate)]
    found = [_matched(mine, theirs, score, least) for mine, theirs in (sides, sides[::-1])]
    asked = sum(count for _, count in found)
    return sum(hit for hit, _ in found) / asked if asked else 1.0, asked


def _boxes(output: Array, classes: int | None) -> Array:
    """Rows of x1, y1, x2, y2, score, class, best first; values that are not finite score nothing."""
    found = np.array(output, np.float64)
    if not is_end_to_end((1, *found.shape)):
        scores = found[4:] if classes is None else found[4 : 4 + classes]
        centre, half = found[:2], found[2:4] / 2
        found = np.concatenate([centre - half, centre + half, scores.max(0)[None], scores.argmax(0)[None]]).T
    found[~np.isfinite(found).all(axis=1)] = 0.0
    return found[np.argsort(-found[:, 4], kind="stable")]


def _matched(mine: Array, theirs: Array, score: float, least: int) -> tuple[int, int]:
    count = min(int((mine[:, 4] >= score).sum()) or min(least, len(mine)), _AT_MOST)
    asked = mine[:count]
    if not count:
        return 0, 0
    partners = theirs[theirs[:, 4] >= _SLACK * min(score, asked[-1, 4])]
    if not len(partners):
        return 0, count
    low = np.maximum(asked[:, None, :2], partners[None, :, :2])
    high = np.minimum(asked[:, None, 2:4], partners[None, :, 2:4])
    both = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(side[:, 2:4] - side[:, :2], 0, None).prod(-1) for side in (asked, partners)]
    iou = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12)
    same = asked[:, None, 5] == partners[None, :, 5]
    return int(((iou >= MIN_IOU) & same).any(1).sum()), count
