"""From raw head maps to boxes and to mean average precision.

A cell of stride s centred on (cx, cy) describes its box by four signed distances in units of s, left, top, right and
bottom (FCOS, Tian et al. 2019, arXiv 1904.01355, without its exponential):
x0 = cx - s·l, y0 = cy - s·t, x1 = cx + s·r, y1 = cy + s·b.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.errors import MissingExtraError
from examples.digits_detector import IMAGE_SIZE, NUM_CLASSES, STRIDES
from examples.digits_scenes import Scene, images_to_input


@dataclass(frozen=True)
class Detections:
    """Boxes (N, 4) as x0, y0, x1, y1 in pixels, scores (N,) in 0..1 and labels (N,), best first."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Accuracy:
    """COCO's mean average precision over IoU 0.50 to 0.95, and at IoU 0.50 alone, both in 0..1."""

    map: float
    map50: float


@functools.cache
def cells(size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
    """Return the centres (A, 2) as x, y in pixels and the strides (A,) of all cells, finest scale first, row by row."""
    centres, strides = [], []
    for stride in STRIDES:
        axis = (torch.arange(size // stride) + 0.5) * stride
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        centres.append(torch.stack((columns, rows), -1).reshape(-1, 2))
        strides.append(torch.full((len(axis) ** 2,), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def flatten(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Turn raw maps (B, 4 + classes, H, W) into distances (B, A, 4) and logits (B, A, classes), ordered as `cells`."""
    joined = torch.cat([level.flatten(2) for level in maps], 2).transpose(1, 2)
    return joined[..., :4], joined[..., 4:]


def boxes_to_distances(boxes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Encode boxes (..., A, 4) in pixels as signed distances (..., A, 4) in strides."""
    return torch.cat((centres - boxes[..., :2], boxes[..., 2:] - centres), -1) / strides[:, None]


def distances_to_boxes(distances: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Invert `boxes_to_distances`: distances (..., A, 4) in strides to boxes (..., A, 4) in pixels."""
    pixels = distances * strides[:, None]
    return torch.cat((centres - pixels[..., :2], centres + pixels[..., 2:]), -1)


def decode(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Turn raw maps into boxes (B, A, 4) in pixels and class probabilities (B, A, classes)."""
    distances, logits = flatten(maps)
    size = maps[0].shape[-1] * STRIDES[0]
    return distances_to_boxes(distances, *cells(size)), logits.sigmoid()


def pairwise_iou(left: Tensor, right: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M)."""
    extent = (torch.minimum(left[:, None, 2:], right[:, 2:]) - torch.maximum(left[:, None, :2], right[:, :2])).clamp(
        min=0
    )
    shared = extent.prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (left, right)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-9)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression of boxes (N, 4): kept positions, best score first."""
    order = scores.argsort(descending=True)
    clash = pairwise_iou(boxes[order], boxes[order]) > threshold
    alive = torch.ones(len(order), dtype=torch.bool)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= ~clash[row, row + 1 :]
    return order[alive]


def detections_of(boxes: Tensor, probabilities: Tensor, least_score: float = 0.02, overlap: float = 0.6) -> Detections:
    """Choose at most 100 detections of one image from boxes (A, 4) and probabilities (A, classes)."""
    candidates, labels = (probabilities > least_score).nonzero(as_tuple=True)
    scores = probabilities[candidates, labels]
    best = scores.topk(min(300, len(scores))).indices
    candidates, labels, scores = candidates[best], labels[best], scores[best]
    # Boxes of different classes are moved a picture apart, so one suppression serves all classes.
    kept = suppress(boxes[candidates] + labels[:, None] * 4.0 * IMAGE_SIZE, scores, overlap)[:100]
    return Detections(boxes[candidates[kept]].numpy(), scores[kept].numpy(), labels[kept].numpy())


@torch.no_grad()
def detect(model: nn.Module, scenes: Sequence[Scene], batch: int = 32) -> list[Detections]:
    """Run the model in evaluation mode over the scenes; its former mode is restored."""
    was_training = model.training
    model.eval()
    found: list[Detections] = []
    for start in range(0, len(scenes), batch):
        boxes, probabilities = decode(model(images_to_input([scene.image for scene in scenes[start : start + batch]])))
        found += [detections_of(*pair) for pair in zip(boxes, probabilities, strict=True)]
    model.train(was_training)
    return found


def _coco_boxes(boxes: NDArray[np.float32]) -> list[list[float]]:
    """x0, y0, x1, y1 to COCO's x, y, width, height."""
    rows: list[list[float]] = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1).astype(float).tolist()
    return rows


def score(found: Sequence[Detections], scenes: Sequence[Scene]) -> Accuracy:
    """Compare detections with the scenes' boxes by COCO's protocol (pycocotools); no detection at all scores 0."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError("pycocotools", "demo", "The mean average precision of the digits demo") from error
    truths: list[dict[str, Any]] = []
    guesses: list[dict[str, Any]] = []
    for image, (scene, found_here) in enumerate(zip(scenes, found, strict=True), 1):
        for box, label in zip(_coco_boxes(scene.boxes), scene.labels.tolist(), strict=True):
            entry = {"id": len(truths) + 1, "image_id": image, "category_id": label, "bbox": box}
            truths.append(entry | {"area": box[2] * box[3], "iscrowd": 0})
        triples = zip(
            _coco_boxes(found_here.boxes), found_here.scores.tolist(), found_here.labels.tolist(), strict=True
        )
        guesses += [
            {"image_id": image, "category_id": label, "bbox": box, "score": value} for box, value, label in triples
        ]
    if not guesses:
        return Accuracy(0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables unasked
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": image + 1} for image in range(len(scenes))],
            "categories": [{"id": label, "name": str(label)} for label in range(NUM_CLASSES)],
            "annotations": truths,
        }
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(guesses), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return Accuracy(float(judge.stats[0]), float(judge.stats[1]))


def evaluate(model: nn.Module, scenes: Sequence[Scene]) -> Accuracy:
    """Mean average precision of the model on the scenes; the model's mode is left as it was."""
    return score(detect(model, scenes), scenes)
