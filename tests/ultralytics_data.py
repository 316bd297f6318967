"""Tiny data sets of every task in Ultralytics' layout: a square on noise, a few images of 64 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_CORNERS = "{c} .3 .3 .7 .3 .7 .7 .3 .7"
_BOX = "{c} .5 .5 .4 .4"
LABELS = {"detect": _BOX, "segment": _CORNERS, "obb": _CORNERS, "pose": _BOX + " .4 .5 2" * 17}


def tiny_data(folder: Path, task: str, names: Sequence[str] = ("a", "b"), images: int = 4) -> str:
    """What Ultralytics takes as `data`: the YAML of a data set in `folder`, or the folder of one for classification."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(images):
            kind = index % len(names)
            pixels = random.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            pixels[20:44, 20:44] = 80 + 100 * kind % 150
            if task == "classify":
                _written(folder / split / names[kind] / f"{index}.png", pixels)
                continue
            _written(folder / "images" / split / f"{index}.png", pixels)
            label = folder / "labels" / split / f"{index}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(LABELS[task].format(c=kind) + "\n")
    if task == "classify":
        return str(folder)
    lines = [f"path: {folder}", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {index}: {name}" for index, name in enumerate(names)]
    lines += ["kpt_shape: [17, 3]"] if task == "pose" else []
    (folder / "data.yaml").write_text("\n".join(lines) + "\n")
    return str(folder / "data.yaml")


def _written(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
