"""Augmentation of input tensors, the same for teacher and student: in any units, since only inputs are at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

KINDS = ("flip", "scale", "colour", "mosaic")
DRAWS = 12  # numbers in [0, 1) for every input
_ZOOM, _SHIFT, _COLOUR, _MOSAIC = 1.33, 0.1, 0.3, 0.5


def draws(count: int, *seeds: int) -> Tensor:
    """The numbers that decide about `count` inputs, shape (count, DRAWS); the same for the same seeds."""
    return torch.rand(count, DRAWS, generator=generator(*seeds))


def generator(*seeds: int) -> torch.Generator:
    """A generator of its own for whatever the seeds name."""
    return torch.Generator().manual_seed(mixed(*seeds))


def mixed(*seeds: int) -> int:
    """One seed of several."""
    found = 0
    for seed in seeds:
        found = (found * 6364136223846793005 + seed + 1442695040888963407) % (1 << 63)
    return found


def augmented(images: Tensor, chosen: Sequence[str], numbers: Tensor) -> Tensor:
    """Images (N, C, H, W) in their own range, changed as their rows of `numbers` (N, DRAWS) say.

    flip: left and right, of every second one. scale: by up to 1.33 either way, moved by up to a tenth of a side, what
    comes in at the border mirrored. colour: brightness, contrast and, of three channels, saturation, by up to 0.3.
    mosaic: every second one has four images of the batch in its quarters (Bochkovskiy et al. 2020, arXiv:2004.10934).
    """
    numbers = numbers.to(images.device, images.dtype)
    if "mosaic" in chosen:
        images = _mosaic(images, numbers)
    if {"flip", "scale"} & set(chosen):
        images = _moved(images, numbers, flip="flip" in chosen, scale="scale" in chosen)
    return _coloured(images, numbers) if "colour" in chosen else images


def _moved(images: Tensor, numbers: Tensor, *, flip: bool, scale: bool) -> Tensor:
    theta = images.new_zeros(len(images), 2, 3)
    zoom = _ZOOM ** (2 * numbers[:, 1] - 1) if scale else torch.ones_like(numbers[:, 1])
    mirror = torch.where(numbers[:, 0] < 0.5, -1.0, 1.0) if flip else torch.ones_like(zoom)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * mirror, zoom
    if scale:
        theta[:, :, 2] = _SHIFT * 2 * (2 * numbers[:, 2:4] - 1)  # the grid goes from -1 to 1
    else:  # exact: no pixel is interpolated
        return torch.where((mirror < 0)[:, None, None, None], images.flip(3), images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _coloured(images: Tensor, numbers: Tensor) -> Tensor:
    low, high = (getattr(images, name)((1, 2, 3), keepdim=True) for name in ("amin", "amax"))
    mean = images.mean((1, 2, 3), keepdim=True)
    light, contrast, vivid = (_COLOUR * (2 * numbers[:, place, None, None, None] - 1) for place in (4, 5, 6))
    changed = mean + (images - mean) * (1 + contrast) + light * images.std((1, 2, 3), keepdim=True)
    if images.shape[1] == 3:
        grey = changed.mean(1, keepdim=True)
        changed = grey + (changed - grey) * (1 + vivid)
    return torch.minimum(torch.maximum(changed, low), high)


def _mosaic(images: Tensor, numbers: Tensor) -> Tensor:
    count, _, height, width = images.shape
    tops, lefts = (height // 2, height - height // 2), (width // 2, width - width // 2)
    others = (numbers[:, 8:11] * count).long().clamp(max=count - 1)
    parts = [images, *(images[others[:, place]] for place in range(3))]
    small = [F.interpolate(part, (tops[place // 2], lefts[place % 2]), mode="area") for place, part in enumerate(parts)]
    joined = torch.cat([torch.cat(small[:2], 3), torch.cat(small[2:], 3)], 2)
    return torch.where((numbers[:, 7] < _MOSAIC)[:, None, None, None], joined, images)
