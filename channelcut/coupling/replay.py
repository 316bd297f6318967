"""Replay: run the rules once more, on the ids that a selection keeps.

Lanes keep equal shares, not equal positions. Whether that is legal shows when a graph is executed on what is left:
every op must still get rectangles, whatever is bound must still meet, and every consumer must see exactly the
channels that it keeps slots for. A transpose of the lanes, for instance, brings them into another order than their
slots'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core.graph import Graph, Node, Spec
from channelcut.core.groups import Group
from channelcut.core.trees import leaves
from channelcut.coupling.collect import Coupler, State
from channelcut.coupling.footprint import Channels, Footprints, Kept
from channelcut.coupling.interpret import run_rule
from channelcut.ops import ids as I


class Mismatch(Exception):
    """The replay failed: at a node, over some channels."""

    def __init__(self, node: Node | None, *channels: Channels) -> None:
        super().__init__()
        found = np.unique(np.concatenate([part.reshape(-1) for part in channels] or [np.zeros(0, np.int64)]))
        self.node = node
        self.channels: Channels = found[found != 0].astype(np.int64)


class _Unknown(Exception):
    """A value of which no rectangle is left is asked for."""

    def __init__(self, problem: Mismatch) -> None:
        super().__init__()
        self.problem = problem


class Replay(Coupler):
    """A coupler that checks instead of collecting; its ids are channels, and only kept ones.

    Args:
        original: the coupler that ran the rules on everything.
        footprints: the channels of its ids.
        kept: which channels are kept.
    """

    def __init__(self, original: Coupler, footprints: Footprints, kept: Kept) -> None:
        super().__init__(policy=original.policy)
        self.original, self.footprints, self.kept = original, footprints, kept
        self.made: dict[tuple[int, int], int] = {}
        self.values: Mapping[int, Any] = {}
        self.slots = {key: replace(slot, ids=self._left(slot.ids)) for key, slot in original.slots.items()}

    def run(self, graph: Graph, values: Mapping[int, Any], chosen: set[int] | None = None) -> list[Mismatch]:
        """Run a graph, or the `chosen` nodes of it; return where the selection does not go through.

        A node that fails or is not chosen has the value that is predicted, so that each mismatch is one of its own.
        """
        self.graph, self.values = graph, values
        env = _Predicted(self)
        found = []
        for node in graph.nodes:
            if node.kind != "call" or not (chosen is None or node.index in chosen):
                continue
            self.node = node
            try:
                env[node.index] = run_rule(self, node, env, self.adapted)
            except Mismatch as problem:
                found.append(problem)
            except _Unknown as unknown:
                found += [] if found else [unknown.problem]  # most often it follows from one that has been noted
            except (RuntimeError, ValueError, IndexError, TypeError):
                inputs = [values[ref.index] for ref in node.inputs]
                found.append(Mismatch(node, *(self._channels(ids) for ids in inputs if isinstance(ids, Tensor))))
        return found

    def _mismatch(self, *channels: Tensor) -> Mismatch:
        """These channels do not fit here."""
        return Mismatch(self.node, *(I.compact(line).numpy() for line in channels))

    def _channels(self, ids: Tensor) -> Channels:
        return self.footprints.of(ids).channels

    def _left(self, line: Tensor) -> Tensor:
        """What is kept of a line of ids."""
        channels = self.footprints.of(line).line()
        return torch.from_numpy(channels[self.kept[channels]].astype(np.int32))

    def mint(self, count: int) -> Tensor:
        """What is kept of the ids that the original run made here."""
        number = self.made.get(self.place, 0)
        self.made[self.place] = number + 1
        return self._left(self.original.minted[self.place][number])

    def slot(self, state: object, axis: int, ids: Tensor | None, role: str) -> Tensor:
        """The kept channels of a slot; they must be the ones that arrive."""
        assert isinstance(state, State)
        known = self.slots[state.name, state.axis(axis)].ids
        if ids is not None and (
            ids.numel() != known.numel() or bool(((ids != known) & (ids != 0) & (known != 0)).any())
        ):
            raise self._mismatch(ids, known)
        return known

    def decide(self, question: str, answer: bool) -> bool:
        """The answer of the original run; the ids that are left say less, and may have led to another question."""
        return self.original.decisions.get((self.place, question), answer)

    def fix(self, state: State) -> None:
        """Nothing: it was pinned."""

    def bind(self, a: Tensor, b: Tensor, reason: str = "") -> Tensor:
        """Channels that are bound must meet."""
        try:
            shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
        except ValueError:
            raise self._mismatch(a, b) from None
        wide_a, wide_b = I.shrink(a.expand(shape), b.expand(shape))
        if bool(((wide_a != wide_b) & (wide_a != 0) & (wide_b != 0)).any()):
            raise self._mismatch(a, b)
        return torch.where(wide_a != 0, wide_a, wide_b).expand(shape)

    def bind_equal(self, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces must have kept equal counts."""
        if len({tuple(piece.shape) for piece in pieces}) > 1:
            raise self._mismatch(*pieces)

    def rectangle(self, ids: Tensor) -> Tensor:
        """Nothing: the shape was checked when it was predicted."""
        return ids

    def sliced(self, call: Any, ids: Tensor, axis: int) -> Tensor:
        """The kept channels of what the original slice picked."""
        found: Tensor = self.predicted(call.node.index)
        return found

    def slice_bound(self, role: str, ids: Tensor, position: int, sign: int) -> None:
        """Nothing: it was decided."""

    def pin(self, ids: Tensor, reason: str, remedy: str = "") -> None:
        """Nothing: it was pinned."""

    def account(self, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Nothing: it was accounted for."""

    def predicted(self, index: int) -> Any:
        """The channels of a node's value after the cut."""
        return self._part(self.values[index])

    def _part(self, ids: Any) -> Any:
        if isinstance(ids, (list, tuple)):
            return tuple(self._part(item) for item in ids)
        if isinstance(ids, State):
            keys = [(ids.name, ids.axis(axis)) for axis in range(len(ids.shape))]
            shape = [len(self.slots[k].ids) if k in self.slots else e for k, e in zip(keys, ids.shape, strict=True)]
            return replace(ids, shape=tuple(shape))
        if not isinstance(ids, Tensor):
            return ids
        footprint = self.footprints.of(ids)
        found = footprint.kept_part(self.kept)
        if found is None:
            raise Mismatch(self.node, footprint.channels)
        return found

    def adapted(self, node: Node, arguments: dict[str, Any]) -> tuple[Node, dict[str, Any]]:
        """The node with the sizes that the plan predicts, and the arguments that follow widths."""
        node = replace(node, value=self._value(node.value, self.values[node.index]))
        weight = arguments.get("weight")
        if isinstance(arguments.get("groups"), int) and arguments["groups"] > 1 and isinstance(weight, State):
            slot = self.slots.get((weight.name, 0))
            if slot is not None and slot.role in ("group", "depthwise"):
                before = len(self.original.slots[weight.name, 0].ids)
                arguments = {**arguments, "groups": arguments["groups"] * len(slot.ids) // before}
        return node, arguments

    def _value(self, value: Any, ids: Any) -> Any:
        if isinstance(value, Spec):
            if not isinstance(ids, Tensor) or ids.dim() != len(value.shape):
                return value
            footprint = self.footprints.of(ids)
            shape = footprint.kept_shape(self.kept)
            if shape is None:
                raise Mismatch(self.node, footprint.channels)
            return replace(value, shape=shape)
        if isinstance(value, (list, tuple)) and isinstance(ids, (list, tuple)):
            return tuple(self._value(v, i) for v, i in zip(value, ids, strict=True))
        return value


class _Predicted(dict[int, Any]):
    """The values of a replay; those that no rule has given are predicted when asked."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = replay

    def __missing__(self, index: int) -> Any:
        try:
            found = self[index] = self._replay.predicted(index)
        except Mismatch as problem:
            raise _Unknown(problem) from None
        return found


def touching(graph: Graph, values: Mapping[int, Any], coupler: Coupler, footprints: Footprints, some: Kept) -> set[int]:
    """The calls that read or give one of some channels, in an activation or in a parameter."""
    slots = coupler.slots.items()
    states = {tensor for (tensor, _), slot in slots if some[footprints.of(slot.ids).channels].any()}

    def holds(ids: Any) -> bool:
        return any(
            leaf.name in states if isinstance(leaf, State) else bool(some[footprints.of(leaf).channels].any())
            for leaf in leaves(ids)
            if isinstance(leaf, (State, Tensor))
        )

    held = {index: holds(ids) for index, ids in values.items()}
    return {node.index for node in graph.calls if held[node.index] or any(held[ref.index] for ref in node.inputs)}


def adversary(groups: Sequence[Group], count: int, seed: int) -> Kept:
    """A selection that keeps about half of every lane, other positions in each, and equal shares in lanes of one group.

    Seed 0 keeps a window of each lane that moves on from lane to lane, seed 1 one that moves back: an op that needs two
    lanes to keep the same positions, or to keep them in an order, fails in one of them. Any other seed draws.
    """
    generator = np.random.default_rng(seed)
    kept = np.ones(count, dtype=bool)
    for group in groups:
        for place, lane in enumerate(group.lanes):
            each = len(lane) // group.width
            left = max(1, (group.width + 1) // 2) * each
            if seed > 1:
                kept[generator.choice(lane, len(lane) - left, replace=False)] = False
            else:
                steps = _digit_sum(place, group.width)
                start = group.index + (steps if seed == 0 else -1 - steps)
                kept[np.roll(lane, -start * each)[left:]] = False
    return kept


def _digit_sum(number: int, base: int) -> int:
    """The sum of the digits; unlike the number itself modulo `base`, it repeats with no period (Thue and Morse)."""
    total = 0
    while base > 1 and number:
        total, number = total + number % base, number // base
    return total
