"""Where a cut network departs from its original: the error of each part's channels that are still there.

Of every convolution or norm that lost channels, the outputs of both networks are compared on the same images: what the
squared difference is of the original's variance, 0 where they agree, 1 where the mean would say as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from channelcut.core.copies import private_copy
from channelcut.core.plan import Plan
from channelcut.recovery.distil.places import Place, Tapped, places


def error_profile(
    original: nn.Module, smaller: nn.Module, plan: Plan, images: Tensor, depth: int = 2
) -> dict[str, float]:
    """The median error of the layers in each part of a network, in the order in which they run.

    Args:
        original: the uncut network.
        smaller: what the plan, and any restoring, left of it.
        plan: from one to the other.
        images: one batch.
        depth: how many words of a path name a part, as `model.22`.
    """
    teacher, student = (private_copy(network).eval() for network in (original, smaller))
    found = places(private_copy(teacher), plan, ((images,), {}), most=len(plan.kept))
    paths = [place.path for place in found]
    seen = []
    for network in (teacher, student):
        tapped = Tapped(network, paths)
        with torch.no_grad():
            tapped(((images,), {}))
        seen.append(tapped.seen)
    parts: dict[str, list[float]] = {}
    for place in found:
        if place.path in seen[0] and place.path in seen[1]:
            part = ".".join(place.path.split(".")[:depth])
            parts.setdefault(part, []).append(_error(place, seen[0][place.path], seen[1][place.path]))
    return {part: float(np.median(values)) for part, values in parts.items()}


def _error(place: Place, original: Sequence[Tensor], smaller: Sequence[Tensor]) -> float:
    kept = torch.tensor(place.kept)
    pairs = [(one.index_select(place.axis, kept), other) for one, other in zip(original, smaller, strict=True)]
    apart = sum(float((one - other).square().sum()) for one, other in pairs)
    axes = [axis for axis in range(pairs[0][0].ndim) if axis != place.axis % pairs[0][0].ndim]
    spread = sum(float((one - one.mean(axes, keepdim=True)).square().sum()) for one, _ in pairs)
    return apart / max(spread, 1e-12)
