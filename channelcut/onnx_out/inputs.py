"""Inputs for checks and timings that look like what a camera gives: never zeros, never white noise alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Array = npt.NDArray[Any]

_COARSE = 8  # side of the coarsest grid: low frequencies carry most of a natural image's energy


def image_like(shape: Sequence[int], generator: np.random.Generator, low: float = 0.0, high: float = 1.0) -> Array:
    """Random float32 values in [low, high] of the given shape, smooth over the last two axes with grain on top.

    White noise saturates or cancels in the first layers, and zeros meet shortcuts (denormals, exact ties) that no
    real image meets: both time and compare differently from photographs.
    """
    values = generator.random(tuple(shape))
    for axis in range(max(1, len(shape) - 2), len(shape)):
        if shape[axis] > _COARSE:
            coarse = generator.random((*shape[:axis], _COARSE, *shape[axis + 1 :]))
            values = values + 3 * _stretched(coarse, axis, shape[axis])
    span = values.max() - values.min()
    unit = (values - values.min()) / span if span > 0 else np.full(values.shape, 0.5)
    scaled: Array = (low + (high - low) * unit).astype(np.float32)
    return scaled


def random_array(shape: Sequence[int], dtype: Any, generator: np.random.Generator) -> Array:
    """Return a realistic array of that shape and NumPy dtype: floats as `image_like` in [0, 1], integers 0 to 255."""
    kind = np.dtype(dtype)
    if kind == np.bool_:
        return generator.random(tuple(shape)) < 0.5
    if np.issubdtype(kind, np.integer):
        top = min(256, int(np.iinfo(kind).max) + 1)
        return generator.integers(0, top, tuple(shape)).astype(kind)
    return image_like(shape, generator).astype(kind)


def random_like(example: Tensor, generator: np.random.Generator, batch: int | None = None) -> Tensor:
    """Return a random tensor in the example's value range, on its device, in its dtype; `batch` replaces axis 0.

    An example without a range (all zeros, say) gives floats in [0, 1].
    """
    shape = list(example.shape)
    if batch is not None and shape:
        shape[0] = batch
    if example.dtype == torch.bool:
        return torch.from_numpy(np.asarray(generator.random(shape) < 0.5)).to(example.device)
    low, high = (float(example.min()), float(example.max())) if example.numel() else (0.0, 1.0)
    if not example.is_floating_point():
        drawn = generator.integers(int(low), int(high) + 1, shape)
        return torch.from_numpy(np.asarray(drawn)).to(example.device, example.dtype)
    if not low < high:
        low, high = 0.0, 1.0
    return torch.from_numpy(np.asarray(image_like(shape, generator, low, high))).to(example.device, example.dtype)


@dataclass(frozen=True)
class Trial:
    """One tuple of a forward's arguments to compare a file and its module on, with what it is in words.

    `extreme`: no such input need ever come in use. What the module itself makes infinite or no number there is passed
    over, and so is the trial where its forward fails.
    """

    name: str
    inputs: tuple[Any, ...]
    extreme: bool = False


def extremes(example: tuple[Any, ...]) -> list[Trial]:
    """Return the example as black, half black and even images (silence, a signal that ends), and far out of its range.

    There a constant that was lost shows (`log(x + 1e-10)`, `x / (norm + 1e-10)`), and outputs that are quiet on
    ordinary inputs speak. Floats and bytes are changed, and those alone that are as large as an image next to the
    others: a scale or a state beside it stays, and so do positions and masks.
    """
    changed = [t for t in pytree.tree_leaves(example) if isinstance(t, Tensor) and _is_signal(t)]
    largest = max((t.numel() for t in changed), default=0)

    def trial(name: str, change: Callable[[Tensor], Tensor]) -> Trial:
        def one(leaf: Any) -> Any:
            signal = isinstance(leaf, Tensor) and _is_signal(leaf) and 16 * leaf.numel() >= largest
            return change(leaf) if signal else leaf

        return Trial(name, pytree.tree_map(one, example), extreme=True)

    if largest < 2:
        return []
    trials = [trial("zeros", torch.zeros_like), trial("half zeros", _half), trial("one constant", _even)]
    trials.append(trial("large values", _far))
    if any(t.is_floating_point() for t in changed):
        trials.append(trial("large negative values", lambda t: -_far(t) if t.is_floating_point() else t))
    return trials


def _is_signal(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and (tensor.is_floating_point() or tensor.dtype == torch.uint8)


def _half(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[..., tensor.shape[-1] // 2 :] = 0
    return changed


def _even(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, (float(tensor.min()) + float(tensor.max())) / 2 or 0.5)


def _far(tensor: Tensor) -> Tensor:
    """As if 0 to 255 were given where 0 to 1 is meant."""
    return tensor * 255 if tensor.is_floating_point() else torch.full_like(tensor, 255)


def _stretched(coarse: Array, axis: int, length: int) -> Array:
    """Linear interpolation along one axis from `_COARSE` points to `length`."""
    place = np.linspace(0, _COARSE - 1, length)
    left = np.minimum(place.astype(int), _COARSE - 2)
    weight = (place - left).reshape([-1 if a == axis else 1 for a in range(coarse.ndim)])
    stretched: Array = np.take(coarse, left, axis) * (1 - weight) + np.take(coarse, left + 1, axis) * weight
    return stretched
