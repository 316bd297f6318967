"""Cut copies of a model, traced again: what the probe and the proof hold against the prediction.

This stands between the stages: it cuts and it traces, so that neither the coupling nor the proof has to call these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from channelcut.core.copies import cloned, copy_with
from channelcut.core.entries import called
from channelcut.core.footprint import Kept
from channelcut.core.graph import Graph
from channelcut.core.groups import Groups
from channelcut.core.tensors import cut_tensor, kept_indices, kept_positions, named_tensors, select
from channelcut.coupling.probe import Failure
from channelcut.ops.refresh import attributes, refresh
from channelcut.ops.structure import retraced_structure
from channelcut.tracing import trace
from channelcut.tracing.dispatch import record
from channelcut.tracing.eager import uncompiled
from channelcut.tracing.hollow import LARGE, Hollow, roots
from channelcut.tracing.source import user_lines
from channelcut.tracing.torch_export import export


@dataclass
class CutForwards:
    """Traces the forward of cut copies, whose weights have shapes and no values, and compares with the prediction."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    hollow: bool | None = None

    def __call__(self, groups: Groups, kept: Kept) -> Failure | None:
        """Where the forward fails or changes with only the channels marked in `kept`; None when all is well.

        A forward that runs as predicted without its arithmetic has shown all there is to show. One that does not is
        run again with it, unless the uncut forward runs in `Hollow` as it does with its arithmetic. Where values decide
        how the forward goes on, it never runs without them.
        """
        if groups.graph.hollow or groups.graph.unsettled:
            self.hollow = groups.graph.hollow
        failure = self._failure(groups, kept)
        if failure is not None and self.hollow is None and groups.graph.front_end == "dispatch":
            # Does the uncut forward run without its arithmetic? Only then does a failure without it say anything.
            everything = np.ones(groups.channel_count, dtype=bool)
            self.hollow = self._failure(groups, everything) is None
            return failure if self.hollow else self._failure(groups, kept)
        return failure

    def again(self, first: Graph) -> Graph:
        """The uncut model, traced once more as it was."""
        return trace(self.model, self.args, self.kwargs, front_end=first.front_end, arithmetic=not first.hollow)

    def _failure(self, groups: Groups, kept: Kept) -> Failure | None:
        try:
            _, difference = retraced_structure(groups, kept, lambda warm: self._traced(groups, kept, warm=warm))
        except Exception as error:  # noqa: BLE001  the user's forward may raise anything; it is read, not hidden
            return Failure(user_lines(error.__traceback__))
        if difference is None:
            return None
        return Failure([difference.site.source] if difference.site.source else [], difference.steps)

    def _traced(self, groups: Groups, kept: Kept, *, warm: bool) -> Graph:
        """The graph of a cut copy, by the front end of the original's; `warm`: of its second forward."""
        positions = kept_positions(groups, kept)
        copy = _copy if self.hollow is False else _hollow_copy
        named, indices = named_tensors(self.model), kept_indices(groups, kept)
        tensors = {t: copy(t, positions.get(name, {})) for name, t in named.items()}
        tensors |= {named[name]: cut_tensor(name, named[name].detach(), positions, indices) for name in indices}
        clone = copy_with(self.model, tensors).eval()
        refresh(clone, attributes(self.model, groups, kept, positions))
        if groups.graph.front_end != "dispatch":
            return export(clone, self.args, dict(self.kwargs), training=False)
        given = (self.args, dict(self.kwargs))
        inputs, *before = (cloned(given) for _ in range(1 + warm))
        mode = None if self.hollow is False else Hollow(roots(clone, (inputs, before)))
        with torch.no_grad(), uncompiled(), mode or nullcontext():
            for earlier in before:
                called(clone, earlier)
        return record(clone, *inputs, training=False, widths=False, within=mode)


def _copy(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A tensor with the kept positions."""
    return select(tensor.detach(), axes).clone()


def _hollow_copy(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    """The same, but large parameters without their values, which a probe without arithmetic does not need."""
    shape = [len(axes[axis]) if axis in axes else extent for axis, extent in enumerate(tensor.shape)]
    if math.prod(shape) < LARGE or not tensor.is_floating_point() or not isinstance(tensor, nn.Parameter):
        return _copy(tensor, axes)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
