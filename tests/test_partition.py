"""Channels, lanes and footprints against what they are by definition, on random bindings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import NETWORKS, build, example
from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core import reasons
from channelcut.core.footprint import Footprint, Footprints
from channelcut.core.graph import Graph, Node, Site
from channelcut.core.groups import Groups
from channelcut.coupling.collect import Collector, collect
from channelcut.coupling.couple import CHEAP
from channelcut.coupling.facts import Bind, Constraints, CoupleOptions, Equal, Facts, PinRequest, Rectangle
from channelcut.coupling.lanes import Divider, Partition
from channelcut.coupling.probe import handled
from channelcut.coupling.replay import Checker, touching
from channelcut.coupling.result import groups_of
from channelcut.coupling.settle import Draft, Settling
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.tracing import trace


def random_table(generator: np.random.Generator) -> np.ndarray:
    """Channels over one to four axes, constant along some, a few of them removable by nobody."""
    shape = generator.integers(1, 5, generator.integers(1, 5))
    along = [int(n) if generator.random() < 0.6 else 1 for n in shape]
    return np.broadcast_to(generator.integers(0, 9, along), shape)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_left_of_a_value_is_its_kept_elements_in_their_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = random_table(generator)
    kept = generator.random(9) < 0.6
    kept[0] = True
    footprint = Footprint.of(table, table.shape)
    varying = [a for a in range(table.ndim) if (table != table.take([0], a)).any()]
    assert list(footprint.varying) == varying
    if varying:
        assert footprint.rows.shape[1] == table.shape[varying[-1]]
    part, shape = footprint.kept_part(kept), footprint.kept_shape(kept)
    small = table[tuple(slice(None) if a in varying else slice(1) for a in range(table.ndim))]
    expected = small[kept[small]]
    # Every varying axis but the last loses whole slabs; what is left must fill the others evenly.
    slabs = int(
        np.prod([sum(bool(kept[small.take([i], a)].any()) for i in range(table.shape[a])) for a in varying[:-1]])
    )
    whole = not varying or (slabs > 0 and len(expected) % slabs == 0)
    if part is None:
        closed = len(varying) == 2 and len(set(kept[small].sum(tuple(set(range(table.ndim)) - {varying[1]})))) == 1
        assert (shape is not None) == (whole or closed)
        return
    assert whole
    assert tuple(part.shape) == shape
    compacted = part[tuple(slice(None) if a in varying else slice(1) for a in range(table.ndim))]
    assert compacted.reshape(-1).tolist() == expected.tolist()


def test_groups_of_a_shuffle_close_up_each_by_itself() -> None:
    """(columns, groups) of which one group loses the first column and the other one the last."""
    table = np.array([[1, 4], [2, 5], [3, 6]])[None, :, :, None]
    kept = np.isin(np.arange(7), [1, 4, 6], invert=True)
    kept[4] = True
    footprint = Footprint.of(table, (2, 3, 2, 5))
    assert footprint.kept_shape(kept) == (2, 2, 2, 5)
    assert footprint.kept_part(kept) is None  # in which order, the ops before say
    kept[6] = True
    assert footprint.kept_shape(kept) is None


def random_facts(generator: np.random.Generator) -> Facts:
    """What a rule could have said of six parameters, which it has bound at random."""
    collector = Collector()
    call = Call(Node(0, "call", "some.op", None), {}, Graph((), {}, {}, False, "none"), 0, collector)
    lines = [call.mint(int(generator.integers(2, 7))) for _ in range(6)]
    for index, line in enumerate(lines):
        call.slot(State.of(f"w{index}", (len(line),)), 0, line, "out")
    for a, b in random_pairs(generator, lines, 3):
        call.bind(a, b)
    call.bind_equal([lines[0][:2], lines[1][:2]], 0)
    call.rectangle(torch.stack([lines[3][:2], lines[4][:2]]))
    call.pin(lines[5][:1], "chosen")
    constraints = Constraints(
        tuple(collector.edges), tuple(collector.equal), tuple(collector.rectangles), tuple(collector.pins)
    )
    return Facts(
        runs=(), count=collector.next_id, slots=collector.slots, constraints=constraints, lines=(lines[2][1:],),
        indices={}, bounds={}, divisions={}, minted={}, decisions={}, work=(), options=CoupleOptions(),
    )  # fmt: skip


def random_pairs(
    generator: np.random.Generator, lines: list[torch.Tensor], count: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    chosen = [[lines[int(generator.integers(len(lines)))] for _ in range(2)] for _ in range(count)]
    return [(a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in chosen]


def refinements(generator: np.random.Generator, facts: Facts) -> list[Constraints]:
    """Constraints that are refined step by step, by bindings in the place of others and by pins."""
    lines = [slot.ids.to(torch.int32) for slot in facts.slots.values()]
    (equal,), (rectangle,) = facts.constraints.equal, facts.constraints.rectangles
    found = [facts.constraints]
    for instead_of in (equal, rectangle):
        assert isinstance(instead_of, (Equal, Rectangle))
        ((a, b),) = random_pairs(generator, lines, 1)
        found.append(found[-1].refined([Bind((a, b), instead_of, reasons.ORDER, Site(), "replay")]))
        later = lines[int(generator.integers(len(lines)))][-1:].to(torch.int64).numpy()
        found.append(found[-1].refined([PinRequest("later", Site(), later, "none", "probe")]))
    others = random_pairs(generator, lines, 1)
    found.append(found[0].refined([Bind(pair, equal, reasons.ORDER, Site(), "replay") for pair in others]))
    return found


def described(found: Partition) -> tuple[object, ...]:
    return (
        found.footprints.channel_of.tolist(), found.pinned.tolist(), found.lane_of.tolist(),
        [lane.tolist() for lane in found.lanes], found.slots_of,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_a_divider_that_has_divided_before_divides_as_a_fresh_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    facts = random_facts(generator)
    steps = refinements(generator, facts)
    fresh = [described(Divider(facts)(constraints)) for constraints in steps]
    assert len({str(one) for one in fresh}) > 1
    divider = Divider(facts)
    order = [*range(len(steps)), *generator.permutation(len(steps)).tolist()]  # forth, and then back to earlier ones
    assert [described(divider(steps[index])) for index in order] == [fresh[index] for index in order]


def test_to_refine_constraints_leaves_them_as_they_were() -> None:
    generator = np.random.default_rng(0)
    facts = random_facts(generator)
    first, bound, pinned, *_ = refinements(generator, facts)
    assert first is facts.constraints
    assert (len(first.equal), len(first.pins), first.requests) == (1, 1, ())
    assert (len(bound.equal), len(bound.rectangles), len(bound.requests)) == (0, 1, 1)
    assert [str(pin.reason) for pin in pinned.pins] == [str(pin.reason) for pin in bound.pins] + ["later"]


@pytest.mark.parametrize("seed", range(60))
def test_contents_of_rows_are_counts_of_whole_lanes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    facts = random_facts(generator)
    found = Divider(facts)(facts.constraints)
    count = len(found.lane_of)
    rows = generator.integers(0, count, (4, 3))
    if found.lanes:
        whole = np.concatenate([found.lanes[i] for i in generator.integers(0, len(found.lanes), 2)])
        rows = np.concatenate([np.tile(whole, (2, 1)), np.resize(rows, (4, len(whole)))])
    for row, content in zip(rows, found.contents(rows), strict=True):
        lanes = found.lane_of[row]
        times = {lane: [int((row == c).sum()) for c in found.lanes[lane]] for lane in set(lanes[lanes >= 0].tolist())}
        if any(len(set(t)) > 1 for t in times.values()):
            assert content is None
        else:
            assert content is not None
            assert content.constant == (lanes < 0).sum()
            assert content.terms == {lane: sum(t) for lane, t in times.items()}
            assert all(type(number) is int for number in (content.constant, *content.terms.values()))  # exact


def same(a: Groups, b: Groups) -> bool:
    lanes = [[[lane.tolist() for lane in group.lanes] for group in groups.groups] for groups in (a, b)]
    pins = [[(pin.reason, str(pin.site), pin.channels.tolist()) for pin in groups.pins] for groups in (a, b)]
    return lanes[0] == lanes[1] and pins[0] == pins[1]


def asked_for(facts: Facts, name: str, line: str) -> Constraints:
    """Pins on a parameter, and on what a line handles."""
    pins = [
        PinRequest("asked for", Site("parameter", name), slot.ids.numpy(), "do not ask", "probe")
        for slot in facts.slots.values()
        if slot.tensor == name
    ]
    return facts.constraints.refined([*pins, *handled(facts, line)])


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_pins_of_one_answer_are_not_in_the_next(name: str) -> None:
    graph = trace(build(name), (example(),))
    settling = Settling.of(collect([graph]))
    first = groups_of(settling.settle(CHEAP))
    line = next(node.site.source for node in graph.calls if node.site.source)
    pinned, fresh = (asked_for(facts, first.groups[0].name, line) for facts in (settling.facts, collect([graph])))
    second = groups_of(settling.settle(CHEAP, pinned))
    assert {"asked for"} <= {pin.reason for pin in second.pins}
    assert not same(second, first)
    assert same(groups_of(settling.settle(CHEAP)), first)
    assert same(second, groups_of(Settling.of(collect([graph])).settle(CHEAP, fresh)))


class Turned(nn.Module):
    """A weight that a matrix product wants the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.first.t() @ self.last.t()


def settled(graph: Graph) -> Draft:
    return Settling.of(collect([graph])).settle(CHEAP)


def touched(model: nn.Module, tensor: str) -> list[Node]:
    """The calls that hold a channel of one group."""
    graph = trace(model, (example(),))
    draft = settled(graph)
    (group,) = (group for group in draft.groups if group.name == tensor)
    some = np.zeros(len(draft.partition.pinned), dtype=bool)
    some[group.channels] = True
    found = touching(draft.facts.runs[0], draft.facts, draft.partition.footprints, some)
    return [node for node in graph.calls if node.index in found]


def test_only_what_holds_a_channel_touches_it() -> None:
    nodes = touched(build("Attention"), "v.weight")
    assert {node.site.module for node in nodes} == {"", "v", "proj"}
    assert not any("softmax" in node.name for node in nodes)


def test_an_op_on_a_weight_alone_touches_its_channels() -> None:
    assert [node.name for node in touched(Turned(), "first")].count("aten.t") == 2


def test_what_is_no_rectangle_is_a_mismatch_for_who_reads_it_too() -> None:
    """One channel less in one of two heads; the product of the heads alone is replayed, not what makes them."""
    graph = trace(build("Attention"), (example(),))
    draft = settled(graph)
    (heads,) = (group for group in draft.groups if group.name == "q.weight")
    kept = np.ones(len(draft.partition.pinned), dtype=bool)
    kept[heads.lanes[0][0]] = False
    checker = Checker(draft.facts, draft.partition.footprints, kept, 0)
    product = next(node.index for node in graph.calls if node.name in ("aten.bmm", "aten.matmul"))
    (problem,) = checker.run({product})
    assert set(problem.channels.tolist()) == set(heads.channels.tolist())


def test_a_footprint_is_found_once() -> None:
    footprints = Footprints(np.arange(20))
    line = torch.arange(1, 6, dtype=torch.int32)
    wide = I.along(line, 1, (2, 5, 9))
    assert footprints.of(wide) is footprints.of(I.along(line, 1, (2, 5, 9)))
    assert footprints.of(wide) is not footprints.of(I.along(line, 1, (2, 5, 8)))
    assert footprints.of(wide).channels.shape == (1, 5, 1)
