"""Every architecture that Ultralytics ships, at its smallest scale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.zoo.catalogue import Example
from channelcut.sources import open_source

SIDE = 256
CLASSIFIER_SIDE = 224
POOLED_SIDE = 288  # yolov8-world pools its maps to 3x3, and Ultralytics' exporter wants windows of one size


def names() -> list[str]:
    """The stems of all YAML files of the package, with the smallest scale that each file offers."""
    import ultralytics
    from ultralytics.utils import YAML

    root = Path(ultralytics.__file__).parent / "cfg" / "models"
    found = []
    for path in sorted(root.rglob("*.yaml")):
        scales = list(YAML.load(path).get("scales") or {})
        found.append(scaled(path.stem, scales[0]) if len(scales) > 1 else path.stem)
    return found


def scaled(stem: str, scale: str) -> str:
    """Put the letter of the scale behind the version, as Ultralytics reads it: `yolo11-seg`, `n` is `yolo11n-seg`."""
    return re.sub(r"^(yolo(?:e-)?v?\d+)", rf"\g<1>{scale}", stem)


@contextmanager
def random_backbones() -> Iterator[None]:
    """A YAML may ask for torchvision's weights of a backbone; all weights of the zoo are random, none are fetched."""
    import torchvision

    original = torchvision.models.get_model
    torchvision.models.get_model = lambda name, **given: original(name, **{**given, "weights": None})
    try:
        yield
    finally:
        torchvision.models.get_model = original


def example(name: str) -> Example:
    """A model from its YAML; the head is the last module of its sequence."""
    with random_backbones():
        model = open_source(f"ultralytics:{name}.yaml").build()
    side = CLASSIFIER_SIDE if "-cls" in name else POOLED_SIDE if name.endswith("-world") else SIDE
    head = f"model.{len(model.model) - 1}"  # type: ignore[arg-type]
    return Example(model, (torch.rand(1, 3, side, side),), (head,))
