"""Replay: run the rules once more, on the ids that a selection keeps.

Lanes keep equal shares, not equal positions. Whether that is legal shows when a graph is executed on what is left:
every op must still get rectangles, whatever is bound must still meet, and every consumer must see exactly the
channels that it keeps slots for. A transpose of the lanes, for instance, brings them into another order than their
slots'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.errors import RuleError
from channelcut.core.footprint import Channels, Footprint, Footprints, Kept
from channelcut.core.graph import Node, Site, Spec
from channelcut.core.groups import Role
from channelcut.core.reasons import ORDER, Reason
from channelcut.core.tensors import renumbered
from channelcut.core.trees import leaves
from channelcut.coupling.binding import meeting
from channelcut.coupling.facts import Bind, Facts, PinRequest, Place, RawSlot, Request, Run
from channelcut.coupling.interpret import Misfit, run_rule
from channelcut.coupling.selections import selection, trials
from channelcut.coupling.settle import Draft
from channelcut.ops.call import Call
from channelcut.ops.host import Bound, Factor, State, Stored

CHECK = "replay"


class Mismatch(Misfit):
    """What a selection keeps does not fit: at a node, over some channels."""

    def __init__(self, node: Node | None, *channels: Channels) -> None:
        super().__init__()
        found = np.unique(np.concatenate([part.reshape(-1) for part in channels] or [np.zeros(0, np.int64)]))
        self.node = node
        self.channels: Channels = found[found != 0].astype(np.int64)


class _Unknown(Misfit):
    """A value of which no rectangle is left is asked for."""

    def __init__(self, problem: Mismatch) -> None:
        super().__init__()
        self.problem = problem


def replay(draft: Draft) -> Sequence[Request]:
    """The check of positions: places where a selection with other positions in every lane does not go through.

    The first selection runs everything. A group has no new ones after its own number of trials, so that later ones run
    only what touches groups that have; the last one, which is drawn, what touches any group of several lanes.
    """
    footprints = draft.partition.footprints
    count = trials(draft.groups)
    needs = np.zeros(len(draft.partition.pinned), dtype=np.int64)
    for group in draft.groups:
        needs[group.channels] = trials([group]) - 1
    touched: list[Mapping[int, int]] = []
    for trial in range(count):
        if trial == 1:
            touched = [touching(run, draft.facts, footprints, needs) for run in draft.facts.runs]
        kept = selection(draft.groups, len(draft.partition.pinned), trial)
        least = 0 if trial == count - 1 else trial
        for number in range(len(draft.facts.runs)):
            chosen = {n for n, need in touched[number].items() if need > least} if trial else None
            problems = Checker(draft.facts, footprints, kept, number).run(chosen)
            if problems:
                return tightened(draft, problems)
    return ()


def tightened(draft: Draft, problems: Sequence[Mismatch]) -> list[Request]:
    """Tighten for the first mismatch, and for those in other lanes than the ones that this has changed."""
    partition = draft.partition
    changed = np.zeros(len(partition.lanes) + 1, dtype=bool)  # the last one is where lane -1, which is no lane, points
    found: list[Request] = []
    for number, problem in enumerate(problems):
        lanes = partition.lane_of[problem.channels]
        if number == 0 or ((lanes >= 0).any() and not changed[lanes].any()):
            requests, channels = _tighten(draft, problem, found)
            found += requests
            changed[lanes] = True
            changed[partition.lane_of[channels]] = True
            changed[-1] = False
    return found


def _tighten(draft: Draft, problem: Mismatch, found: Sequence[Request]) -> tuple[list[Request], Channels]:
    """Bind the lanes that a mismatch is about, element by element; where there are none, pin the channels.

    Returns what to ask for, and the channels that are bound or pinned. `found` has been asked for already.
    """
    partition = draft.partition
    lanes = partition.lane_of[problem.channels]
    about = np.isin(partition.lane_of, lanes[lanes >= 0])
    gone = {id(request.instead_of) for request in found if isinstance(request, Bind)}
    site = problem.node.site if problem.node is not None else Site()
    binds: list[Request] = []
    bound = []
    for rectangle in draft.constraints.rectangles:
        footprint = partition.footprints.of(rectangle.ids)
        if id(rectangle) not in gone and len(footprint.varying) > 1 and about[footprint.channels].any():
            lines = tuple(torch.from_numpy(partition.first[row].astype(np.int32)) for row in footprint.rows)
            binds.append(Bind(lines, rectangle, ORDER, site, CHECK))
            bound.append(footprint.channels.reshape(-1))
    for equal in draft.constraints.equal:
        channels = np.concatenate([partition.footprints.of(piece).line() for piece in equal.pieces])
        alike = len({piece.numel() for piece in equal.pieces}) == 1
        if id(equal) not in gone and alike and about[channels].any():
            binds.append(Bind(equal.pieces, equal, ORDER, site, CHECK))
            bound.append(channels)
    if binds:
        return binds, np.unique(np.concatenate(bound))
    free = partition.free_first(problem.channels)
    if not len(free):
        raise RuleError(
            f"The coupling contradicts itself at {site}: what a cut would leave does not fit there, and nothing is "
            "left to pin. A rule for an op on the way is wrong; please report this with the model."
        )
    return [PinRequest(ORDER, site, free, ORDER.remedy, CHECK)], problem.channels


class Checker:
    """The host that checks instead of collecting; its ids are channels, and only kept ones.

    Args:
        facts: what the rules said of everything.
        footprints: the channels of its ids.
        kept: which channels are kept, shape (channels,).
        number: which of the runs.
    """

    def __init__(self, facts: Facts, footprints: Footprints, kept: Kept, number: int) -> None:
        self.facts, self.footprints, self.kept, self.number = facts, footprints, kept, number
        self.graph, self.values = facts.runs[number].graph, facts.runs[number].values
        self.slots = self.known_slots()
        self.found: Mapping[int, Any] = {}
        self._minted: dict[Place, int] = {}
        self._node: Node | None = None

    def run(self, chosen: set[int] | None = None) -> list[Mismatch]:
        """Run the graph, or the `chosen` nodes of it; return where the selection does not go through.

        A node that fails or is not chosen has the value that is predicted, so that each mismatch is one of its own.

        Raises:
            RuleError: a rule raises on fewer ids what it did not raise on all of them.
        """
        values = self.found = Predicted(self)
        found = []
        for node in self.graph.nodes:
            if node.kind != "call" or not (chosen is None or node.index in chosen) or is_state(self.values[node.index]):
                continue
            self._node = node
            try:
                values[node.index] = self.step(node, values)
            except Mismatch as problem:
                found.append(problem)
            except _Unknown as unknown:  # an input of this node is no rectangle, and what made it was not chosen
                found += [] if found else [unknown.problem]  # most often it follows from one that has been noted
        return found

    def known_slots(self) -> dict[tuple[str, int], RawSlot]:
        """What is kept of the slots, before any rule names them."""
        return {key: replace(slot, ids=self._left(slot.ids)) for key, slot in self.facts.slots.items()}

    def step(self, node: Node, values: Mapping[int, Any]) -> Any:
        """What a call gives."""
        return run_rule(self, self.graph, self.number, node, values, self.adapted)

    @property
    def limit(self) -> int:
        """One more than the number of the last channel."""
        return len(self.kept)

    def whole_groups(self, weight: State) -> bool:
        """As the options say."""
        return self.facts.options.whole_groups(weight.name)

    def _left(self, line: Tensor) -> Tensor:
        """What is kept of a line of ids."""
        channels = self.footprints.of(line).line()
        return torch.from_numpy(channels[self.kept[channels]].astype(np.int32))

    def _mismatch(self, call: Call, *ids: Tensor) -> Mismatch:
        """These channels do not fit here."""
        return Mismatch(call.node, *(I.compact(line).numpy() for line in ids))

    def mint(self, call: Call, count: int) -> Tensor:
        """What is kept of the ids that were made here."""
        number = self._minted.get(call.place, 0)
        self._minted[call.place] = number + 1
        return self._left(self.facts.minted[call.place][number])

    def slot(self, call: Call, stored: Stored, extent: int, ids: Tensor | None, role: Role) -> Tensor:
        """The kept channels of a slot; they must be the ones that arrive."""
        known = self.slots[stored.name, stored.axis].ids
        # An id of 0 on either side is no channel: what is fixed there has been pinned, and nothing of it goes.
        if ids is not None and (
            ids.numel() != known.numel() or bool(((ids != known) & (ids != 0) & (known != 0)).any())
        ):
            raise self._mismatch(call, ids, known)
        return known

    def slot_of(self, state: State, axis: int) -> tuple[Tensor, Role] | None:
        """The kept channels of a slot and its role."""
        stored = state.first(axis)
        known = None if stored is None else self.slots.get((stored.name, stored.axis))
        return None if known is None else (known.ids, known.role)

    def positions(self, call: Call, index: Stored, line: Tensor) -> Channels:
        """The positions that are left, along what is left of the line, which must be the one that was known."""
        known = self.facts.indices[index.name]
        whole = self.kept[self.footprints.of(known.line).line()]
        own = self.kept[self.footprints.of(self.facts.slots[index.name, index.axis].ids).line()]
        self.bind(call, self._left(known.line), line, ORDER)
        if not whole[known.values[own]].all():
            raise self._mismatch(call, line)
        return renumbered(known.values, whole, own)

    def goes_alone(self, index: Stored) -> bool:
        """As the options say."""
        return index.name in self.facts.options.alone

    def bind(self, call: Call, a: Tensor, b: Tensor, reason: Reason | str) -> Tensor:
        """Channels that are bound must meet."""
        try:
            wide_a, wide_b, shape = meeting(a, b)
        except ValueError:
            raise self._mismatch(call, a, b) from None
        if bool(((wide_a != wide_b) & (wide_a != 0) & (wide_b != 0)).any()):
            raise self._mismatch(call, a, b)
        return torch.where(wide_a != 0, wide_a, wide_b).expand(shape)

    def bind_equal(self, call: Call, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces must have kept equal counts."""
        if len({tuple(piece.shape) for piece in pieces}) > 1:
            raise self._mismatch(call, *pieces)

    def rectangle(self, call: Call, ids: Tensor) -> None:
        """Nothing: the shape was checked when it was predicted."""

    def divide(self, call: Call, axis: int, lines: Sequence[Tensor]) -> None:
        """Nothing: it was noted."""

    def bound(self, call: Call, which: Bound, line: Tensor, position: int, sign: int) -> None:
        """Nothing: it was decided."""

    def slice(self, call: Call, ids: Tensor, axis: int) -> Tensor:
        """The kept channels of what the slice picked of all."""
        found: Tensor = self.predicted(call.node.index)
        return found

    def varies(self, node: int, axis: int) -> bool:
        """Whatever is found now: it was decided on all ids."""
        return False

    def decide(self, call: Call, question: str, answer: bool) -> bool:
        """The answer that was given on all ids; those that are left say less, and may have led to another question."""
        return self.facts.decisions.get((call.place, question), answer)

    def pin(self, call: Call, ids: Tensor, reason: Reason | str, remedy: str) -> None:
        """Nothing: it was pinned."""

    def fix(self, call: Call, stored: Stored, reason: Reason | str, remedy: str) -> None:
        """Nothing: it was pinned."""

    def account(self, call: Call, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Nothing: it was accounted for."""

    def misfit(self, call: Call, ids: Sequence[Tensor], problem: Exception) -> NoReturn:
        """Fewer ids do not have the shape that the op asks for: none of what goes into it may be fewer."""
        inputs = [self.values[ref.index] for ref in call.node.inputs]
        whole = [self.footprints.of(value).channels for value in inputs if isinstance(value, Tensor)]
        raise Mismatch(call.node, *whole, *(I.compact(line).numpy() for line in ids)) from problem

    def predicted(self, index: int) -> Any:
        """The channels of a node's value after the cut."""
        return self._part(self.values[index])

    def _part(self, ids: Any) -> Any:
        if isinstance(ids, (list, tuple)):
            return tuple(self._part(item) for item in ids)
        if isinstance(ids, State):
            return replace(ids, factors=tuple(tuple(map(self._factor, factors)) for factors in ids.factors))
        if not isinstance(ids, Tensor):
            return ids
        footprint = self.footprints.of(ids)
        found = footprint.kept_part(self.kept)
        if found is None:
            raise Mismatch(self._node, footprint.channels)
        return found

    def _factor(self, factor: Factor) -> Factor:
        """What is left of a part of an axis of parameters."""
        keys = [(stored.name, stored.axis) for stored in factor.stored]
        left = next((self.length(key) for key in keys if key in self.facts.slots), factor.extent)
        return Factor(left, factor.stored, factor.held)

    def length(self, key: tuple[str, int]) -> int:
        """How many positions are left of a slot, by its tensor and axis."""
        return len(self.slots[key].ids)

    def adapted(self, node: Node, arguments: dict[str, Any]) -> tuple[Node, dict[str, Any]]:
        """The node with the sizes that the plan predicts, and the arguments that follow widths."""
        node = replace(node, value=self._value(node.value, self.values[node.index]))
        weight = arguments.get("weight")
        if isinstance(arguments.get("groups"), int) and arguments["groups"] > 1 and isinstance(weight, State):
            stored = weight.first(0)
            key = ("", 0) if stored is None else (stored.name, stored.axis)
            slot = self.facts.slots.get(key)
            if slot is not None and slot.role in (Role.GROUP, Role.DEPTHWISE):
                arguments = {**arguments, "groups": arguments["groups"] * self.length(key) // len(slot.ids)}
        return node, arguments

    def shape_of(self, footprint: Footprint) -> tuple[int, ...] | None:
        """The shape of what is left of a value; None where it is no rectangle."""
        return footprint.kept_shape(self.kept)

    def _value(self, value: Any, ids: Any) -> Any:
        if isinstance(value, Spec):
            if isinstance(ids, State):
                return replace(value, shape=self._part(ids).shape)
            if not isinstance(ids, Tensor) or ids.dim() != len(value.shape):
                return value
            footprint = self.footprints.of(ids)
            shape = self.shape_of(footprint)
            if shape is None:
                raise Mismatch(self._node, footprint.channels)
            return replace(value, shape=shape)
        if isinstance(value, (list, tuple)) and isinstance(ids, (list, tuple)):
            return tuple(self._value(v, i) for v, i in zip(value, ids, strict=True))
        return value


class InTurns(Checker):
    """A checker that tries both axes that a value with channels along two of them may have lost elements along."""

    turn = 0

    def step(self, node: Node, values: Mapping[int, Any]) -> Any:
        """What a call gives: the op says which of the shapes fits."""
        for self.turn in (0, 1):
            self._minted.pop((self.number, node.index), None)
            try:
                return super().step(node, values)
            except Mismatch:
                if self.turn:
                    raise
        raise AssertionError


def is_state(value: Any) -> bool:
    """Whether a value is computed of parameters alone, and so is what their slots leave of it."""
    found = leaves(value)
    return bool(found) and all(isinstance(leaf, State) for leaf in found)


class Predicted(dict[int, Any]):
    """The values of a replay; those that no rule has given are predicted when asked."""

    def __init__(self, checker: Checker) -> None:
        super().__init__()
        self._checker = checker

    def __missing__(self, index: int) -> Any:
        try:
            found = self[index] = self._checker.predicted(index)
        except Mismatch as problem:
            raise _Unknown(problem) from None
        return found


def touching(run: Run, facts: Facts, footprints: Footprints, marks: Channels) -> dict[int, int]:
    """The calls that read or give a channel with a mark, in an activation or in a parameter, with the highest mark."""
    states: dict[str, int] = {}
    for (tensor, _), slot in facts.slots.items():
        states[tensor] = max(states.get(tensor, 0), int(marks[footprints.of(slot.ids).channels].max(initial=0)))

    def mark(ids: Any) -> int:
        found = 0
        for leaf in leaves(ids):
            if isinstance(leaf, State):
                found = max(found, *(states.get(name, 0) for name in leaf.names))
            elif isinstance(leaf, Tensor):
                found = max(found, int(marks[footprints.of(leaf).channels].max(initial=0)))
        return found

    held = {index: mark(ids) for index, ids in run.values.items()}
    touched = {n.index: max(held[n.index], *(held[ref.index] for ref in n.inputs), 0) for n in run.graph.calls}
    return {index: found for index, found in touched.items() if found}
