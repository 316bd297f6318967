"""The masked original and the cut model, run side by side and compared wherever channels are consumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.graph import Graph, Node, is_named, named_outputs, refs
from channelcut.core.groups import Groups
from channelcut.core.ids import compact, varying_axes
from channelcut.core.proof import Check
from channelcut.core.randomness import OwnRandom
from channelcut.core.schema import writes
from channelcut.core.tensors import rearranged
from channelcut.core.trees import leaves
from channelcut.ops.align import align
from channelcut.ops.host import State
from channelcut.ops.registry import op
from channelcut.proof.compare import kept_elements, kept_mask, moved, relative_error
from channelcut.proof.execute import Execution, compared
from channelcut.proof.reference import (
    UnequalGroups,
    consumers,
    kept_lines,
    masked_state,
    mix_kept,
    of_kept_weights,
    over_kept,
    producers,
)
from channelcut.proof.rounding import Shaken, rounding_of

TOLERANCE = 1e-9
Mixed = Tensor | Mapping[int, Tensor] | None
"""Where an op mixes elements that are removed: the kept ones of its input, or along the axes of a computed weight."""


@dataclass(frozen=True)
class Values:
    """One value of both sides, and of the shaken run where there is one.

    `largest` is the size of the largest value that it was made of.
    """

    reference: Any
    candidate: Any
    shaken: Any = None
    largest: float = 0.0

    def error(self) -> float:
        """The largest difference in units of the deviation, or of what rounding may move it by."""
        if self.shaken is None:
            return relative_error(self.reference, self.candidate)
        rounding = rounding_of(self.reference, self.shaken, self.largest)
        return relative_error(self.reference, self.candidate, rounding / TOLERANCE)


@dataclass(frozen=True)
class Sides:
    """The runs that go in lockstep."""

    reference: Execution
    candidate: Execution
    shaken: Shaken | None = None

    def at(self, index: int, other: int) -> Values:
        """The value of a node that has run, and of its twin `other`."""
        mine, theirs = self.reference.value(index), self.candidate.value(other)
        if self.shaken is None:
            return Values(mine, theirs)
        return Values(mine, theirs, self.shaken.run.value(index), self.shaken.largest(index))

    def alone(self, node: Node | None, twin: Node | None) -> None:
        """Run a step of one side."""
        if node is None:
            assert twin is not None
            self.candidate.finish(twin, self.candidate.compute(twin, *self.candidate.arguments(twin)))
            return
        value = self.reference.compute(node, *self.reference.arguments(node))
        if self.shaken is not None:
            self.shaken.seen(node, value)
            self.shaken.run.finish(node, self.shaken.run.compute(node, *self.shaken.arguments(node)))
        self.reference.finish(node, value)

    def start(self, node: Node, twin: Node) -> None:
        """Take in an input, a constant or a parameter."""
        self.reference.start(node)
        self.candidate.start(twin)
        if self.shaken is not None:
            self.shaken.run.start(node)
            self.shaken.seen(node, self.shaken.run.env.get(node.index) if node.kind == "input" else None)

    def computed(self, node: Node, twin: Node, mixed: Mixed, masks: Mapping[int, Tensor | None]) -> Values:
        """What a step gives on every side, on the original's over the kept elements alone where it mixes them.

        `masks` are those of the values that it reads without what is removed.
        """
        value = _value(self.reference, node, over_kept(node, self.reference.arguments(node), masks), mixed)
        shaken, largest = None, 0.0
        if self.shaken is not None:
            other = over_kept(node, self.shaken.arguments(node), masks)
            shaken = _value(self.shaken.run, node, other, mixed)
            largest = self.shaken.seen(node, value)
        theirs = self.candidate.compute(twin, *self.candidate.arguments(twin))
        return Values(value, theirs, shaken, largest)

    def finish(self, node: Node, twin: Node, values: Values) -> None:
        """Store what a step gave."""
        self.reference.finish(node, values.reference)
        self.candidate.finish(twin, values.candidate)
        if self.shaken is not None:
            self.shaken.run.finish(node, values.shaken)


def _value(run: Execution, node: Node, arguments: tuple[tuple[Any, ...], dict[str, Any]], mixed: Mixed) -> Any:
    """What a step of the original gives without what is removed."""
    if mixed is None:
        return run.compute(node, *arguments)
    return mix_kept(node, *arguments, mixed) if isinstance(mixed, Tensor) else of_kept_weights(node, *arguments, mixed)


def _drawn_once(node: Node, values: Values) -> Values:
    """The random numbers of the original for both, where the cut model draws as many."""
    value, other = values.reference, values.candidate
    if not isinstance(value, Tensor) or not isinstance(other, Tensor) or value.shape != other.shape:
        return values
    if not writes(node.target):
        return Values(value, value.clone())
    return Values(value, other.copy_(value), None if values.shaken is None else values.shaken.copy_(value))


class Lockstep:
    """Runs the masked original and the cut model node by node and compares what is consumed."""

    def __init__(self, groups: Groups, kept: NDArray[np.bool_], graph: Graph, inputs: Any) -> None:
        self.groups, self.kept, self.graph, self.inputs = groups, kept, graph, inputs
        self.consumers, self.producers = consumers(groups), producers(groups)
        self._masks: dict[int, Tensor | None] = {}

    def run(
        self, original: Mapping[str, Tensor], actual: Mapping[str, Tensor], *, signal: bool = True
    ) -> tuple[list[Check], float]:
        """Every check in order, and how far the masked outputs moved from the uncut ones (0 without `signal`).

        Where a check fails by a tensor's own deviation, a run beside it shows how far rounding moves each value.
        """
        with torch.no_grad(), OwnRandom():
            uncut = Execution(self.groups.graph, original, self.inputs).results() if signal else []
            checks, outputs = self._run(original, actual, shaken=False)
        if any(not check.relative_error <= TOLERANCE for check in checks):
            with torch.no_grad(), OwnRandom():
                checks, _ = self._run(original, actual, shaken=True)
        return checks, max((moved(a, b) for a, b in zip(uncut, outputs, strict=signal)), default=0.0)

    def _run(
        self, original: Mapping[str, Tensor], actual: Mapping[str, Tensor], *, shaken: bool
    ) -> tuple[list[Check], list[Tensor]]:
        """Every check in order, and the masked outputs."""
        masked = masked_state(self.groups, self.kept, original)
        pairs = align(self.groups.graph, self.graph)
        partners = {node.index: twin.index for node, twin in pairs if node is not None and twin is not None}
        twins = self._twins(partners)
        sides = Sides(
            Execution(self.groups.graph, masked, self.inputs),
            Execution(self.graph, actual, self.inputs, [index for index in twins if index is not None]),
            Shaken(Execution(self.groups.graph, masked, self.inputs)) if shaken else None,
        )
        checks: list[Check] = []
        for node, twin in pairs:
            if node is None or twin is None:  # a copy on one side alone
                sides.alone(node, twin)
            elif node.kind == "output":
                checks += self._outputs(twins, sides)
                return checks, [sides.reference.value(index) for index in compared(self.groups.graph)]
            elif node.kind != "call":
                sides.start(node, twin)
            else:
                for ref in self.consumers.get(node.index, ()):
                    other = refs(twin.args)[refs(node.args).index(ref)]
                    error = self._on_kept(ref.index, sides.at(ref.index, other.index))
                    checks.append(Check(f"input of {node.site}", error))
                self._step(node, twin, sides, checks)
        return checks, []

    def _twins(self, partners: Mapping[int, int]) -> list[int | None]:
        """The cut model's step for every output; None where there is none.

        What is read where values decide is paired by its step: in the cut model they may decide that nobody reads it.
        """
        mine, theirs = named_outputs(self.groups.graph), named_outputs(self.graph)
        same = [name for name, _ in mine] == [name for name, _ in theirs]
        outputs = [index for _, index in theirs] if same else [None] * len(mine)
        return [*outputs, *(partners.get(index) for index in self.groups.graph.unsettled)]

    def _outputs(self, twins: Sequence[int | None], sides: Sides) -> list[Check]:
        """Every output as a whole; of those that may lose channels, the kept ones."""
        checks = []
        graph = self.groups.graph
        named = [*named_outputs(graph), *(("read where values decide", index) for index in graph.unsettled)]
        for (name, index), other in zip(named, twins, strict=True):
            free = is_named(name, self.groups.free_outputs)
            error = float("inf")
            if other is not None:
                values = sides.at(index, other)
                error = self._on_kept(index, values) if free else values.error()
            checks.append(Check(f"output {name} ({graph.nodes[index].site})", error))
        return checks

    def _step(self, node: Node, twin: Node, sides: Sides, checks: list[Check]) -> None:
        mixed = self._mixed(node)
        # A layer or a product reads nothing of what is removed, which may be anything, such as 0 / 0.
        reads = (node.index in self.consumers or op(node.name).contracts) and not writes(node.target)
        masks = {ref.index: self._read(ref.index) for ref in node.inputs} if reads else {}
        try:
            values = sides.computed(node, twin, mixed, masks)
        except UnequalGroups:
            checks.append(Check(f"the equal groups of {node.site}", float("inf")))
            values = sides.computed(node, twin, None, masks)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            values = _drawn_once(node, values)
        if op(node.name).ties and values.reference[0].shape == values.candidate[0].shape:
            # Equal scores may come in either order; the values must agree, the order is then the reference's.
            checks.append(Check(f"values of {node.site}", relative_error(values.reference[0], values.candidate[0])))
            values = Values(values.reference, values.reference, values.reference)
        if node.index in self.producers:
            checks.append(Check(f"output of {node.site}", self._on_kept(node.index, values)))
        sides.finish(node, twin, values)

    def _mixed(self, node: Node) -> Mixed:
        """What is kept of a mixing op's input, where it loses any."""
        first = refs(node.args[:1])
        known = op(node.name)
        if not first:
            return None
        if known.statistics_of_weights and (lines := self._lines(first[0].index)):
            return lines
        left = next((leaf for leaf in leaves(self.groups.channels_of(node.index)) if isinstance(leaf, Tensor)), None)
        if known.over_kept is None or left is None:
            return None
        over_channels = known.over_kept != "channels" or not varying_axes(left)
        return self._mask(first[0].index) if over_channels else None

    def _lines(self, index: int) -> Mapping[int, Tensor]:
        """What is kept along the axes of a parameter, or of what is computed of some; nothing of any other value."""
        found = self.groups.ids_of(index)
        return kept_lines(self.groups, self.kept, found) if isinstance(found, State) else {}

    def _read(self, index: int) -> Tensor | None:
        """The kept elements of what a layer reads: an activation, or a weight that is computed."""
        if self.groups.graph.nodes[index].kind != "call":
            return None  # a parameter has its zeros
        mask = self._mask(index)
        for axis, line in self._lines(index).items():
            along = line.reshape([-1 if a == axis else 1 for a in range(len(self.groups.ids_of(index).shape))])
            mask = along if mask is None else mask & along
        return mask

    def _on_kept(self, index: int, values: Values) -> float:
        mask = self._mask(index)
        if mask is None:
            return values.error()
        chosen = kept_elements(values.reference, mask)
        if chosen.numel() != values.candidate.numel():
            return float("inf")
        shaken = None if values.shaken is None else kept_elements(values.shaken, mask)
        chosen, shaken = (self._arrived(index, mask, value) for value in (chosen, shaken))
        return Values(chosen, values.candidate.reshape(chosen.shape), shaken, values.largest).error()

    def _arrived(self, index: int, mask: Tensor, value: Any) -> Any:
        """Kept elements in the order in which the cut network has them, which differs along one axis at most."""
        arrived = self.groups.arrival(self.kept).values.get(index)
        if arrived is None or value is None:
            return value
        line = compact(self.groups.channels_of(index)).expand(mask.shape)[mask].numpy()
        axis = next(iter(varying_axes(arrived)), 0)
        positions = torch.from_numpy(rearranged(line, compact(arrived).reshape(-1).numpy()))
        return value.index_select(axis, positions.to(value.device))

    def _mask(self, index: int) -> Tensor | None:
        """The kept elements of a value; None where it loses none."""
        if index not in self._masks:
            ids = self.groups.channels_of(index)
            self._masks[index] = kept_mask(ids, self.kept) if isinstance(ids, Tensor) else None
        return self._masks[index]
