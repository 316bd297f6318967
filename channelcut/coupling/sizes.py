"""What the Python numbers of a forward demand of the widths.

A size that an op was called with must still fit after a cut: view(b, c, h, w) with the c of another tensor makes two
widths keep the same share; split((self.c, self.c)) makes `self.c` follow; a factor c ** -0.5 must not change at all.
Every such demand is an equation between functions that are linear in the shares of the lanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from channelcut.core.graph import Graph, Origin, Site, WidthUse
from channelcut.coupling.collect import Coupler, State
from channelcut.coupling.linear import Linear
from channelcut.coupling.partition import Partition
from channelcut.ops import ids as I

UNEQUAL = "a piece that must keep as many channels as another one that stays"
FOLLOWS = "a number that the forward computes from this width"
PARTLY = "a size that only a part of these channels follows"
REMEDY = "take the size from the tensor's own shape (x.shape), or leave it to -1"

Attribute = tuple[str, str]


@dataclass(frozen=True)
class Run:
    """A graph and the ids of its values."""

    graph: Graph
    values: Mapping[int, Any]


@dataclass
class Demands:
    """What was found in one pass: lanes that keep one share, channels that must stay, attributes that follow."""

    parent: dict[int, int]
    stay: list[tuple[set[int], str, Site]] = field(default_factory=list)
    partly: list[tuple[torch.Tensor, str, Site]] = field(default_factory=list)
    attributes: dict[Attribute, Linear] = field(default_factory=dict)
    equations: list[tuple[Linear, str, Site]] = field(default_factory=list)

    def root(self, lane: int) -> int:
        """The representative of the lanes that keep one share with this one."""
        while self.parent[lane] != lane:
            self.parent[lane] = self.parent[self.parent[lane]]
            lane = self.parent[lane]
        return lane

    def equal(self, a: Linear, b: Linear, reason: str, site: Site) -> None:
        """Demand a = b for all shares."""
        self.equations.append((a.minus(b), reason, site))

    def settle(self) -> None:
        """Tie lanes to one share where an equation asks for it, and let them stay where nothing else can meet it.

        Equations between two lanes come first: what they tie may be all that the longer ones need.
        """
        pending = self.equations
        longest = 2
        while pending:
            left = []
            for difference, reason, site in pending:
                merged = difference.merged(self.root)
                if merged.fixed:
                    continue
                if abs(merged.constant) > 1e-6 or len(merged.terms) == 1:
                    self.stay.append((set(merged.terms), reason, site))
                elif len(merged.terms) <= longest:
                    first, *rest = merged.terms
                    for lane in rest:
                        self.parent[self.root(lane)] = self.root(first)
                else:
                    left.append((difference, reason, site))
            longest = 2 if len(left) < len(pending) else longest + 1
            pending = left

    def constant(self, lanes: set[int], site: Site) -> None:
        """Demand that these lanes lose nothing."""
        if lanes:
            self.stay.append((lanes, FOLLOWS, site))


def demands(coupler: Coupler, found: Partition, runs: Sequence[Run]) -> Demands:
    """Collect every demand of equal pieces and of Python numbers on the lanes of a partition."""
    result = Demands({lane: lane for lane in range(len(found.lanes))})
    for pieces, site in coupler.equal:
        _share(result, pieces, [found.content(piece) for piece in pieces], site)
    for ids, site in coupler.rectangles:
        footprint = found.footprints.of(ids)
        if len(footprint.varying) > 1:
            _share(result, (ids,), found.contents(footprint.rows), site)
    resolvers = [_Resolver(coupler, found, run, result) for run in runs]
    for resolver in resolvers:
        resolver.resolve()
    result.settle()
    for resolver in resolvers:
        resolver.follow_unused()
    return result


def _share(result: Demands, ids: Sequence[torch.Tensor], contents: Sequence[Linear | None], site: Site) -> None:
    """Demand equal contents of pieces or rows; `ids` are all of their channels."""
    first, *others = contents
    if any(content is None for content in contents):
        result.partly += [(piece, UNEQUAL, site) for piece in ids]
        return
    for content in others:
        if content != first:
            result.equal(first, content, UNEQUAL, site)  # type: ignore[arg-type]


class _Nonlinear(Exception):
    """An expression that is not linear in the shares; holds the lanes that it depends on."""

    def __init__(self, lanes: set[int]) -> None:
        super().__init__()
        self.lanes = lanes


class _Resolver:
    """The equations of one graph's numbers."""

    def __init__(self, coupler: Coupler, found: Partition, run: Run, result: Demands) -> None:
        self.coupler, self.found, self.run, self.result = coupler, found, run, result

    def resolve(self) -> None:
        """Solve for attributes first, the plainest expressions before the others, then demand the rest."""
        sizes = [(use, needed) for use in self.run.graph.uses if (needed := self._needed(use)) is not None]
        plain = [(u, n) for u, n in sizes if u.origin.op == "attribute"]
        others = [(u, n) for u, n in sizes if u.origin.op != "attribute"]
        for use, needed in plain:
            self._define(use, needed)
        for use, needed in [*others, *others]:  # twice: one equation may define what another one needs
            self._define(use, needed)
        for use, needed in sizes:
            try:
                self.result.equal(self._value(use.origin), needed, FOLLOWS, use.site)
            except _Nonlinear as error:
                self.result.constant(error.lanes | set(needed.terms), use.site)
        for use in self.run.graph.uses:
            if use.role == "number":
                self._number(use)

    def _define(self, use: WidthUse, needed: Linear) -> None:
        """Let an attribute follow `needed` where it is the only unknown of its expression, and linear in it."""
        keys = {leaf.operands[:2] for leaf in use.origin.leaves() if leaf.op == "attribute"}
        unknown = [key for key in keys if key not in self.result.attributes]
        if len(unknown) != 1:
            return
        (key,) = unknown
        try:
            at = [self._value(use.origin, {key: Linear(value)}) for value in (0.0, 1.0, 2.0)]
        except (_Nonlinear, ZeroDivisionError):
            return
        slope = at[1].minus(at[0])
        if slope.terms or slope.constant == 0 or not at[2].minus(at[1]).minus(slope).fixed:
            return
        if abs(at[2].constant - at[1].constant - slope.constant) > 1e-9:
            return
        self.result.attributes[key] = needed.minus(at[0]).scaled(1 / slope.constant)

    def _needed(self, use: WidthUse) -> Linear | None:
        """What the number must be after a cut; None for a number that decides no size, or whose value is unclear."""
        ids = self.run.values.get(use.index)
        if use.role in ("number", "free"):
            return None
        if use.role == "extent":
            if not isinstance(ids, torch.Tensor):
                return None
            return self._extent(ids, use.axis, use.site)
        node = self.run.graph.nodes[use.index]
        source = self.run.values.get(node.args[0].index)
        if not isinstance(source, torch.Tensor):
            return None
        bound = self.coupler.bounds.get((id(self.run.graph), use.index, use.role))
        if bound is None:
            return None
        line, sign = bound
        content = self.found.content(line)
        if content is None:
            self.result.partly.append((line, PARTLY, use.site))
            return None
        return content.scaled(sign)

    def _extent(self, ids: torch.Tensor, axis: int, site: Site) -> Linear | None:
        content = self.found.extent(ids, axis)
        if content is None:
            self.result.partly.append((ids, PARTLY, site))
        return content

    def _number(self, use: WidthUse) -> None:
        try:
            value = self._value(use.origin)
        except _Nonlinear as error:
            self.result.constant(error.lanes, use.site)
        else:
            self.result.constant(set(value.terms), use.site)

    def _value(self, origin: Any, assumed: Mapping[Attribute, Linear] | None = None) -> Linear:
        """The number after a cut."""
        if not isinstance(origin, Origin):
            return Linear(float(origin))
        if origin.op == "attribute":
            path, name, value = origin.operands
            known = {**self.result.attributes, **(assumed or {})}
            return known.get((path, name), Linear(float(value)))
        if origin.op == "extent":
            return self._leaf(*origin.operands)
        parts = [self._value(part, assumed) for part in origin.operands]
        return _combine(origin.op, parts)

    def _leaf(self, index: int, axis: int, value: int) -> Linear:
        ids = self.run.values.get(index)
        if isinstance(ids, State):
            slot = self.coupler.slots.get((ids.name, ids.axis(axis)))
            ids, axis = (slot.ids, 0) if slot is not None else (None, 0)
        if not isinstance(ids, torch.Tensor):
            return Linear(float(value))
        content = self.found.extent(ids, axis)
        if content is None:
            table = self.found.lane_of[self.found.channels(ids)]
            raise _Nonlinear(set(table[table >= 0].tolist()))
        return content

    def follow_unused(self) -> None:
        """An attribute that this forward does not use, but that equals the pieces of a split in its own module.

        Such as the width that C2f keeps for another form of its forward.
        """
        used = {leaf.operands[:2] for use in self.run.graph.uses for leaf in use.origin.leaves()}
        by_module: dict[str, list[tuple[str, int]]] = {}
        for (path, name), value in self.run.graph.attributes.items():
            if (path, name) not in used and (path, name) not in self.result.attributes:
                by_module.setdefault(path, []).append((name, value))
        if not by_module:
            return
        pieces: dict[str, list[Linear]] = {}
        for index, axis in self.coupler.pieces_of.get(id(self.run.graph), []):
            module = self.run.graph.nodes[index].site.module
            if module in by_module:
                for ids in self.run.values[index]:
                    if axis in I.varying_axes(ids) and (content := self.found.extent(ids, axis)) is not None:
                        pieces.setdefault(module, []).append(content)
        for module, contents in pieces.items():
            for name, value in by_module[module]:
                same = [c.merged(self.result.root) for c in contents if c.full == value]
                if same and all(c == same[0] for c in same):
                    self.result.attributes[module, name] = same[0]


def _combine(op: str, parts: list[Linear]) -> Linear:
    """Arithmetic on linear functions; what is not linear must not change."""
    if op == "neg":
        return parts[0].scaled(-1.0)
    if op == "pos" or (op == "abs" and parts[0].full >= 0):
        return parts[0]
    if len(parts) == 2:
        a, b = parts
        if op in ("add", "sub"):
            return a.plus(b) if op == "add" else a.minus(b)
        if op == "mul" and (a.fixed or b.fixed):
            return a.scaled(b.constant) if b.fixed else b.scaled(a.constant)
        exact = op == "truediv" or (op == "floordiv" and b.fixed and b.constant and a.full % b.constant == 0)
        if exact and b.fixed and b.constant:
            return a.scaled(1 / b.constant)
        if op in ("floordiv", "truediv") and _proportional(a, b):
            return Linear(a.full / b.full)
    if all(part.fixed for part in parts):
        return Linear(_compute(op, [part.constant for part in parts]))
    raise _Nonlinear({lane for part in parts for lane in part.terms})


def _proportional(a: Linear, b: Linear) -> bool:
    """Whether a / b is the same number for all shares, as in c // (c // heads)."""
    if not b.full or b.constant or a.constant or set(a.terms) != set(b.terms):
        return False
    ratio = a.full / b.full
    return all(abs(a.terms[lane] - ratio * b.terms[lane]) < 1e-6 for lane in a.terms)


def _compute(op: str, values: list[float]) -> float:
    import operator

    whole = [int(v) if float(v).is_integer() else v for v in values]
    return float(getattr(operator, op)(*whole))
