"""Accuracy: suppression of duplicate boxes, COCO average precision, and top-1."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.zoo.data import Sample
from channelcut.core.errors import MissingExtraError

MAX_CANDIDATES = 3000
MAX_DETECTIONS = 300


@dataclass(frozen=True)
class Detections:
    """What was found in one image: boxes (K, 4) as x1 y1 x2 y2 in image pixels, scores (K,), classes (K,)."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    classes: NDArray[Any]


def pairwise_iou(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return intersection over union, (K, K), of boxes (K, 4) among themselves; boxes without area give 0."""
    x1, y1, x2, y2 = boxes.T
    width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    overlap = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = np.clip(x2 - x1, 0, None) * np.clip(y2 - y1, 0, None)
    union = areas[:, None] + areas[None, :] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(union), where=union > 0))


def candidates(
    scores: Tensor, boxes: Tensor, min_score: float = 0.001
) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Of scores (N, anchors, classes) and boxes (N, anchors, 4) those above `min_score`, image by image.

    Each is (boxes (K, 4), scores (K,), classes (K,)); an anchor may appear once for every class.
    """
    found = []
    for image_scores, image_boxes in zip(scores, boxes, strict=True):
        anchor, label = torch.nonzero(image_scores > min_score, as_tuple=True)
        found.append((image_boxes[anchor].numpy(), image_scores[anchor, label].numpy(), label.numpy()))
    return found


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], max_iou: float, max_count: int = MAX_DETECTIONS
) -> NDArray[np.int64]:
    """Return the indices of the boxes that survive greedy suppression within each class, best score first.

    A box falls when a better one of the same class that itself survived overlaps it by more than `max_iou`. Only the
    best `MAX_CANDIDATES` boxes are looked at and at most `max_count` are returned.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    survives = np.ones(order.size, dtype=bool)
    for label in np.unique(classes[order]):
        places = np.flatnonzero(classes[order] == label)
        overlaps = pairwise_iou(boxes[order[places]].astype(np.float64)) > max_iou
        alive = np.ones(places.size, dtype=bool)
        for i in range(places.size):
            if alive[i]:
                alive[i + 1 :] &= ~overlaps[i, i + 1 :]
        survives[places] = alive
    return np.asarray(order[survives][:max_count], dtype=np.int64)


def average_precision(found: Sequence[Detections], truth: Sequence[Sample]) -> dict[str, float]:
    """Return {"map", "ap50"}, fractions of 1: COCO's mean over IoU 0.50 to 0.95, and at IoU 0.50.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: the two sequences do not have one entry per image each.
    """
    evaluation = evaluated(found, truth)
    return {"map": 0.0, "ap50": 0.0} if evaluation is None else _summed(evaluation)


def evaluated(found: Sequence[Detections], truth: Sequence[Sample]) -> Any:
    """COCO's evaluation of every image, for `redrawn`; None where nothing was found. Raises as `average_precision`."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError("pycocotools", "demo", "Average precision") from error
    results = [
        row for number, image in zip(_image_ids(found, truth), found, strict=True) for row in _rows(number, image)
    ]
    if not results:
        return None
    # pycocotools prints its progress and its table; the caller has its own.
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = _reference(truth)
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
    return evaluation


def redrawn(evaluation: Any, images: Sequence[int]) -> float:
    """The mAP that COCO's evaluation comes to on `images` alone, by number, some of them several times."""
    if evaluation is None:
        return 0.0
    drawn = copy.copy(evaluation)
    count = len(evaluation.params.imgIds)
    parts = range(0, len(evaluation.evalImgs), count)  # one for each class and range of areas
    drawn.evalImgs = [evaluation.evalImgs[first + image] for first in parts for image in images]
    return _summed(drawn)["map"]


def _summed(evaluation: Any) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return {"map": float(evaluation.stats[0]), "ap50": float(evaluation.stats[1])}


def top1(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return {"top1"}, the fraction of rows of `logits` (N, classes) whose largest entry is at `labels` (N,)."""
    return {"top1": float((logits.argmax(1) == labels).double().mean())}


def _image_ids(found: Sequence[Detections], truth: Sequence[Sample]) -> range:
    if len(found) != len(truth):
        raise ValueError(f"{len(found)} images of detections were given for {len(truth)} images of truth.")
    return range(1, len(truth) + 1)


def _rows(image_id: int, image: Detections) -> list[dict[str, Any]]:
    sizes = image.boxes[:, 2:] - image.boxes[:, :2]
    table = np.concatenate((image.boxes[:, :2], sizes), axis=1).tolist()
    return [
        {"image_id": image_id, "category_id": int(label) + 1, "bbox": box, "score": float(score)}
        for box, score, label in zip(table, image.scores, image.classes, strict=True)
    ]


def _reference(truth: Sequence[Sample]) -> dict[str, Any]:
    # Identifiers start at 1: pycocotools takes a match with annotation 0 for no match.
    annotations: list[dict[str, Any]] = []
    for image_id, sample in enumerate(truth, start=1):
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.classes, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label) + 1}
                | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    labels = sorted({row["category_id"] for row in annotations})
    images = [
        {"id": number, "width": sample.image.shape[1], "height": sample.image.shape[0]}
        for number, sample in enumerate(truth, start=1)
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": i} for i in labels]}
