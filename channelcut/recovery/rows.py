"""What a layer reads and gives at single positions, as the rows of a least-squares problem."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from channelcut.recovery.layers import Geometry, Layer


def outputs(value: Tensor, layer: Layer, batch: int) -> Tensor:
    """A layer's output, or what it is added to, as (images, positions, channels).

    Rows of a linear layer that do not come from as many images as there are make one image.
    """
    if not layer.linear:
        return value.flatten(2).transpose(1, 2)
    rows = value.numel() // value.shape[-1]
    return value.reshape(batch if rows % batch == 0 else 1, -1, value.shape[-1])


def at(values: Tensor, positions: Tensor) -> Tensor:
    """The rows (images, P, channels) of `values` (images, positions, channels) at positions (images, P)."""
    return values.gather(1, positions[:, :, None].expand(-1, -1, values.shape[2]))


def inputs(value: Tensor, layer: Layer, positions: Tensor, space: tuple[int, ...]) -> Tensor:
    """What a layer reads for some positions of its output.

    Args:
        value: its input, (images, channels, ...) or, of a linear layer, (..., channels).
        layer: which reads it.
        positions: of its output, (images, P), flat over `space`.
        space: the extents of its output in space.

    Returns:
        (images, P, groups, channels / groups * positions of the kernel)
    """
    if layer.linear:
        rows = value.reshape(len(positions), -1, value.shape[-1])
        return at(rows, positions)[:, :, None]
    shape = layer.geometry
    index, inside = _read(shape, positions, space, tuple(value.shape[2:]))
    images, count, taps = index.shape
    flat = index.reshape(images, 1, count * taps).expand(-1, value.shape[1], -1)
    found = value.flatten(2).gather(2, flat).view(images, value.shape[1], count, taps)
    found = found * inside[:, None]
    found = found.view(images, shape.groups, -1, count, taps)
    return found.permute(0, 3, 1, 2, 4).reshape(images, count, shape.groups, -1)


def _read(
    shape: Geometry, positions: Tensor, space: tuple[int, ...], extents: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The flat input position behind every tap of the kernel, and whether there is one, each (images, P, taps)."""
    taps = torch.arange(math.prod(shape.kernel), device=positions.device)
    index = torch.zeros((*positions.shape, len(taps)), dtype=torch.long, device=positions.device)
    inside = torch.ones_like(index, dtype=torch.bool)
    below, below_taps, factor = 1, 1, 1
    for axis in reversed(range(len(space))):
        place = positions // below % space[axis]
        tap = taps // below_taps % shape.kernel[axis]
        stride, dilated = shape.stride[axis], tap * shape.dilation[axis]
        if shape.transposed:
            spread = place[..., None] + shape.padding[axis] - dilated
            read, inside = spread.div(stride, rounding_mode="floor"), inside & (spread % stride == 0)
        else:
            read = place[..., None] * stride - shape.padding[axis] + dilated
        inside = inside & (read >= 0) & (read < extents[axis])
        index = index + read.clamp(0, extents[axis] - 1) * factor
        below, below_taps, factor = below * space[axis], below_taps * shape.kernel[axis], factor * extents[axis]
    return index, inside


def matrix(weight: Tensor, shape: Geometry) -> Tensor:
    """A weight as (groups, inputs of a group * taps, outputs of a group)."""
    groups = shape.groups
    if not shape.transposed:
        return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
    found = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return found.permute(0, 1, 3, 2).reshape(groups, -1, weight.shape[1])


def as_weight(found: Tensor, like: Tensor, shape: Geometry) -> Tensor:
    """The inverse of `matrix`: a weight of the shape of `like`."""
    groups = shape.groups
    if not shape.transposed:
        return found.transpose(1, 2).reshape(like.shape)
    taps = math.prod(shape.kernel)
    return found.reshape(groups, -1, taps, like.shape[1]).permute(0, 1, 3, 2).reshape(like.shape)


def sample(weights: Tensor, count: int, first: int) -> tuple[Tensor, Tensor]:
    """Positions drawn by what they matter, and for how many positions each then stands.

    Half of the draws go by the weights, half are uniform; a row stands for one, divided by how often it is expected to
    be drawn, so that sums over the rows are those over all positions in the mean.

    Args:
        weights: (images, positions), not negative.
        count: rows for each image.
        first: the number of the first image; the draws of an image depend on its number alone.

    Returns:
        Positions (images, P) and numbers (images, P), P at most `count`.
    """
    total = weights.shape[1]
    if total <= count:
        every = torch.arange(total, device=weights.device).expand(len(weights), -1)
        return every, torch.ones_like(weights)
    share = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    share = (share + 1 / total) / (share + 1 / total).sum(1, keepdim=True)
    picked = [
        torch.multinomial(one, count, replacement=True, generator=torch.Generator().manual_seed(first + image))
        for image, one in enumerate(share.cpu())
    ]
    drawn = torch.stack(picked).to(weights.device)
    return drawn, 1 / (share.gather(1, drawn) * count)
