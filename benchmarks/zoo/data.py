"""The zoo's weights and images on disk, and how an image is fitted into a network's input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from channelcut.core.errors import UserError

Split = Literal["train", "val"]
Fit = Literal["stretch", "corner", "centre"]
CIFAR_TILE = 32


@dataclass(frozen=True)
class Frame:
    """How an image lies in a network's input: input pixel = image pixel · scale + offset, on each axis."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_image(self, boxes: NDArray[Any]) -> NDArray[Any]:
        """Move boxes (K, 4), x1 y1 x2 y2, from input pixels to image pixels."""
        offset = np.array([self.offset_x, self.offset_y] * 2)
        return np.asarray((boxes - offset) / np.array([self.scale_x, self.scale_y] * 2))


@dataclass(frozen=True)
class Sample:
    """One labelled photograph: pixels (H, W, 3) RGB, boxes (B, 4) as x1 y1 x2 y2 in its own pixels, classes (B,)."""

    name: str
    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]


def assets_root() -> Path | None:
    """Return the folder of weights and data: $CHANNELCUT_ASSETS, else ../shared/assets beside the repository.

    Returns None where neither exists.
    """
    named = os.environ.get("CHANNELCUT_ASSETS")
    root = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "assets"
    return root if root.is_dir() else None


def require_assets() -> Path:
    """Return the assets folder.

    Raises:
        UserError: there is none.
    """
    root = assets_root()
    if root is None:
        raise UserError(
            "The zoo's weights and data were not found: neither the environment variable CHANNELCUT_ASSETS nor "
            "../shared/assets beside the repository names a folder. Set CHANNELCUT_ASSETS to the folder that holds "
            "weights/, coco128/ and cifar10/."
        )
    return root


def read_weights(assets: Path, name: str) -> dict[str, Tensor]:
    """Read the state dict in `assets`/weights/`name`, on the CPU, without running pickled code.

    Raises:
        UserError: the file is missing.
    """
    path = assets / "weights" / name
    if not path.is_file():
        raise UserError(
            f"The weights {name} were not found in {path.parent}. The assets folder must hold weights/{name}: "
            "set CHANNELCUT_ASSETS to a complete assets folder."
        )
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return dict(loaded.get("state_dict", loaded))


def fit_image(image: NDArray[np.uint8], size: int, fit: Fit, pad: int = 0) -> tuple[Tensor, Frame]:
    """Resize an RGB image (H, W, 3) into (3, size, size), RGB float32 in 0..255.

    `stretch` ignores the aspect; `corner` keeps it and pads at the bottom and right; `centre` pads on all sides.
    Sampling is bilinear without a low-pass filter, as the detectors were trained with.
    """
    height, width = image.shape[:2]
    ratio = min(size / height, size / width)
    rows, columns = (size, size) if fit == "stretch" else (round(height * ratio), round(width * ratio))
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    if (rows, columns) != (height, width):
        pixels = F.interpolate(pixels[None], (rows, columns), mode="bilinear", align_corners=False)[0].round()
    top, left = ((size - rows) // 2, (size - columns) // 2) if fit == "centre" else (0, 0)
    canvas = torch.full((3, size, size), float(pad))
    canvas[:, top : top + rows, left : left + columns] = pixels
    return canvas, Frame(columns / width, rows / height, left, top)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as RGB (H, W, 3)."""
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.uint8)


def coco128(split: Split, limit: int | None = None) -> Iterator[Sample]:
    """Yield the photographs of one half of coco128 in the order of their names, the first `limit` where given.

    Raises:
        UserError: the folder is missing or holds fewer than `limit` images.
    """
    yield from labelled("coco128", split, limit)


def labelled(folder: str, split: str, limit: int | None = None) -> Iterator[Sample]:
    """Yield the photographs of one split of a data set of the assets in YOLO's layout, as `coco128` does."""
    paths = split_files(folder, split)
    for path in paths[: _checked_count(limit, len(paths), require_assets() / folder / "images" / split)]:
        yield sample_of(path)


def split_files(folder: str, split: str) -> list[Path]:
    """The photographs of one split of such a data set, in the order of their names."""
    images = require_assets() / folder / "images" / split
    return sorted(path for path in images.glob("*.*") if path.suffix in (".jpg", ".png"))


def label_of(path: Path) -> Path:
    """Where the labels of a photograph of such a data set are, if it has any."""
    split = path.parent
    return split.parents[1] / "labels" / split.name / f"{path.stem}.txt"


def sample_of(path: Path) -> Sample:
    """A photograph of such a data set with its labels."""
    image, label = read_image(path), label_of(path)
    text = label.read_text(encoding="utf-8").split() if label.is_file() else []
    rows = np.array(text, dtype=np.float64).reshape(-1, 5)
    extent = np.array([image.shape[1], image.shape[0]], dtype=np.float64)
    centre, half = rows[:, 1:3] * extent, rows[:, 3:5] * extent / 2
    boxes = np.concatenate((centre - half, centre + half), axis=1)
    return Sample(path.stem, image, boxes, rows[:, 0].astype(np.int64))


def cifar10(split: Literal["train", "test"], limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 32, 32), RGB uint8, and labels (N,), the classes taking turns so that a head is balanced.

    Raises:
        UserError: the folder is missing or holds fewer than `limit` images.
    """
    return cifar_images(cifar_files(split), limit)


def cifar_files(split: Literal["train", "test"]) -> list[Path]:
    """The files of one split, one for each class, in the order of the classes."""
    folder = require_assets() / "cifar10" / split
    return sorted(folder.glob("*.webp"), key=lambda path: int(path.name.split("_")[0]))


def cifar_images(paths: Sequence[Path], limit: int | None = None) -> tuple[Tensor, Tensor]:
    """The images and labels of such files, as `cifar10` returns them."""
    tiles = [_sprite_extent(path) for path in paths]
    total = min((columns * rows for columns, rows in tiles), default=0) * len(paths)
    count = _checked_count(limit, total, paths[0].parent if paths else require_assets() / "cifar10")
    each = -(-count // len(paths))
    used = paths[:count]  # fewer images than classes: the later sprites need not be decoded
    images = torch.stack([_sprite_tiles(path, each) for path in used], 1)
    labels = torch.tensor([int(path.name.split("_")[0]) for path in used]).repeat(each)
    return images.flatten(0, 1)[:count], labels[:count]


def _checked_count(limit: int | None, available: int, folder: Path) -> int:
    if available == 0 or (limit is not None and not 0 < limit <= available):
        wanted = "images" if limit is None else f"{limit} images"
        raise UserError(
            f"{wanted} were asked of {folder}, which holds {available}. Ask for 1 to {available}, or set "
            "CHANNELCUT_ASSETS to a complete assets folder."
        )
    return available if limit is None else limit


def _sprite_extent(path: Path) -> tuple[int, int]:
    columns, rows = path.stem.split("_")[-1].split("x")
    return int(columns), int(rows)


def _sprite_tiles(path: Path, count: int) -> Tensor:
    """Return the first `count` tiles of a sprite, (count, 3, 32, 32) uint8, row by row."""
    columns, _ = _sprite_extent(path)
    rows = -(-count // columns)
    strip = torch.from_numpy(read_image(path)[: rows * CIFAR_TILE].copy())
    tiles = strip.reshape(rows, CIFAR_TILE, columns, CIFAR_TILE, 3).permute(0, 2, 4, 1, 3)
    return tiles.flatten(0, 1)[:count].contiguous()
