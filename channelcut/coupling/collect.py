"""Collecting: the rules run over the graphs of one model, and what they say is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Graph, Node, Site, is_named, named_outputs
from channelcut.core.groups import Role
from channelcut.core.reasons import (
    HARD_CODED_POSITION,
    OUTPUT,
    SHARED_WITH_FIXED,
    VALUES_DECIDE,
    Reason,
)
from channelcut.coupling.binding import conflicts, edges, meeting, removable
from channelcut.coupling.facts import (
    Constraints,
    CoupleOptions,
    Equal,
    Facts,
    PinRequest,
    Place,
    RawIndex,
    RawSlot,
    RawWork,
    Rectangle,
    Run,
)
from channelcut.coupling.interpret import beginning, run_rule
from channelcut.ops.call import Call
from channelcut.ops.host import Bound, State, Stored


def collect(graphs: Sequence[Graph], options: CoupleOptions | None = None) -> Facts:
    """Run the rules on all ids.

    Args:
        graphs: traces of the same model (evaluation, training); the first is the one that costs and values refer to.
        options: see `CoupleOptions`.

    Raises:
        RuleError: a rule of an op is wrong.
    """
    chosen = options or CoupleOptions()
    collector = Collector(chosen)
    runs = tuple(collector.run(number, graph, chosen.free_outputs) for number, graph in enumerate(graphs))
    # At the end, because a parameter may be used as a fixed tensor before the layer that gives it its slots.
    for key, slot in list(collector.slots.items()):
        if key in collector.fixed:
            collector.request(slot.ids, *collector.fixed[key])
    constraints = Constraints(
        tuple(collector.edges), tuple(collector.equal), tuple(collector.rectangles), tuple(collector.pins)
    )
    return Facts(
        runs=runs,
        count=collector.next_id,
        slots=collector.slots,
        indices=collector.indices,
        constraints=constraints,
        lines=tuple(collector.lines),
        bounds=collector.bounds,
        divisions=collector.divisions,
        minted=collector.minted,
        decisions=collector.decisions,
        work=tuple(collector.work),
        options=chosen,
    )


@dataclass
class Collector:
    """The host that writes down what rules say; ids of parameters are shared by all runs."""

    options: CoupleOptions = field(default_factory=CoupleOptions)
    next_id: int = 1
    edges: list[NDArray[np.int64]] = field(default_factory=list)
    pins: list[PinRequest] = field(default_factory=list)
    slots: dict[tuple[str, int], RawSlot] = field(default_factory=dict)
    indices: dict[str, RawIndex] = field(default_factory=dict)
    fixed: dict[tuple[str, int], tuple[Reason | str, str, Site]] = field(default_factory=dict)
    equal: list[Equal] = field(default_factory=list)
    rectangles: list[Rectangle] = field(default_factory=list)
    lines: list[Tensor] = field(default_factory=list)
    bounds: dict[tuple[Place, str], tuple[Tensor, int]] = field(default_factory=dict)
    divisions: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    minted: dict[Place, list[Tensor]] = field(default_factory=dict)
    decisions: dict[tuple[Place, str], bool] = field(default_factory=dict)
    work: list[RawWork] = field(default_factory=list)
    values: dict[int, Any] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """One more than the largest id."""
        return self.next_id

    def run(self, number: int, graph: Graph, free_outputs: Sequence[str] = ()) -> Run:
        """Execute a graph on ids."""
        values = self.values = {}
        for node in graph.nodes:
            if node.kind == "output":
                self._outputs(number, graph, values, free_outputs)
            elif node.kind == "call":
                values[node.index] = run_rule(self, graph, number, node, values)
            else:
                values[node.index] = beginning(node)
        return Run(graph, values)

    def _outputs(self, run: int, graph: Graph, values: Mapping[int, Any], free_outputs: Sequence[str]) -> None:
        """Pin what the network returns, but for outputs whose channels nobody counts."""
        for name, index in named_outputs(graph):
            if not is_named(name, free_outputs):
                remedy = f"{OUTPUT.remedy}: {name or '*'}"
                self._stays(run, graph, graph.nodes[index], values[index], OUTPUT, remedy)
        for index in graph.unsettled:
            self._stays(run, graph, graph.nodes[index], values[index], VALUES_DECIDE)

    def _stays(self, run: int, graph: Graph, node: Node, value: Any, reason: Reason, remedy: str = "") -> None:
        call = Call(node, {"value": value}, graph, run, self)
        call.pin(call.ids("value"), reason, remedy)

    def request(self, ids: Tensor, reason: Reason | str, remedy: str, site: Site) -> None:
        """Note that ids stay."""
        found = removable(ids)
        if len(found):
            self.pins.append(PinRequest(reason, site, found, remedy))

    def whole_groups(self, weight: State) -> bool:
        """As the options say."""
        return self.options.whole_groups(weight.name)

    def mint(self, call: Call, count: int) -> Tensor:
        """Fresh ids for `count` channels."""
        fresh = torch.arange(self.next_id, self.next_id + count, dtype=torch.int32)
        self.next_id += count
        self.minted.setdefault(call.place, []).append(fresh)
        return fresh

    def slot(self, call: Call, stored: Stored, extent: int, ids: Tensor | None, role: Role) -> Tensor:
        """A tensor that is used twice keeps its first ids, and the second are bound to them."""
        key = (stored.name, stored.axis)
        known = self.slots.get(key)
        if known is None:
            fresh = ids if ids is not None else self.mint(call, extent)
            self.slots[key] = RawSlot(stored.name, stored.axis, fresh.to(torch.int64), role)
            return fresh
        # A computed weight is seen before the layer that says what it is for.
        if role in (Role.DEPTHWISE, Role.GROUP) or known.role is Role.PARAM:
            self.slots[key] = replace(known, role=role)
        known_ids = known.ids.to(torch.int32)
        if ids is not None:  # tied weights, or one layer called twice
            self.bind(call, known_ids, ids, SHARED_WITH_FIXED)
        return known_ids

    def slot_of(self, state: State, axis: int) -> tuple[Tensor, Role] | None:
        """The ids and the role of a slot that some rule has named before."""
        stored = state.first(axis)
        known = None if stored is None else self.slots.get((stored.name, stored.axis))
        return None if known is None else (known.ids.to(torch.int32), known.role)

    def positions(self, call: Call, index: Stored, line: Tensor) -> NDArray[np.int64]:
        """The values of a tensor; lines that it picks from at several places lose the same channels."""
        known = self.indices.get(index.name)
        if known is None:
            values = call.graph.integers[index.name].to(torch.int64).numpy() % len(line)
            known = self.indices[index.name] = RawIndex(values, line)
        else:
            self.bind(call, known.line, line, SHARED_WITH_FIXED)
        return known.values

    def goes_alone(self, index: Stored) -> bool:
        """As the options say."""
        return index.name in self.options.alone

    def bind(self, call: Call, a: Tensor, b: Tensor, reason: Reason | str) -> Tensor:
        """Join the ids at one place; an element that cannot be removed holds its partner."""
        self.edges += edges(a, b)
        remedy = (reason if isinstance(reason, Reason) else SHARED_WITH_FIXED).remedy
        self.pins += [PinRequest(reason, call.site, ids, remedy) for ids in conflicts(a, b)]
        wide_a, wide_b, shape = meeting(a, b)
        return torch.where(wide_a != 0, wide_a, wide_b).expand(shape)

    def bind_equal(self, call: Call, pieces: Sequence[Tensor], axis: int) -> None:
        """Pieces keep equal counts; where channels vary along another axis as well, they are bound."""
        lines = [line for piece in pieces if (line := I.line(piece, axis)) is not None]
        if len(lines) == len(pieces):
            self.equal.append(Equal(tuple(lines), call.site))
            return
        for piece in pieces[1:]:
            call.bind(pieces[0], piece)

    def rectangle(self, call: Call, ids: Tensor) -> None:
        """Every row keeps the same share."""
        self.rectangles.append(Rectangle(ids, call.site))

    def divide(self, call: Call, axis: int, lines: Sequence[Tensor]) -> None:
        """No lane reaches across the cuts between pieces."""
        self.divisions.setdefault(call.run, []).append((call.node.index, axis))
        self.lines += lines

    def bound(self, call: Call, which: Bound, line: Tensor, position: int, sign: int) -> None:
        """A bound whose origin is known moves with the channels beside it; any other holds them."""
        beside = line[:position] if sign > 0 else line[position:]
        if (call.node.index, which.value) in call.graph.tagged:
            self.bounds[call.place, which.value] = (beside, sign)
            self.lines += (line[:position], line[position:])
        else:
            call.pin(beside, HARD_CODED_POSITION)

    def slice(self, call: Call, ids: Tensor, axis: int) -> Tensor:
        """The ids between the bounds."""
        given = call.arguments
        if "start" in given and "end" in given:
            return ids[(slice(None),) * axis + (slice(given["start"], given["end"], given["step"]),)]
        return ids.narrow(axis, given["start"], given["length"])

    def varies(self, node: int, axis: int) -> bool:
        """Whether the ids of an earlier value vary along an axis; a parameter may lose elements along any."""
        ids = self.values.get(node)
        return isinstance(ids, State) or (isinstance(ids, Tensor) and axis in I.varying_axes(ids))

    def decide(self, call: Call, question: str, answer: bool) -> bool:
        """Note the answer."""
        self.decisions[call.place, question] = answer
        return answer

    def pin(self, call: Call, ids: Tensor, reason: Reason | str, remedy: str) -> None:
        """Note that ids stay, here."""
        self.request(ids, reason, remedy, call.site)

    def fix(self, call: Call, stored: Stored, reason: Reason | str, remedy: str) -> None:
        """Note that the slot of a stored axis stays, whatever rule names it."""
        self.fixed.setdefault((stored.name, stored.axis), (reason, remedy, call.site))

    def account(self, call: Call, macs: float, rows: Tensor, columns: Tensor) -> None:
        """Note the cost, of what is deployed: the `forward`."""
        if call.graph.forward_end is not None and call.node.index >= call.graph.forward_end:
            return
        rows, columns = (I.compact(ids).reshape(-1) for ids in (rows, columns))
        self.work.append(RawWork(macs, rows, columns, call.site, call.run, call.node.index))

    def misfit(self, call: Call, ids: Sequence[Tensor], problem: Exception) -> NoReturn:  # noqa: ARG002  see Host
        """With all ids there, what does not fit is the rule's fault; the interpreter says where."""
        raise problem
