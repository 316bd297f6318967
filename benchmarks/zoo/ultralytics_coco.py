"""Ultralytics' detectors with COCO weights, as entries of the zoo: their YAML's network, letterboxed, decoded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.zoo import yolov5
from benchmarks.zoo.registry import Entry, detector

NAMES = ("yolo26n", "yolo11n", "yolov8n")


def build(name: str) -> nn.Module:
    """Return the network of a YAML of theirs."""
    from ultralytics import YOLO

    model: nn.Module = YOLO(f"{name}.yaml").model
    return model


def load(name: str, assets: Path) -> nn.Module:
    """Return the network with the weights of `assets`/weights/<name>_coco.safetensors, in evaluation mode."""
    from safetensors.torch import load_file

    model = build(name)
    tensors = load_file(assets / "weights" / f"{name}_coco.safetensors")
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return model.eval()


def decode(outputs: Any, min_score: float = 0.001) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Turn what the forward returns, first (N, 4 + classes, anchors), into candidates per image, not yet suppressed.

    Each is (boxes (K, 4) as x1 y1 x2 y2 in input pixels, scores (K,), classes (K,)).
    """
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    found = []
    for image in first.detach().float().cpu().numpy().transpose(0, 2, 1):
        centre, half, scores = image[:, :2], image[:, 2:4] / 2, image[:, 4:]
        boxes = np.concatenate((centre - half, centre + half), axis=1)
        anchor, label = np.nonzero(scores > min_score)
        found.append((boxes[anchor], scores[anchor, label], label))
    return found


def entry(name: str, size: int) -> Entry:
    """The entry of one of `NAMES` at a resolution; the accuracy that it is known to have is in the assets' README."""
    module = SimpleNamespace(
        build=lambda: build(name),
        load=lambda assets: load(name, assets),
        preprocess=yolov5.preprocess,
        decode=decode,
    )
    return detector(name, module, size, {})
