"""Unlabelled images from a folder, prepared as the network expects them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from channelcut.core.errors import UserError
from channelcut.core.words import kind_of

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
# How files of these formats begin. What begins otherwise is not handed to Pillow at all: Ultralytics, once imported,
# replaces PIL.Image.open by one that runs pip when a file is of no known format.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF", b"II*\0", b"MM\0*")
FITS = ("stretch", "letterbox", "crop")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: x = (pixel * scale - mean) / std, channel by channel.

    `fit` makes the image as large as the input: stretch it, letterbox it (aspect kept, centred, filled with grey 114),
    or crop it (aspect kept, what is too long cut off on both sides). `mean` and `std` are in units after scaling; `bgr`
    reverses the channels first. `share` is that of the resized image's sides that is kept around its centre where it is
    stretched or cropped: 0.875 resizes to 256 for an input of 224. `interpolation` is Pillow's, by name. `by` says, for
    reports, who says so.
    """

    fit: Literal["stretch", "letterbox", "crop"] = "stretch"
    bgr: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    share: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    by: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.fit not in FITS or self.interpolation not in INTERPOLATIONS or not 0 < self.share <= 1:
            raise UserError(
                f"fit={self.fit!r}, share={self.share!r}, interpolation={self.interpolation!r} prepare no image. "
                f"Expected a fit of {', '.join(FITS)}, a share above 0 and at most 1, and an interpolation of "
                f"{', '.join(INTERPOLATIONS)}."
            )
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


_BROKEN = 0.5  # share of a folder that may be unreadable: beyond it something is wrong with the folder


@dataclass(frozen=True)
class Read:
    """Images that were read, shape (N, channels, height, width), and the names of those that could not be."""

    images: torch.Tensor
    broken: tuple[str, ...] = ()


def check_readable(where: str, files: int, broken: int, fewest: int = 1) -> None:
    """Refuse images most of which cannot be decoded.

    Args:
        where: they are, in words: `in FOLDER`.
        files: how many there are.
        broken: how many of these cannot be decoded.
        fewest: how many are of any use.

    Raises:
        UserError: fewer can be, or more than half of them cannot.
    """
    if files - broken < fewest or broken > _BROKEN * files:
        raise UserError(
            f"Of {files} images {where}, {broken} cannot be decoded, which leaves {files - broken}: too few to learn "
            "from, or another folder than was meant. Expected some hundred unlabelled images like those of deployment "
            "(JPEG, PNG, BMP, WebP, TIFF); take the damaged ones out, or name another folder."
        )


def unreadable_words(count: int, read: int, names: Sequence[str]) -> str:
    """What a reader has to know of images that could not be decoded, some of them by name, beside those that were."""
    some = ", ".join(names[:3]) + (f" and {count - 3} more" if count > 3 else "")
    return f"{count} of {count + read} images could not be decoded and were left out: {some}."


def check_preprocessing(value: Any) -> None:
    """Refuse what is neither None nor says how images become inputs."""
    if value is not None and not isinstance(value, Preprocessing):
        raise UserError(
            f"preprocessing is {kind_of(value)}. Expected channelcut.Preprocessing(fit=..., mean=..., std=...)."
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
        UserError: the folder is missing, holds no readable image, or more that cannot be read than can.
    """
    how = preprocessing or Preprocessing()
    files = image_files(folder)
    batch: list[torch.Tensor] = []
    broken: list[str] = []
    for path in files:
        if len(batch) == limit:
            break
        image = decoded(path)
        if image is None:
            broken.append(path.name)
        else:
            batch.append(prepared(image, shape, how))
    if not batch:
        found = f"{len(files)} files look like images, but none can be read" if files else "it holds none"
        raise UserError(
            f"No image was found in {folder}: {found}. Batch-norm recalibration needs a few dozen unlabelled images "
            f"({', '.join(sorted(SUFFIXES))}) like those of deployment. Give another --data folder, or leave --data "
            f"out."
        )
    check_readable(f"in {folder}", len(files), len(broken))
    return torch.stack(batch), broken


def image_files(folder: Path) -> list[Path]:
    """The files in a folder that look like images by their names, searched recursively, in the order of these.

    Raises:
        UserError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise UserError(
            f"There is no folder {folder}. --data expects a folder with images ({', '.join(sorted(SUFFIXES))})."
        )
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)


def readable(path: Path) -> bool:
    """Whether a file begins as one of a known format does."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(SIGNATURES)
    except OSError:
        return False


def decoded(path: Path) -> Image.Image | None:
    """The decoded image, or None where the file is damaged or of another kind."""
    try:
        if not readable(path):
            return None
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError, ImportError, Image.DecompressionBombError):
        return None


def prepared(image: Image.Image, shape: tuple[int, int, int], how: Preprocessing) -> torch.Tensor:
    """A decoded image as an input, shape (channels, height, width)."""
    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(
            f"The network takes {channels} channels, and images have 1 or 3. Pass calibration tensors from Python "
            f"instead."
        )
    image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(_fitted(image, width, height, how))
    array = pixels.reshape(height, width, channels).astype(np.float32)
    if how.bgr:
        array = array[:, :, ::-1]
    scaled = (array * how.scale - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32))


def _fitted(image: Image.Image, width: int, height: int, how: Preprocessing) -> Image.Image:
    """The image in the size of the input."""
    filter_ = Image.Resampling[how.interpolation.upper()]
    if how.fit == "letterbox":
        ratio = min(width / image.width, height / image.height)
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        canvas = Image.new(image.mode, (width, height), 114 if image.mode == "L" else (114, 114, 114))
        canvas.paste(image.resize(size, filter_), ((width - size[0]) // 2, (height - size[1]) // 2))
        return canvas
    # Rounded down, as timm and torchvision do; the margin is for 224 / (224 / 232), which is not 232.
    wide, high = (int(side / how.share + 1e-6) for side in (width, height))
    if how.fit == "crop":
        ratio = max(wide / image.width, high / image.height)
        wide, high = max(wide, int(image.width * ratio + 1e-6)), max(high, int(image.height * ratio + 1e-6))
    resized = image.resize((wide, high), filter_)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return resized if (wide, high) == (width, height) else resized.crop((left, top, left + width, top + height))
