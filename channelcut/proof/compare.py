"""How far two values are apart, on the channels that are kept, in units of the reference's own deviation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.ids import compact


def kept_mask(ids: Tensor, kept: NDArray[np.bool_]) -> Tensor | None:
    """Which elements of a value are kept, of extent 1 along the axes of stride 0; None where all of them are."""
    mask = torch.from_numpy(kept)[compact(ids)]
    return None if bool(mask.all()) else mask


def kept_elements(value: Tensor, mask: Tensor) -> Tensor:
    """The kept elements of a value: in its own layout where the mask varies along one axis, else in one line."""
    mask = mask.to(value.device)
    varying = [axis for axis, extent in enumerate(mask.shape) if extent > 1]
    if len(varying) != 1 or mask.dim() != value.dim():
        return value[mask.expand(value.shape)]
    return value.index_select(varying[0], mask.reshape(-1).nonzero().flatten())


def relative_error(reference: Tensor, candidate: Tensor, least: float = 0.0) -> float:
    """Largest difference in units of the reference's deviation, or of `least` where that is more.

    Rounding cannot be seen below 1e-5 of the values either.
    """
    if reference.shape != candidate.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    if reference.is_complex() and candidate.is_complex():
        reference, candidate = torch.view_as_real(reference), torch.view_as_real(candidate)
    a, b = reference.double(), candidate.double()
    if torch.equal(a, b):
        return 0.0
    difference = _largest(a - b)
    if not np.isfinite(difference):  # what a mask sets to minus infinity is so on both sides
        finite = torch.isfinite(a)
        if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(a[~finite], b[~finite]):
            return float("inf")
        a, b = a[finite], b[finite]
        difference = _largest(a - b) if a.numel() else 0.0
    if difference == 0.0:
        return 0.0
    scale = max(float(a.std(correction=0)), 1e-5 * _largest(a), least)
    return difference / scale if scale > 0 else float("inf")


def moved(before: Tensor, after: Tensor) -> float:
    """How far an output moved, in units of its deviation before."""
    if before.shape != after.shape or not before.numel():
        return 0.0
    scale = float(before.double().std(correction=0)) or float(before.double().abs().max()) or 1.0
    return float((before.double() - after.double()).abs().max()) / scale


def _largest(value: Tensor) -> float:
    """The largest magnitude, in one pass and without a copy; not finite where any element is not."""
    low, high = torch.aminmax(value)
    return max(-float(low), float(high))
