"""The state of one coupling run, and the five things that a rule may do: mint, slot, bind, pin, account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.graph import Graph, Node, Site
from channelcut.ops import ids as I


@dataclass(frozen=True)
class State:
    """A parameter or buffer as a value; `flipped` after a transpose of a matrix."""

    name: str
    shape: tuple[int, ...]
    flipped: bool = False

    def axis(self, axis: int) -> int:
        """The axis of the stored tensor that `axis` of this value is."""
        return 1 - axis if self.flipped else axis


@dataclass(frozen=True)
class RawSlot:
    """A slot before the channels are known: the ids along one axis of a tensor."""

    tensor: str
    axis: int
    ids: Tensor
    role: str


@dataclass(frozen=True)
class RawPin:
    """A pin before the channels are known."""

    reason: str
    site: Site
    ids: NDArray[np.int64]
    remedy: str


@dataclass(frozen=True)
class RawWork:
    """Multiply-accumulates of a call before the channels are known."""

    macs: float
    rows: Tensor
    columns: Tensor
    site: Site
    graph: int


@dataclass
class Coupler:
    """Collects what the rules say about one model; ids of parameters are shared by all the graphs it sees.

    `equal`: pieces that must keep equal shares. `rectangles`: values that may lose elements along the last of
    several axes alone. `pieces`: lines that a slice cuts out. `bounds`: the line before (sign 1) or after (-1) a
    slice's bound. `minted`: the ids that were made at a node. `decisions`: what rules found out about ids there.
    `policy`: whether grouped convolutions lose whole `groups` or `offsets` in each.
    """

    next_id: int = 1
    edges: list[NDArray[np.int64]] = field(default_factory=list)
    pins: list[RawPin] = field(default_factory=list)
    slots: dict[tuple[str, int], RawSlot] = field(default_factory=dict)
    fixed_states: dict[str, Site] = field(default_factory=dict)
    equal: list[tuple[tuple[Tensor, ...], Site]] = field(default_factory=list)
    rectangles: list[tuple[Tensor, Site]] = field(default_factory=list)
    pieces: list[Tensor] = field(default_factory=list)
    bounds: dict[tuple[int, int, str], tuple[Tensor, int]] = field(default_factory=dict)
    pieces_of: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    minted: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    decisions: dict[tuple[tuple[int, int], str], bool] = field(default_factory=dict)
    work: list[RawWork] = field(default_factory=list)
    policy: str = "groups"
    graph: Graph | None = None
    node: Node | None = None

    def copy(self) -> Coupler:
        """The same, to which more can be bound and pinned while this one stays as it is."""
        lists = {name: list(getattr(self, name)) for name in ("edges", "pins", "equal", "rectangles")}
        return replace(self, **lists)  # type: ignore[arg-type]

    @property
    def place(self) -> tuple[int, int]:
        """The graph and the node that run now, as a key."""
        return id(self.graph), self.node.index if self.node is not None else -1

    @property
    def site(self) -> Site:
        """Where the rule that runs now was called."""
        return self.node.site if self.node is not None else Site()

    def mint(self, count: int) -> Tensor:
        """Fresh ids for `count` channels."""
        fresh = torch.arange(self.next_id, self.next_id + count, dtype=torch.int32)
        self.next_id += count
        self.minted.setdefault(self.place, []).append(fresh)
        return fresh

    def slot(self, state: object, axis: int, ids: Tensor | None, role: str) -> Tensor:
        """Say that `axis` of a parameter or buffer follows `ids` (shape (extent,)); None mints them.

        A tensor that is used twice keeps its first ids, and the second are bound to them. Returns the slot's ids.
        """
        if not isinstance(state, State):
            raise TypeError("only parameters and buffers have slots")
        axis = state.axis(axis)
        known = self.slots.get((state.name, axis))
        if known is None:
            extent = state.shape[1 - axis if state.flipped else axis]
            fresh = ids if ids is not None else self.mint(extent)
            self.slots[state.name, axis] = RawSlot(state.name, axis, fresh.to(torch.int64), role)
            return fresh
        if role in ("depthwise", "group"):  # a computed weight is seen before the layer that says what it is for
            self.slots[state.name, axis] = replace(known, role=role)
        known_ids = known.ids.to(torch.int32)
        if ids is not None:
            self.bind(known_ids, ids, "a parameter shared with a fixed tensor")
        return known_ids

    def role(self, state: State) -> str:
        """The role of a weight's first axis, where it is known."""
        known = self.slots.get((state.name, 0))
        return known.role if known is not None else ""

    def decide(self, question: str, answer: bool) -> bool:
        """Note a rule's answer to a question about the ids; a replay gets the same, even where it has one channel."""
        self.decisions[self.place, question] = answer
        return answer

    def fix(self, state: State) -> None:
        """A parameter or buffer is used in a way that no removal may change: its slots, found by any rule, are
        pinned.
        """
        self.fixed_states.setdefault(state.name, self.site)

    def bind(self, a: Tensor, b: Tensor, reason: str = "coupled with a fixed tensor") -> Tensor:
        """Elements at the same position live or die together; where one is fixed, the other is pinned.

        Shapes broadcast; along an axis of extent 1 nothing is bound, because broadcasting needs no element there.
        Returns the ids of the result.
        """
        shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))  # torch.broadcast_shapes costs a second at first
        wide_a, wide_b = I.shrink(a.expand(shape), b.expand(shape))
        has_a, has_b = wide_a != 0, wide_b != 0
        both = has_a & has_b
        if bool(both.any()):
            first, second = wide_a[both].to(torch.int64), wide_b[both].to(torch.int64)
            pairs = torch.unique(((first << 32) | second)[first != second])  # as one number: rows sort far slower
            if len(pairs):
                self.edges.append(torch.stack([pairs >> 32, pairs & 0xFFFFFFFF], 1).numpy())
        self._pin_against_fixed(a, b, shape, reason)
        self._pin_against_fixed(b, a, shape, reason)
        return torch.where(has_a, wide_a, wide_b).expand(shape)

    def _pin_against_fixed(self, a: Tensor, b: Tensor, shape: Sequence[int], reason: str) -> None:
        """Pin the ids of `a` at positions where `b` has an element of its own that cannot be removed."""
        wide_a, wide_b = I.shrink(a.expand(tuple(shape)), b.expand(tuple(shape)))
        conflict = (wide_a != 0) & (wide_b == 0)
        if not bool(conflict.any()):
            return
        offset = len(shape) - b.dim()
        owned = [axis for axis in I.varying_axes(wide_a) if axis >= offset and b.shape[axis - offset] > 1]
        if owned:
            self.pin(wide_a[conflict], reason)

    def bind_along(self, ids: Tensor, axis: int) -> Tensor:
        """Bind every slab along `axis` to the first one; returns the ids with the first one's in every slab."""
        if ids.shape[axis] > 1 and not I.is_constant(I.compact(ids), axis):
            first = ids.narrow(axis, 0, 1)
            self.bind(first.expand_as(rest := ids.narrow(axis, 1, ids.shape[axis] - 1)), rest)
            return first.expand(ids.shape)
        return ids

    def bind_equal(self, pieces: Sequence[Tensor], axis: int) -> None:
        """The pieces must keep equal numbers of channels along `axis`, not the same ones."""
        lines = [I.line(piece, axis) for piece in pieces]
        if any(found is None for found in lines):
            for piece in pieces[1:]:
                self.bind(pieces[0], piece)
            return
        self.equal.append((tuple(found for found in lines if found is not None), self.site))

    def rectangle(self, ids: Tensor) -> Tensor:
        """The ids vary along several axes, and only the last of them may lose elements: the same share in every row."""
        if len(I.varying_axes(ids)) > 1:
            self.rectangles.append((ids, self.site))
        return ids

    def follows(self, axis: int) -> bool:
        """Whether the extent along an axis of the value that is made now was taken from a shape, or left open."""
        return self.graph is not None and (self.place[1], axis) in self.graph.following

    def sliced(self, call: Any, ids: Tensor, axis: int) -> Tensor:
        """The ids that a slice picks; a replay picks what is left of them."""
        arguments = call.arguments
        if "start" in arguments and "end" in arguments:
            return ids[(slice(None),) * axis + (slice(arguments["start"], arguments["end"], arguments["step"]),)]
        return ids.narrow(axis, arguments["start"], arguments["length"])

    def slice_bound(self, role: str, ids: Tensor, position: int, sign: int) -> None:
        """A slice along the channels starts or stops at `position`: what lies before it decides where that is
        afterwards.

        A bound whose origin is known moves with the channels before it (`sign` 1) or after it (-1, counted from the
        end); any other is hard-coded, and these channels stay.
        """
        line = ids[:position] if sign > 0 else ids[position:]
        graph, index = self.place
        if self.graph is not None and (index, role) in self.graph.tagged:
            self.bounds[graph, index, role] = (line, sign)
            self.pieces.extend((ids[:position], ids[position:]))
        else:
            self.pin(line, HARD_CODED, HARD_CODED_REMEDY)

    def pin(self, ids: Tensor, reason: str, remedy: str = "") -> None:
        """These channels cannot be removed, because of `reason`, here."""
        found = torch.unique(I.compact(ids))
        found = found[found != 0]
        if len(found):
            self.pins.append(RawPin(reason, self.site, found.to(torch.int64).numpy(), remedy))

    def account(self, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Charge `macs` multiply-accumulates, proportional to the kept share of `rows` and of `columns`."""
        self.work.append(
            RawWork(macs, I.compact(rows).reshape(-1), I.compact(columns).reshape(-1), self.site, id(self.graph))
        )


HARD_CODED = "positions along the channels are hard-coded"
HARD_CODED_REMEDY = "select channels by chunk or split, or by a layer of their own"
FIXED = torch.zeros(0, dtype=torch.int32)
"""An extent that no removal changes, for `Coupler.account`."""
