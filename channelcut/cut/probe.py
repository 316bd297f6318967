"""The probe: does the real forward still run when every group has lost channels?

A forward may hard-code a width (`split((self.c, self.c), 1)`, `view(B, C, H, W)` with C of another tensor), which no
graph shows. So every group loses a channel or a few and the forward is run. The line that fails, or that computes with
another number than before, and the values that it handles, say which channels a constant holds; they are pinned there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from channelcut.core.graph import Graph
from channelcut.core.groups import Group, Groups
from channelcut.couple import CoupleOptions, couple
from channelcut.couple.replay import kept_shape
from channelcut.cut.apply import select
from channelcut.cut.hollow import Hollow
from channelcut.cut.planning import Kept, attributes, kept_positions, named_tensors
from channelcut.trace.modes import private_copy, slow_attention
from channelcut.trace.source import current_line, user_lines
from channelcut.trace.widths import set_attribute

HARD_CODED = "the forward hard-codes this width"
# Which of these a reshape becomes depends on strides, and those on widths, without any change of what is computed.
LAYOUT = frozenset(
    "view _unsafe_view _reshape_alias clone expand alias detach permute transpose t unsqueeze squeeze "
    "as_strided".split()
)
ARITHMETIC = frozenset("add sub mul div pow rsub remainder floor_divide fmod".split())


@dataclass(frozen=True)
class Failure:
    """The user's source lines where a smaller forward failed or differed, outermost first."""

    lines: list[str]


class _OpLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The ops of a run with their fractional arguments and source lines.

    Shapes may follow a width; which ops run, and numbers such as `c ** -0.5`, may not, or the cut network is another
    function than the masked one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[str, tuple[float, ...]]] = []
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Note the op and run it."""
        name = func.overloadpacket.__name__
        if name not in LAYOUT:
            kinds = (float, int) if name in ARITHMETIC else float
            numbers = tuple(v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, kinds))
            self.steps.append((str(func), numbers))
            self.lines.append(current_line())
        return func(*args, **(kwargs or {}))

    def difference(self, full: _OpLog) -> Failure | None:
        """Where this run first does something else than the full one."""
        for position, (mine, theirs) in enumerate(zip(self.steps, full.steps, strict=False)):
            if mine != theirs:
                return Failure([self.lines[position]])
        return None if len(self.steps) == len(full.steps) else Failure(self.lines[-1:])


@dataclass
class Probe:
    """Runs the forward of cut models without its arithmetic (`Hollow`); with it, where that fails."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: dict[str, Tensor] = field(init=False)
    full: _OpLog | None = field(init=False, default=None)
    hollow: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.tensors = {name: tensor.detach() for name, tensor in named_tensors(self.model).items()}

    def failure(self, groups: Groups, kept: NDArray[np.bool_]) -> Failure | None:
        """Where the forward fails or changes with only the channels marked in `kept`; None when all is well."""
        positions = kept_positions(groups, kept)
        try:
            log, outputs = self._run(positions, attributes(self.model, groups, kept))
        except Exception as error:  # noqa: BLE001  the user's forward may raise anything; it is read, not hidden
            return Failure(user_lines(error.__traceback__))
        found = [tuple(leaf.shape) for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if found != self._output_shapes(groups, kept):
            return Failure([])
        return log.difference(self.full) if self.full is not None else None

    def record_full(self) -> None:
        """Run the uncut forward once, so that what follows a width can be told from what does not."""
        try:
            self.full, _ = self._run({}, {})
        except Exception:  # noqa: BLE001  a forward that reads values cannot run without them
            self.hollow = False
            self.full, _ = self._run({}, {})

    def _run(self, positions: Kept, refreshed: Mapping[str, Mapping[str, Any]]) -> tuple[_OpLog, Any]:
        """The ops and the outputs of the forward with some positions of its tensors."""
        clone = private_copy(self.model, [*self.model.parameters(), *self.model.buffers()]).eval()
        for path, values in refreshed.items():
            for attribute, value in values.items():
                set_attribute(clone.get_submodule(path), attribute, value)
        inputs = pytree.tree_map_only(Tensor, Tensor.clone, (self.args, dict(self.kwargs)))
        state = {n: select(t, positions[n]) if n in positions else t.clone() for n, t in self.tensors.items()}
        log = _OpLog()
        with torch.no_grad(), slow_attention(), _hollow() if self.hollow else nullcontext(), log:
            return log, torch.func.functional_call(clone, state, inputs[0], inputs[1])

    def _output_shapes(self, groups: Groups, kept: NDArray[np.bool_]) -> list[tuple[int, ...] | None]:
        nodes, table = groups.graph.nodes, torch.from_numpy(kept)
        found: list[tuple[int, ...] | None] = []
        for ref in nodes[-1].args[0]:
            ids = groups.values[ref.index]
            whole = tuple(nodes[ref.index].value.shape)
            found.append(kept_shape(ids, table) if isinstance(ids, Tensor) else whole)
        return found


def couple_probed(
    model: nn.Module,
    graphs: Sequence[Graph],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: CoupleOptions | None = None,
    *,
    rounds: int = 64,
) -> Groups:
    """Couple, then pin whatever the real forward cannot lose, until it runs with every group one step smaller."""
    probe = Probe(model, args, kwargs)
    pins: dict[str, str] = {}
    groups = couple(graphs, pins, options)
    for _ in range(rounds):
        if not groups.groups:
            break
        if probe.full is None:
            probe.record_full()
        failure = probe.failure(groups, one_step(groups, groups.groups))
        if failure is None:
            break
        groups = _pin_line(graphs, pins, groups, failure, options) or _pin_groups(graphs, pins, groups, probe, options)
    return groups


def _hollow() -> AbstractContextManager[object]:
    return Hollow()  # type: ignore[no-untyped-call]


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


def _pin_line(
    graphs: Sequence[Graph], pins: dict[str, str], groups: Groups, failure: Failure, options: CoupleOptions | None
) -> Groups | None:
    """Pin the channels at the innermost line of the failure that handles any that are still free.

    A line that handles most of what is free, such as a whole forward in one expression, tells too little: None.
    """
    free = sum(len(group.channels) for group in groups.groups)
    for line in reversed(failure.lines):
        if line in pins:
            continue
        tried = couple(graphs, {**pins, line: HARD_CODED}, options)
        left = sum(len(group.channels) for group in tried.groups)
        if left < free:
            if left < free / 2:
                return None
            pins[line] = HARD_CODED
            return tried
    return None


def _pin_groups(
    graphs: Sequence[Graph], pins: dict[str, str], groups: Groups, probe: Probe, options: CoupleOptions | None
) -> Groups:
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
    return couple(graphs, pins, options)
