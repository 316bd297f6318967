"""Arrival: the replay of a selection that may bring channels into another order.

A shuffle takes its channels from two lanes in turn. Where each lane keeps what it likes, they come out in another order
than they had, and whoever reads them has its own positions in that order: nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.errors import RuleError
from channelcut.core.footprint import Channels, Footprint, Footprints, Kept
from channelcut.core.graph import named_outputs
from channelcut.core.groups import Arrival, Role
from channelcut.core.reasons import Reason
from channelcut.core.trees import leaves
from channelcut.coupling.facts import Facts, RawSlot
from channelcut.coupling.replay import Checker, InTurns, is_state, touching
from channelcut.ops.call import Call
from channelcut.ops.host import State, Stored
from channelcut.ops.registry import op


class Arriving(InTurns):
    """The checker of a selection whose `movable` channels, shape (channels,), may come in another order than they had.

    `orders` holds the slots whose order has been seen, which is the same wherever they are used.
    """

    def __init__(
        self, facts: Facts, footprints: Footprints, kept: Kept, number: int, movable: Kept, orders: dict[Any, Tensor]
    ) -> None:
        super().__init__(facts, footprints, kept, number)
        self.movable, self.orders = movable, orders
        self.slots |= {key: replace(self.slots[key], ids=ids.to(torch.int64)) for key, ids in orders.items()}

    def slot(self, call: Call, stored: Stored, extent: int, ids: Tensor | None, role: Role) -> Tensor:
        """A slot that is first met by what arrives takes it in that order."""
        key = (stored.name, stored.axis)
        slot = self.slots[key]
        if ids is not None and key not in self.orders and slot.role is not Role.GROUP and self._is_order(ids, slot.ids):
            self.slots[key] = replace(slot, ids=ids.to(torch.int64))
        known = super().slot(call, stored, extent, ids, role)
        self.orders[key] = known
        return known

    def slot_of(self, state: State, axis: int) -> tuple[Tensor, Role] | None:
        """Whoever takes the channels of a slot before they arrive, and not its role alone, takes them as they are."""
        found, stored = super().slot_of(state, axis), state.first(axis)
        if found is not None and stored is not None and found[1] is not Role.DEPTHWISE:
            self.orders.setdefault((stored.name, stored.axis), found[0])
        return found

    def bind_equal(self, call: Call, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces of one length; those of a norm, which is over all of a piece, must have the channels that they had."""
        super().bind_equal(call, pieces, axis)
        if op(call.name).over_kept is not None and any(self.movable[I.compact(piece)].any() for piece in pieces):
            raise self._mismatch(call, *pieces)

    def shape_of(self, footprint: Footprint) -> tuple[int, ...] | None:
        """The shape of what is left of a value: at the second turn, that of a shuffle that has closed up."""
        return footprint.closed_shape(self.kept) if self.turn else super().shape_of(footprint)

    def slice(self, call: Call, ids: Tensor, axis: int) -> Tensor:
        """What is sliced along its channels must have the order that it had."""
        found = super().slice(call, ids, axis)
        before = self.footprints.of(self.values[call.node.inputs[0].index])
        if axis in I.varying_axes(ids) and not np.array_equal(_line(before, self.kept), I.compact(ids).reshape(-1)):
            raise self._mismatch(call, ids)
        if axis in I.varying_axes(ids) or not self.movable[I.compact(ids)].any():
            return found
        given = call.arguments
        if "start" in given and "end" in given:
            return ids[(slice(None),) * axis + (slice(given["start"], given["end"], given["step"]),)]
        return ids.narrow(axis, given["start"], given["length"])

    def pin(self, call: Call, ids: Tensor, reason: Reason | str, remedy: str) -> None:  # noqa: ARG002
        """What may move is held nowhere, so that a rule which holds it now has met something else."""
        if self.movable[I.compact(ids)].any():
            raise self._mismatch(call, ids)

    def _is_order(self, ids: Tensor, known: Tensor) -> bool:
        """Whether ids are those that are known, in another order, and only movable ones have moved."""
        return ids.dim() == 1 and _is_order(ids.numpy(), known.numpy(), self.movable)

    def arrived(self, chosen: set[int]) -> dict[int, Tensor] | None:
        """The values of the `chosen` nodes whose channels come in another order; None where the selection fails.

        What a layer reads and gives has its channels along one axis, and an output has them in the order that it had.
        """
        if self.run(chosen):
            return None
        found: dict[int, Tensor] = {}
        calls = [node for node in self.graph.calls if node.index in chosen]
        in_order = {index for _, index in named_outputs(self.graph)} | set(self.graph.unsettled)
        layers = [node for node in calls if any(is_state(self.values[ref.index]) for ref in node.inputs)]
        in_line = {index for node in layers for index in (node.index, *(ref.index for ref in node.inputs))}
        for node in calls:
            if op(node.name).contracts and any(ref.index in found for ref in node.inputs):
                return None
            for before, after in zip(*map(_tensors, (self.values[node.index], self.found[node.index])), strict=True):
                footprint = self.footprints.of(before)
                line, arrived = _line(footprint, self.kept), I.compact(after).reshape(-1).numpy()
                moved = not np.array_equal(line, arrived) and self.movable[footprint.channels].any()
                if moved and not _is_order(arrived, line, self.movable):
                    return None
                if moved and (node.index in in_order or (node.index in in_line and len(I.varying_axes(after)) > 1)):
                    return None
                if isinstance(self.values[node.index], Tensor) and (
                    moved or tuple(after.shape) != footprint.kept_shape(self.kept)
                ):
                    found[node.index] = after
        return found


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def _line(footprint: Footprint, kept: Kept) -> Channels:
    """What is kept of the channels of a value, in the order that they had."""
    channels = footprint.channels.reshape(-1)
    found: Channels = channels[kept[channels]]
    return found


def _is_order(after: Channels, before: Channels, movable: Kept) -> bool:
    """Whether `after` is `before` in another order, and only movable channels, each there once, have moved."""
    if len(after) != len(before):
        return False
    moved = after != before
    ours, theirs = np.sort(after[moved]), np.sort(before[moved])
    once = bool((ours[1:] != ours[:-1]).all())
    counted = np.isin(before, ours).sum() == len(ours)
    return bool(np.array_equal(ours, theirs) and movable[ours].all() and once and counted)


@dataclass(eq=False)
class Arrangement:
    """Where the channels of a settled model come in another order, for one selection after another.

    Args:
        facts: what the rules said.
        footprints: the channels of its ids.
        movable: the channels of groups with a table, shape (channels,).
    """

    facts: Facts
    footprints: Footprints
    movable: Kept
    _known: dict[bytes, Arrival] = field(default_factory=dict, repr=False)

    def __call__(self, kept: Kept) -> Arrival:
        """Where the channels marked in `kept`, shape (channels,), come in another order than they had."""
        key = kept.tobytes()
        if key not in self._known:
            if len(self._known) >= 4:  # a plan, its proof and the model that is proven ask for the same one
                self._known.pop(next(iter(self._known)))
            found = arrival(self.facts, self.footprints, kept, self.movable)
            if found is None:
                raise RuleError(
                    "Lanes keep what the forward's own splits give them, and this selection of channels does not go "
                    "through, though another one with as many did. A rule for an op on the way is wrong; please report "
                    "this with the model. Until then exclude the layers of this group."
                )
            self._known[key] = found
        return self._known[key]


def arrival(facts: Facts, footprints: Footprints, kept: Kept, movable: Kept) -> Arrival | None:
    """Where kept channels come in another order in the runs of a model; None where the selection does not fit."""
    orders: dict[Any, Tensor] = {}
    values: dict[int, Tensor] = {}
    marks = movable.astype(np.int64)
    whole: dict[tuple[str, int], RawSlot] = {}
    for number, run in enumerate(facts.runs):
        checker = Arriving(facts, footprints, kept, number, movable, orders)
        whole = whole or Checker(facts, footprints, kept, number).slots
        found = checker.arrived(set(touching(run, facts, footprints, marks)))
        if found is None:
            return None
        values = values if number else found
    moved = {key: ids.numpy() for key, ids in orders.items() if not torch.equal(ids, whole[key].ids.to(ids.dtype))}
    return Arrival(moved, values)
