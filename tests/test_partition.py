"""Channels, lanes and footprints against what they are by definition, on random bindings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from channelcut.coupling.partition import Partition, Partitioner
from networks import NETWORKS, build, example
from torch import Tensor, nn

from channelcut.core import ids as I
from channelcut.core.footprint import Footprint, Footprints
from channelcut.core.graph import Node
from channelcut.core.groups import Groups
from channelcut.coupling import Coupling, couple
from channelcut.coupling.collect import Coupler, State
from channelcut.coupling.replay import Replay, touching
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
    if part is None:
        return
    assert tuple(part.shape) == shape
    small = table[tuple(slice(None) if a in varying else slice(1) for a in range(table.ndim))]
    expected = small[kept[small]]
    compacted = part[tuple(slice(None) if a in varying else slice(1) for a in range(table.ndim))]
    assert compacted.reshape(-1).tolist() == expected.tolist()


def random_coupler(generator: np.random.Generator) -> Coupler:
    coupler = Coupler()
    lines = [coupler.mint(int(generator.integers(2, 7))) for _ in range(6)]
    for index, line in enumerate(lines):
        coupler.slot(State(f"w{index}", (len(line),)), 0, line, "out")
    bind_some(coupler, generator, lines, 3)
    coupler.equal.append(((lines[0][:2], lines[1][:2]), coupler.site))
    coupler.pieces.append(lines[2][1:])
    coupler.rectangles.append((torch.stack([lines[3][:2], lines[4][:2]]), coupler.site))
    coupler.pin(lines[5][:1], "chosen")
    return coupler


def bind_some(coupler: Coupler, generator: np.random.Generator, lines: list[torch.Tensor], count: int) -> None:
    for _ in range(count):
        a, b = (lines[int(generator.integers(len(lines)))] for _ in range(2))
        n = min(len(a), len(b))
        coupler.bind(a[:n], b[:n])


def described(found: Partition) -> tuple[object, ...]:
    return (
        found.footprints.channel_of.tolist(), found.pinned.tolist(), found.lane_of.tolist(),
        [lane.tolist() for lane in found.lanes], found.slots_of,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_a_partition_goes_on_as_one_from_the_start_would(seed: int) -> None:
    generator = np.random.default_rng(seed)
    coupler = random_coupler(generator)
    partitioner = Partitioner(coupler)
    before = described(partitioner.partition())
    apart = partitioner.copy()
    lines = [slot.ids for slot in coupler.slots.values()]
    bind_some(apart.coupler, generator, lines, 1)
    apart.partition()
    apart.coupler.equal.pop()
    apart.coupler.pin(lines[1][-1:], "later")
    assert described(apart.partition()) == described(Partitioner(apart.coupler).partition())
    assert described(partitioner.partition()) == before


@pytest.mark.parametrize("seed", range(60))
def test_contents_of_rows_are_counts_of_whole_lanes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    found = Partitioner(random_coupler(generator)).partition()
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


def same(a: Groups, b: Groups) -> bool:
    lanes = [[[lane.tolist() for lane in group.lanes] for group in groups.groups] for groups in (a, b)]
    pins = [[(pin.reason, str(pin.site), pin.channels.tolist()) for pin in groups.pins] for groups in (a, b)]
    return lanes[0] == lanes[1] and pins[0] == pins[1]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_pins_of_one_answer_are_not_in_the_next(name: str) -> None:
    graph = trace(build(name), (example(),))
    coupling = Coupling([graph])
    first = coupling.groups()
    line = next(node.site.source for node in graph.calls if node.site.source)
    pins = {first.groups[0].name: "asked for", line: "this line"}
    assert {"asked for"} <= {pin.reason for pin in coupling.groups(pins).pins}
    assert same(coupling.groups(), first)
    assert same(coupling.groups(pins), couple([graph], pins))


class Turned(nn.Module):
    """A weight that a matrix product wants the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.first.t() @ self.last.t()


def touched(model: nn.Module, tensor: str) -> list[Node]:
    """The calls that hold a channel of one group."""
    graph = trace(model, (example(),))
    coupling = Coupling([graph])
    groups = coupling.groups()
    (group,) = (group for group in groups.groups if group.name == tensor)
    some = np.zeros(groups.channel_count, dtype=bool)
    some[group.channels] = True
    partitioner = coupling.partitioner
    footprints = partitioner.partition().footprints
    found = touching(graph, coupling.runs[0].values, partitioner.coupler, footprints, some)
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
    coupling = Coupling([graph])
    groups = coupling.groups()
    (heads,) = (group for group in groups.groups if group.name == "q.weight")
    kept = np.ones(groups.channel_count, dtype=bool)
    kept[heads.lanes[0][0]] = False
    partitioner = coupling.partitioner
    replay = Replay(partitioner.coupler, partitioner.partition().footprints, kept)
    product = next(node.index for node in graph.calls if node.name in ("aten.bmm", "aten.matmul"))
    (problem,) = replay.run(graph, coupling.runs[0].values, {product})
    assert set(problem.channels.tolist()) == set(heads.channels.tolist())


def test_a_footprint_is_found_once() -> None:
    footprints = Footprints(np.arange(20))
    line = torch.arange(1, 6, dtype=torch.int32)
    wide = I.along(line, 1, (2, 5, 9))
    assert footprints.of(wide) is footprints.of(I.along(line, 1, (2, 5, 9)))
    assert footprints.of(wide) is not footprints.of(I.along(line, 1, (2, 5, 8)))
    assert footprints.of(wide).channels.shape == (1, 5, 1)
