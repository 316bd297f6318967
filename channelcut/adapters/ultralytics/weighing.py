"""How much the outputs of Ultralytics' detectors count: scores as they are, boxes by their confidence and size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from channelcut.adapters.ultralytics.deployed import undeployed_modules
from channelcut.core.deployed import Deploy
from channelcut.core.sensitivity import Weighing, floating

# Precision is averaged over IoU up to 0.95, which asks more of boxes than of scores (benchmarks/scores.py has both).
BOXES = 4.0
_FURTHER = ("mask_coefficient", "kpts", "angle")  # beside boxes and scores, for each anchor


def detections(model: nn.Module, deploy: Deploy, boxes: float = BOXES) -> Weighing:
    """What the deployed head detects; of a network without boxes and scores, the first output.

    A change counts `boxes` times as much as a share of the size of a box whose confidence is 1 as it does as a score;
    the many anchors of the background, whose boxes nobody reads, count by their scores alone.
    """
    head: Any = list(model.model.children())[-1]  # type: ignore[operator, union-attr]
    if not hasattr(head, "dfl"):
        return Weighing(lambda result: [floating(result)[0]])
    gone = undeployed_modules(model, deploy)
    chosen = "one2one" if any(path.endswith(".cv2") for path in gone) else "one2many"

    def leaves(result: Any) -> list[Tensor]:
        found = list(_predictions(result, chosen))
        return [leaf for one in found for leaf in _weighed(one, head, boxes)]

    return Weighing(leaves, in_units=True)


def _predictions(result: Any, chosen: str) -> Iterator[Mapping[str, Tensor]]:
    """The raw predictions of the deployed head in a result."""
    if isinstance(result, Mapping):
        if "boxes" in result and "scores" in result:
            yield result
        elif chosen in result:
            yield from _predictions(result[chosen], chosen)
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from _predictions(part, chosen)


def _weighed(found: Mapping[str, Tensor], head: Any, boxes: float) -> Iterator[Tensor]:
    scores = found["scores"].sigmoid()  # (N, classes, anchors)
    confidence = scores.detach().amax(1, keepdim=True)
    sides = head.dfl(found["boxes"])  # left, top, right, bottom in strides (N, 4, anchors)
    size = (sides[:, :2] + sides[:, 2:]).detach().abs().clamp_min(0.5)
    yield scores
    yield boxes * confidence * sides / size.repeat(1, 2, 1)
    for name in _FURTHER:
        if name in found:
            yield confidence * found[name] / found[name].detach().std().clamp_min(1e-6)
    if "proto" in found:
        for proto in found["proto"] if isinstance(found["proto"], tuple) else (found["proto"],):
            yield proto / proto.detach().std().clamp_min(1e-6) / proto[0, 0].numel() ** 0.5
