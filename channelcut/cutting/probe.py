"""The probe: does the real forward still run when every group has lost channels?

A forward may hard-code a width (`split((8, 8), 1)`, a literal in a view), which no graph shows. So every group loses a
channel or a few and the forward is traced again. The line that fails, or that computes with another number or gives
another size than predicted, and the values that it handles, say which channels a constant holds; they are pinned there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.core.graph import Graph
from channelcut.core.groups import Group, Groups
from channelcut.coupling import CoupleOptions, Coupling
from channelcut.cutting.apply import copy_with, refresh, select
from channelcut.cutting.planning import attributes, kept_positions, named_tensors
from channelcut.cutting.structure import retraced_structure
from channelcut.tracing import trace
from channelcut.tracing.dispatch import record
from channelcut.tracing.hollow import LARGE, Hollow, roots
from channelcut.tracing.modes import uncompiled
from channelcut.tracing.settled import UNSETTLED
from channelcut.tracing.source import user_lines
from channelcut.tracing.torch_export import export

HARD_CODED = "the forward hard-codes this width"


@dataclass(frozen=True)
class Failure:
    """Where a smaller forward failed or differed: the user's lines, outermost first; `steps`: it ran other ops."""

    lines: list[str]
    steps: bool = False


@dataclass
class Probe:
    """Traces the forward of cut models, whose weights have shapes and no values, and compares with the prediction."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    hollow: bool | None = None

    def failure(self, groups: Groups, kept: NDArray[np.bool_]) -> Failure | None:
        """Where the forward fails or changes with only the channels marked in `kept`; None when all is well.

        A forward that runs as predicted without its arithmetic has shown all there is to show. One that does not is
        run again with it, unless the uncut forward runs in `Hollow` as it does with its arithmetic. Where values decide
        how the forward goes on, it never runs without them.
        """
        if groups.graph.hollow or UNSETTLED in groups.graph.outputs:
            self.hollow = groups.graph.hollow
        found = self._failure(groups, kept)
        if found is not None and self.hollow is None and groups.graph.front_end == "dispatch":
            everything = np.ones(groups.channel_count, dtype=bool)
            self.hollow = self._failure(groups, everything) is None
            return found if self.hollow else self._failure(groups, kept)
        return found

    def _failure(self, groups: Groups, kept: NDArray[np.bool_]) -> Failure | None:
        try:
            _, difference = retraced_structure(groups, kept, lambda warm: self._traced(groups, kept, warm=warm))
        except Exception as error:  # noqa: BLE001  the user's forward may raise anything; it is read, not hidden
            return Failure(user_lines(error.__traceback__))
        if difference is None:
            return None
        return Failure([difference.site.source] if difference.site.source else [], difference.steps)

    def _traced(self, groups: Groups, kept: NDArray[np.bool_], *, warm: bool) -> Graph:
        """The graph of a cut copy, by the front end of the original's; `warm`: of its second forward."""
        positions = kept_positions(groups, kept)
        copy = _copy if self.hollow is False else _hollow_copy
        tensors = {t: copy(t, positions.get(name, {})) for name, t in named_tensors(self.model).items()}
        clone = copy_with(self.model, tensors).eval()
        refresh(clone, attributes(self.model, groups, kept, positions))
        if groups.graph.front_end != "dispatch":
            return export(clone, self.args, dict(self.kwargs), training=False)
        given = (self.args, dict(self.kwargs))
        inputs, *before = (pytree.tree_map_only(Tensor, Tensor.clone, given) for _ in range(1 + warm))
        mode = nullcontext() if self.hollow is False else Hollow(roots(clone, (inputs, before)))
        with torch.no_grad(), uncompiled(), mode:
            for args, kwargs in before:
                clone(*args, **kwargs)
            return record(clone, *inputs, training=False, widths=False)


def _copy(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    """A tensor with the kept positions."""
    return select(tensor.detach(), axes).clone()


def _hollow_copy(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    """The same, but large parameters without their values, which a probe without arithmetic does not need."""
    shape = [len(axes[axis]) if axis in axes else extent for axis, extent in enumerate(tensor.shape)]
    if math.prod(shape) < LARGE or not tensor.is_floating_point() or not isinstance(tensor, nn.Parameter):
        return _copy(tensor, axes)
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


def couple_probed(
    model: nn.Module,
    graphs: Sequence[Graph],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: CoupleOptions | None = None,
    *,
    rounds: int = 64,
) -> Groups:
    """Couple, then pin whatever the real forward cannot lose, until it runs with every group one step smaller.

    A library may keep for all its models what the first trace has computed, such as position embeddings of a size: a
    forward that runs other ops may only have found that, so the original is traced again before anything is pinned.
    """
    probe = Probe(model, args, kwargs)
    pins: dict[str, str] = {}
    again: Graph | None = None
    coupling = Coupling(graphs, options)
    groups = coupling.groups()
    for _ in range(rounds):
        if not groups.groups:
            break
        failure = probe.failure(groups, one_step(groups, groups.groups))
        if failure is None:
            break
        if failure.steps and again is None:
            first = groups.graph
            again = trace(model, args, kwargs, front_end=first.front_end, arithmetic=not first.hollow)
            if [node.name for node in again.nodes] != [node.name for node in first.nodes]:
                coupling = Coupling([again, *graphs[1:]], options)
                groups = coupling.groups(pins)
                continue
        groups = _pin_line(coupling, pins, groups, failure) or _pin_groups(coupling, pins, groups, probe)
    return groups


def one_step(groups: Groups, smaller: Sequence[Group]) -> NDArray[np.bool_]:
    """Keep all but the last one to three channels of every lane of the groups in `smaller`.

    The steps differ from group to group, because a forward may read the width of one group and use it for another.
    """
    kept = np.ones(groups.channel_count, dtype=bool)
    for group in smaller:
        width = max(1, group.width - 1 - group.index % 3)
        for lane in group.lanes:
            kept[lane[width * (len(lane) // group.width) :]] = False
    return kept


def _pin_line(coupling: Coupling, pins: dict[str, str], groups: Groups, failure: Failure) -> Groups | None:
    """Pin the channels at the innermost line of the failure that handles any that are still free.

    A line that handles most of what is free, such as a whole forward in one expression, tells too little: None.
    """
    free = sum(len(group.channels) for group in groups.groups)
    for line in reversed(failure.lines):
        if line in pins:
            continue
        tried = coupling.groups({**pins, line: HARD_CODED})
        left = sum(len(group.channels) for group in tried.groups)
        if left < free:
            if left < free / 2:
                return None
            pins[line] = HARD_CODED
            return tried
    return None


def _pin_groups(coupling: Coupling, pins: dict[str, str], groups: Groups, probe: Probe) -> Groups:
    """Where no line tells, find by bisection which groups the forward cannot lose channels of."""

    def failing(part: Sequence[Group]) -> list[Group]:
        if not part or probe.failure(groups, one_step(groups, part)) is None:
            return []
        if len(part) == 1:
            return list(part)
        half = len(part) // 2
        return failing(part[:half]) + failing(part[half:])

    culprits = failing(groups.groups) or list(groups.groups)
    for group in culprits:
        pins[group.name] = HARD_CODED
    return coupling.groups(pins)
