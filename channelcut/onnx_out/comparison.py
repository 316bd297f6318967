"""How far apart two outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.utils._pytree as pytree
from torch import Tensor

from channelcut.core.trees import opened

Array = npt.NDArray[Any]

# Below this an output is noise: its errors are measured against the floor, not against itself.
FLOOR = 1e-6
# Decoded detections hold pixels and probabilities in one tensor: a slice that is small against the whole tensor is
# measured against its own size, but never against less than this part of the whole.
SLICE_FLOOR = 0.01


def tensor_leaves(outputs: Any) -> list[Tensor]:
    """Return the tensors of a nested result, in flattening order."""
    return [leaf for leaf in pytree.tree_leaves(opened(outputs)) if isinstance(leaf, Tensor)]


def max_relative_error(reference: Sequence[Tensor], candidate: Sequence[Array]) -> float:
    """Return the largest `relative_error` over pairs of outputs; infinite when their numbers differ."""
    if len(reference) != len(candidate):
        return float("inf")
    return max((relative_error(r, c) for r, c in zip(reference, candidate, strict=True)), default=0.0)


def relative_error(reference: Tensor, candidate: Array, left_out: Array | None = None) -> float:
    """max|a - b| / max(max|b|, floor) of one output, b being the reference; elements of `left_out` do not count.

    Of an output with three axes (decoded detections: pixels and probabilities in one tensor), each slice along the
    shorter of the last two axes is measured by its own size as well, but never by less than 1 % of the whole.
    Infinite for another shape, for integers or booleans that are not all equal, and where one side alone is not
    finite.
    """
    wanted = reference.detach().cpu()
    if tuple(wanted.shape) != tuple(candidate.shape):
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if np.array_equal(wanted.numpy(), candidate) else float("inf")
    b, a = wanted.double().numpy(), np.asarray(candidate, dtype=np.float64)
    finite = np.isfinite(b)
    if left_out is not None:
        b, a, finite = np.where(left_out, 0, b), np.where(left_out, 0, a), finite | left_out
    # NaN must meet NaN and an infinity the same infinity; these are then left out of the differences.
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    difference, size = (
        np.where(finite, abs(np.where(finite, a, 0) - np.where(finite, b, 0)), 0),
        np.where(finite, abs(b), 0),
    )
    scale = max(float(size.max()), FLOOR)
    error = float(difference.max()) / scale
    if b.ndim == 3:
        others = (0, 2) if b.shape[1] <= b.shape[2] else (0, 1)
        scales = np.maximum(size.max(axis=others), max(SLICE_FLOOR * scale, FLOOR))
        error = max(error, float((difference.max(axis=others) / scales).max()))
    return error


def differing(reference: Tensor, candidate: Array) -> float:
    """The share of elements that are not equal, of outputs of whole numbers or truth values; 1 for another shape."""
    if tuple(reference.shape) != tuple(candidate.shape):
        return 1.0
    return float((reference.detach().cpu().numpy() != candidate).mean()) if candidate.size else 0.0


def clashes(reference: Array, candidate: Array) -> Array:
    """Where one side is not finite and the other is not the same."""
    with np.errstate(invalid="ignore"):
        same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    found: Array = ~same & ~(np.isfinite(reference) & np.isfinite(candidate))
    return found
