"""Scaling: the rules once more on a narrower network of the same kind, to see how many channels each lane has there.

Where a stream of 232 channels is shuffled eight times, its lanes have 58, 29, 15, 14, 8, 7, ... channels, and half of
each is no whole number. Yet a network with streams of 116 exists: it halves 58 where this one halves 116. So every
channel that begins in one of these lanes begins in a narrower stream instead, and the forward's own splits say how
many of them come where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.footprint import Channels, Footprint, Footprints
from channelcut.core.groups import Role
from channelcut.core.reasons import Reason
from channelcut.coupling.binding import conflicts, edges, meeting
from channelcut.coupling.facts import Facts, RawSlot
from channelcut.coupling.interpret import Misfit
from channelcut.coupling.lanes import components
from channelcut.coupling.replay import InTurns, Mismatch, Predicted, is_state
from channelcut.ops.call import Call
from channelcut.ops.host import Stored

Free = NDArray[np.bool_]


@dataclass(frozen=True)
class Scale:
    """Which channels there are fewer of, shape (channels,), and what is left of any number of them.

    `slots` is how many of them each slot has, `along` keeps, of one footprint after another, how many lie along its
    axes: scales of one group share both.
    """

    free: Free
    share: Fraction
    slots: Mapping[tuple[str, int], int]
    along: dict[int, list[tuple[int, int]]] = field(default_factory=dict, repr=False)

    def left(self, count: int) -> int | None:
        """What is left of a number of these channels; None where it is no whole number."""
        found = count * self.share
        return int(found) if found.denominator == 1 else None


class Scaled(InTurns):
    """The host that runs the rules on a narrower network; its ids are channels, and the first of them stand for all."""

    def __init__(self, facts: Facts, footprints: Footprints, scale: Scale, number: int) -> None:
        self.scale = scale
        super().__init__(facts, footprints, np.ones(len(scale.free), dtype=bool), number)
        self.lengths = {
            key: len(slot.ids) - count + (scale.left(count) or 0)
            for (key, slot), count in zip(facts.slots.items(), scale.slots.values(), strict=True)
        }
        self.edges: list[NDArray[np.int64]] = []
        self.lines: dict[tuple[object, ...], Channels] = {}
        self._noted = 0

    def known_slots(self) -> dict[tuple[str, int], RawSlot]:
        """The slots without what is scaled; the others begin where the rules name them, with what arrives there."""
        return {
            key: replace(slot, ids=torch.from_numpy(self.footprints.of(slot.ids).line().astype(np.int32)))
            for (key, slot), count in zip(self.facts.slots.items(), self.scale.slots.values(), strict=True)
            if not count
        }

    def counts(self, chosen: set[int]) -> dict[int, list[int]] | None:
        """The first channel of each of the channels that come about, by a number for the slots and pieces it is in.

        None where the narrower network is none: an op does not fit, or something would have to stay.
        """
        values = Predicted(self)
        for node in self.graph.nodes:
            if node.index in chosen and not is_state(self.values[node.index]):
                self._node = node
                try:
                    values[node.index] = self.step(node, values)
                except Misfit:
                    return None
        return self._signatures()

    def _signatures(self) -> dict[int, list[int]]:
        slotted: dict[tuple[object, ...], Channels] = {
            key: slot.ids.numpy() for key, slot in self.slots.items() if self.scale.slots[key]
        }
        joined = components(self.edges, np.arange(len(self.scale.free)))
        signature = np.zeros(len(joined), dtype=np.uint64)
        there = np.zeros(len(joined), dtype=bool)
        first = np.full(len(joined), len(joined))
        for key, line in {**slotted, **self.lines}.items():
            free = np.unique(line[self.scale.free[line]])
            of = np.unique(joined[free])
            # A set of names as a sum of numbers that are drawn for each: two sets have one sum with a chance of 2^-64.
            signature[of] += np.uint64(int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big"))
            there[of] |= key in slotted
            np.minimum.at(first, joined[free], free)
        found: dict[int, list[int]] = {}
        for component in np.flatnonzero(there).tolist():
            found.setdefault(int(signature[component]), []).append(int(first[component]))
        return found

    def _free(self, ids: Tensor | Channels) -> Free:
        found: Free = self.scale.free[ids.numpy() if isinstance(ids, Tensor) else ids]
        return found

    def _left(self, line: Tensor) -> Tensor:
        """The first of the channels of a line that are scaled, as many as there would be, and all others."""
        channels = self.footprints.of(line).line()
        free = self._free(channels)
        left = self.scale.left(int(free.sum()))
        if left is None:
            raise Mismatch(self._node, channels)
        kept = ~free
        kept[np.flatnonzero(free)[:left]] = True
        return torch.from_numpy(channels[kept].astype(np.int32))

    def _note(self, call: Call, lines: Sequence[Tensor | Channels]) -> None:
        """Write down a piece, which no lane reaches across."""
        for line in lines:
            self.lines[(call.place, self.turn, self._noted)] = np.asarray(line).reshape(-1)
            self._noted += 1

    def slot(self, call: Call, stored: Stored, extent: int, ids: Tensor | None, role: Role) -> Tensor:  # noqa: ARG002
        """What arrives first is the slot's; what arrives later is bound to it."""
        key = (stored.name, stored.axis)
        known = self.slots.get(key)
        if known is not None:
            if ids is not None:
                self._meet(call, known.ids, ids)
            return known.ids
        fresh = ids if ids is not None else self._left(self.facts.slots[key].ids)
        if len(fresh) != self.lengths[key]:
            raise self._mismatch(call, fresh)
        self.slots[key] = replace(self.facts.slots[key], ids=fresh)
        return fresh

    def _meet(self, call: Call, a: Tensor, b: Tensor) -> None:
        """Join what meets; nothing that is scaled may meet anything that stays."""
        try:
            pairs, alone = edges(a, b), conflicts(a, b)
        except ValueError:
            raise self._mismatch(call, a, b) from None
        if any(self._free(ids).any() for ids in alone) or any(
            (self._free(both[:, 0]) != self._free(both[:, 1])).any() for both in pairs
        ):
            raise self._mismatch(call, a, b)
        self.edges += pairs

    def bind(self, call: Call, a: Tensor, b: Tensor, reason: Reason | str) -> Tensor:  # noqa: ARG002
        """What is bound in the narrower network goes together."""
        self._meet(call, a, b)
        wide_a, wide_b, shape = meeting(a, b)
        return torch.where(wide_a != 0, wide_a, wide_b).expand(shape)

    def bind_equal(self, call: Call, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces must be equal; no lane reaches across them."""
        super().bind_equal(call, pieces, axis)
        lines = [line for piece in pieces if (line := I.line(piece, axis)) is not None]
        if len(lines) == len(pieces):
            self._note(call, lines)
            return
        for piece in pieces[1:]:
            call.bind(pieces[0], piece)

    def rectangle(self, call: Call, ids: Tensor) -> None:
        """No lane reaches across the rows."""
        footprint = Footprint.of(I.compact(ids).numpy(), ids.shape)
        if len(footprint.varying) > 1:
            self._note(call, list(footprint.rows))

    def divide(self, call: Call, axis: int, lines: Sequence[Tensor]) -> None:  # noqa: ARG002
        """No lane reaches across a cut."""
        self._note(call, lines)

    def slice(self, call: Call, ids: Tensor, axis: int) -> Tensor:
        """A slice of what is not scaled, or along another axis; where else it would stop is not known."""
        if not self._free(I.compact(ids)).any():
            return super().slice(call, ids, axis)
        if axis in I.varying_axes(ids):
            raise self._mismatch(call, ids)
        given = call.arguments
        if "start" in given and "end" in given:
            return ids[(slice(None),) * axis + (slice(given["start"], given["end"], given["step"]),)]
        return ids.narrow(axis, given["start"], given["length"])

    def positions(self, call: Call, index: Stored, line: Tensor) -> Channels:
        """A list of positions knows nothing of a narrower network."""
        if self._free(line).any():
            raise self._mismatch(call, line)
        return super().positions(call, index, line)

    def pin(self, call: Call, ids: Tensor, reason: Reason | str, remedy: str) -> None:  # noqa: ARG002
        """What is scaled may not have to stay."""
        if self._free(I.compact(ids)).any():
            raise self._mismatch(call, ids)

    def length(self, key: tuple[str, int]) -> int:
        """How many positions a slot has in the narrower network, whether the rules have named it yet or not."""
        return self.lengths[key]

    def shape_of(self, footprint: Footprint) -> tuple[int, ...] | None:
        """The shape in the narrower network; None where it would be no whole number."""
        if id(footprint) not in self.scale.along:  # the footprints live as long as the facts
            self.scale.along[id(footprint)] = list(self._along(footprint))
        shapes = []
        for axis, count in self.scale.along[id(footprint)]:
            if (after := self.scale.left(count)) is not None:
                extents = enumerate(footprint.shape)
                shapes.append(tuple(extent - count + after if a == axis else extent for a, extent in extents))
        return shapes[min(self.turn, len(shapes) - 1)] if shapes else None

    def _along(self, footprint: Footprint) -> Iterator[tuple[int, int]]:
        """The axes that what is scaled may be shorter along, most likely the last, and how many of it lie there."""
        free = self._free(footprint.channels)
        if not free.any():
            yield -1, 0
        for axis in reversed(footprint.varying):
            counts = np.moveaxis(free, axis, -1).reshape(-1, free.shape[axis]).sum(1)
            if counts[0] and (counts == counts[0]).all():
                yield axis, int(counts[0])
