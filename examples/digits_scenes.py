"""Scenes of real handwritten digits on cluttered ground, deterministic by seed.

The digits are scikit-learn's 1,797 scans of 8×8 pixels (UCI Optical Recognition of Handwritten Digits, CC BY 4.0). They
come with the package, so nothing is downloaded. Every fifth scan belongs to the validation scenes alone.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.files import write_atomically

Split = Literal["train", "val"]
Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIZE = 128
SMALLEST, LARGEST = 16, 40
MOST_DIGITS = 8
MAX_OVERLAP = 0.05
INK_THRESHOLD = 0.25
VAL_EVERY = 5


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) uint8 RGB, its boxes (N, 4) as x0, y0, x1, y1 in pixels, and their digits (N,) int64."""

    image: Rgb
    boxes: Floats
    labels: NDArray[np.int64]


@functools.cache
def digit_sources(split: Split) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Return the scans (N, 8, 8) in 0..1, their labels (N,) and their row numbers in the whole set (N,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "demo", "The digits demo") from error
    bunch: Any = load_digits()
    rows = np.arange(len(bunch.target))
    rows = rows[(rows % VAL_EVERY == 0) == (split == "val")]
    return (bunch.images[rows] / 16.0).astype(np.float32), bunch.target[rows].astype(np.int64), rows.astype(np.int64)


def _ground(rng: np.random.Generator) -> Floats:
    """A smooth random ground with strokes and outlines that are no digits, (SIZE, SIZE, 3) in 0..255."""
    cells = int(rng.integers(2, 6))
    base = rng.uniform(10, 100, 3) + rng.normal(0, 25, (cells, cells, 3))
    picture = Image.fromarray(base.clip(0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 10))):
        ink = tuple(int(value) for value in rng.integers(40, 200, 3))
        x, y = rng.integers(-10, SIZE, 2).tolist()
        dx, dy = rng.integers(4, 36, 2).tolist()
        kind = int(rng.integers(0, 4))
        if kind == 0:
            draw.line((x, y, x + dx, y + dy), ink, int(rng.integers(1, 4)))
        elif kind == 1:
            draw.line((x + dx, y, x, y + dy), ink, int(rng.integers(1, 4)))
        elif kind == 2:
            draw.rectangle((x, y, x + dx, y + dy), outline=ink, width=int(rng.integers(1, 3)))
        else:
            start = int(rng.integers(0, 360))
            draw.arc((x, y, x + dx, y + dy), start, start + int(rng.integers(40, 150)), ink, int(rng.integers(1, 4)))
    return np.asarray(picture, np.float32)


def _stamp(scan: Floats, rng: np.random.Generator) -> Floats:
    """Enlarge and rotate one scan (8, 8); return its ink (h, w) in 0..1, cropped to the digit."""
    side = int(rng.integers(SMALLEST, LARGEST + 1))
    picture = Image.fromarray((scan * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    picture = picture.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BILINEAR, expand=True)
    ink: Floats = (np.asarray(picture, np.float32) / 255).astype(np.float32)
    rows, columns = np.nonzero(ink > INK_THRESHOLD)
    return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _overlaps(box: Floats, others: list[Floats]) -> bool:
    """Say whether the box shares more than `MAX_OVERLAP` of the smaller area with any other."""
    for other in others:
        shared = np.prod(np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None))
        if shared > MAX_OVERLAP * min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2])):
            return True
    return False


def make_scene(seed: int, index: int, split: Split = "train") -> Scene:
    """Draw scene `index` of the series `seed`: equal arguments give equal pixels, in any order of calls."""
    rng = np.random.default_rng((seed, index, split == "val"))
    scans, digits, _ = digit_sources(split)
    canvas = _ground(rng)
    boxes: list[Floats] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(3, MOST_DIGITS + 1))):
        pick = int(rng.integers(len(scans)))
        ink = _stamp(scans[pick], rng)
        height, width = ink.shape
        for _ in range(12):
            x, y = int(rng.integers(0, SIZE - width + 1)), int(rng.integers(0, SIZE - height + 1))
            box = np.array((x, y, x + width, y + height), np.float32)
            if not _overlaps(box, boxes):
                break
        else:
            continue
        patch = canvas[y : y + height, x : x + width]
        colour = rng.uniform(140, 255, 3).astype(np.float32)
        patch += ink[..., None] * float(rng.uniform(0.75, 1.0)) * (colour - patch)
        boxes.append(box)
        labels.append(int(digits[pick]))
    canvas += rng.normal(0, rng.uniform(2, 12), canvas.shape).astype(np.float32)
    image: Rgb = canvas.clip(0, 255).astype(np.uint8)
    return Scene(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))


def make_scenes(count: int, seed: int, split: Split = "train", first: int = 0) -> list[Scene]:
    """Draw `count` scenes of the series `seed`, from index `first` on."""
    return [make_scene(seed, first + index, split) for index in range(count)]


def images_to_input(images: list[Rgb]) -> Tensor:
    """Stack images (H, W, 3) uint8 RGB to the network's input (N, 3, H, W): divided by 255, no mean, no deviation.

    ``channelcut compress --data FOLDER`` loads image files in the same way (RGB, resized to the input size, /255), so
    the calibration images reach the network exactly as the training images did.
    """
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().div_(255)


def write_calibration_images(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` unlabelled training-side scenes as PNG into `folder`, replacing the scenes of an earlier call."""
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{folder} is a file, but the calibration images need a folder of that name. Name another folder."
        )
    paths = []
    for index in range(count):
        path = folder / f"scene_{index:04d}.png"
        encoded = io.BytesIO()
        Image.fromarray(make_scene(seed, index).image).save(encoded, "PNG")
        write_atomically(path, encoded.getvalue())
        paths.append(path)
    for stale in set(folder.glob("scene_*.png")) - set(paths):
        stale.unlink()
    return paths
