"""Unlabelled images from a folder, prepared as the network expects them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from channelcut.core.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
# How files of these formats begin. What begins otherwise is not handed to Pillow at all: Ultralytics, once imported,
# replaces PIL.Image.open by one that runs pip when a file is of no known format.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: x = (pixel * scale - mean) / std, channel by channel.

    `fit` stretches the image to the input's size or letterboxes it (aspect kept, centred, filled with grey 114).
    `mean` and `std` are in units after scaling; `bgr` reverses the channels first.
    """

    fit: Literal["stretch", "letterbox"] = "stretch"
    bgr: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        sequences = isinstance(self.mean, (tuple, list)) and isinstance(self.std, (tuple, list))
        if (
            not sequences
            or not all(math.isfinite(v) for v in (self.scale, *self.mean, *self.std))
            or 0 in self.std
            or {len(self.mean), len(self.std)} - {1, 3}
        ):
            raise UserError(
                f"mean={self.mean}, std={self.std}, scale={self.scale} cannot prepare an image. Expected finite "
                f"numbers, "
                "one or three for mean and std, and no std of 0."
            )


def load_images(
    folder: Path, shape: tuple[int, int, int], preprocessing: Preprocessing | None = None, limit: int = 256
) -> tuple[torch.Tensor, list[str]]:
    """Read up to `limit` images, in the order of their names.

    Args:
        folder: searched recursively.
        shape: (channels, height, width) of the network's input; 1 channel reads grey, 3 reads RGB.
        preprocessing: defaults to RGB, stretched, divided by 255.
        limit: the most images to read.

    Returns:
        The batch, shape (N, channels, height, width) float32, and the names of files that could not be read.

    Raises:
        UserError: the folder is missing, or holds no readable image.
    """
    how = preprocessing or Preprocessing()
    if not Path(folder).is_dir():
        raise UserError(
            f"There is no folder {folder}. --data expects a folder with images ({', '.join(sorted(SUFFIXES))})."
        )
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    batch: list[torch.Tensor] = []
    broken: list[str] = []
    for path in files:
        if len(batch) == limit:
            break
        image = _read(path)
        if image is None:
            broken.append(path.name)
        else:
            batch.append(_prepare(image, shape, how))
    if not batch:
        found = f"{len(files)} files look like images, but none can be read" if files else "it holds none"
        raise UserError(
            f"No image was found in {folder}: {found}. Batch-norm recalibration needs a few dozen unlabelled images "
            f"({', '.join(sorted(SUFFIXES))}) like those of deployment. Give another --data folder, or leave --data "
            f"out."
        )
    return torch.stack(batch), broken


def readable(path: Path) -> bool:
    """Whether a file begins as one of a known format does."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(SIGNATURES)
    except OSError:
        return False


def _read(path: Path) -> Image.Image | None:
    """The decoded image, or None where the file is damaged or of another kind."""
    try:
        if not readable(path):
            return None
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError, ImportError, Image.DecompressionBombError):
        return None


def _prepare(image: Image.Image, shape: tuple[int, int, int], how: Preprocessing) -> torch.Tensor:
    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(
            f"The network takes {channels} channels, and images have 1 or 3. Pass calibration tensors from Python "
            f"instead."
        )
    image = image.convert("L" if channels == 1 else "RGB")
    if how.fit == "stretch":
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    else:
        ratio = min(width / image.width, height / image.height)
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        canvas = Image.new(image.mode, (width, height), 114 if channels == 1 else (114, 114, 114))
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR), ((width - size[0]) // 2, (height - size[1]) // 2))
        pixels = np.asarray(canvas)
    array = pixels.reshape(height, width, channels).astype(np.float32)
    if how.bgr:
        array = array[:, :, ::-1]
    scaled = (array * how.scale - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32))
