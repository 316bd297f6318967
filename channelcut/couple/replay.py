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
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.graph import Graph, Node, Spec, refs
from channelcut.core.groups import Group
from channelcut.couple import ids as I
from channelcut.couple.coupler import Coupler, RawSlot, State

Kept = NDArray[np.bool_]


class Mismatch(Exception):
    """The replay failed: at a node, over some channels."""

    def __init__(self, node: Node | None, channels: set[int]) -> None:
        super().__init__()
        self.node, self.channels = node, channels - {0}


class Replay(Coupler):
    """A coupler that checks instead of collecting; its ids are channels, and only kept ones."""

    def __init__(self, original: Coupler, channel_of: NDArray[np.int64], kept: Kept) -> None:
        super().__init__(policy=original.policy)
        self.table = torch.from_numpy(channel_of.astype(np.int32))
        self.kept = torch.from_numpy(kept)
        self.original = original
        self.made: dict[tuple[int, int], int] = {}
        self.full = {key: self.channels(slot.ids) for key, slot in original.slots.items()}
        self.slots = {
            key: RawSlot(key[0], key[1], self.cut(line).to(torch.int64), original.slots[key].role)
            for key, line in self.full.items()
        }

    def channels(self, ids: Tensor) -> Tensor:
        """The channels of ids of the original run, in their shape."""
        return self.table[I.compact(ids).to(torch.int64)].expand(ids.shape)

    def cut(self, line: Tensor) -> Tensor:
        """What is kept of a line of channels."""
        return line[self.kept[line.to(torch.int64)]]

    def mismatch(self, *ids: Tensor) -> Mismatch:
        """These channels do not fit here."""
        return Mismatch(self.node, {int(c) for found in ids for c in torch.unique(I.compact(found))})

    def mint(self, count: int) -> Tensor:
        """What is kept of the ids that the original run made here."""
        key = self.place
        number = self.made.get(key, 0)
        self.made[key] = number + 1
        return self.cut(self.channels(self.original.minted[key][number]))

    def slot(self, state: object, axis: int, ids: Tensor | None, role: str) -> Tensor:
        """The kept channels of a slot; they must be the ones that arrive."""
        assert isinstance(state, State)
        known = self.slots[state.name, state.axis(axis)].ids.to(torch.int32)
        if ids is not None and (
            ids.numel() != known.numel() or bool(((ids != known) & (ids != 0) & (known != 0)).any())
        ):
            raise self.mismatch(ids, known)
        return known

    def fix(self, state: State) -> None:
        """Nothing: it was pinned."""

    def bind(self, a: Tensor, b: Tensor, reason: str = "") -> Tensor:
        """Channels that are bound must meet."""
        try:
            shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
        except ValueError:
            raise self.mismatch(a, b) from None
        wide_a, wide_b = I.shrink(a.expand(shape), b.expand(shape))
        if bool(((wide_a != wide_b) & (wide_a != 0) & (wide_b != 0)).any()):
            raise self.mismatch(a, b)
        return torch.where(wide_a != 0, wide_a, wide_b).expand(shape)

    def bind_equal(self, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces must have kept equal counts."""
        if len({tuple(piece.shape) for piece in pieces}) > 1:
            raise self.mismatch(*pieces)

    def rectangle(self, ids: Tensor) -> Tensor:
        """Nothing: the shape was checked when it was predicted."""
        return ids

    def sliced(self, call: Any, ids: Tensor, axis: int) -> Tensor:
        """The kept channels of what the original slice picked."""
        return self.predicted(call.node)

    def slice_bound(self, role: str, ids: Tensor, position: int, sign: int) -> None:
        """Nothing: it was decided."""

    def pin(self, ids: Tensor, reason: str, remedy: str = "") -> None:
        """Nothing: it was pinned."""

    def account(self, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Nothing: it was accounted for."""

    def predicted(self, node: Node) -> Tensor:
        """The channels of a node's value after the cut."""
        ids = self.values[node.index]
        found = kept_part(self.channels(ids), self.kept)
        if found is None:
            raise self.mismatch(self.channels(ids))
        return found

    def replay(self, graph: Graph, values: Mapping[int, Any], execute: Any) -> None:
        """Run a graph; raises `Mismatch` where the selection does not go through."""
        self.graph, self.values = graph, values
        try:
            execute(self, graph, {}, self.adapted)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            inputs = [values.get(ref.index) for ref in refs(self.node.args)] if self.node is not None else []
            channels = [self.channels(ids) for ids in inputs if isinstance(ids, Tensor)]
            found = {int(c) for line in channels for c in torch.unique(I.compact(line))}
            raise Mismatch(self.node, found) from error

    def adapted(self, node: Node, arguments: dict[str, Any]) -> tuple[Node, dict[str, Any]]:
        """The node with the sizes that the plan predicts, and the arguments that follow widths."""
        if node.kind == "state":
            extents = enumerate(node.value.shape)
            shape = tuple(len(s.ids) if (s := self.slots.get((node.name, a))) is not None else e for a, e in extents)
            return replace(node, value=replace(node.value, shape=shape)), arguments
        if node.kind == "call":
            node = replace(node, value=self._value(node.value, self.values[node.index]))
        weight = arguments.get("weight")
        if isinstance(arguments.get("groups"), int) and arguments["groups"] > 1 and isinstance(weight, State):
            slot = self.slots.get((weight.name, 0))
            if slot is not None and slot.role in ("group", "depthwise"):
                before = len(self.full[weight.name, 0])
                arguments = {**arguments, "groups": arguments["groups"] * len(slot.ids) // before}
        return node, arguments

    def _value(self, value: Any, ids: Any) -> Any:
        if isinstance(value, Spec):
            if not isinstance(ids, Tensor) or ids.dim() != len(value.shape):
                return value
            channels = self.channels(ids)
            shape = kept_shape(channels, self.kept)
            if shape is None:
                raise self.mismatch(channels)
            return replace(value, shape=shape)
        if isinstance(value, (list, tuple)) and isinstance(ids, (list, tuple)):
            return tuple(self._value(v, i) for v, i in zip(value, ids, strict=True))
        return value


def kept_shape(channels: Tensor, kept: Tensor) -> tuple[int, ...] | None:
    """The shape of what is left of a value; None where it is no rectangle.

    The last axis along which channels vary loses elements, the ones before it whole slabs.
    """
    small = I.compact(I.compress(channels))
    varying = I.varying_axes(small)
    shape = list(channels.shape)
    if not varying:
        return tuple(shape)
    mask = kept[small.to(torch.int64)]
    outer = 1
    for axis in varying[:-1]:
        others = [a for a in range(mask.dim()) if a != axis]
        shape[axis] = int(mask.any(dim=others).sum()) if others else int(mask.sum())
        outer *= shape[axis]
    total = int(mask.sum())
    if outer == 0 or total % outer:
        return None
    shape[varying[-1]] = total // outer
    return tuple(shape)


def kept_part(channels: Tensor, kept: Tensor) -> Tensor | None:
    """What is left of a value's channels, row by row; None where it is no rectangle."""
    shape = kept_shape(channels, kept)
    if shape is None:
        return None
    if not channels.numel():
        return I.zeros(shape)
    small = I.compact(I.compress(channels))
    compacted = [after if small.shape[a] > 1 else 1 for a, after in enumerate(shape)]
    chosen = small[kept[small.to(torch.int64)]]
    if chosen.numel() != int(np.prod(compacted)):
        return None
    return chosen.reshape(compacted).expand(shape)


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
