"""Milliseconds from measured layers: what is predicted for a cut is what the cut, really made and exported, takes."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import channelcut as cc
from channelcut.allocation import excluded
from channelcut.bench.layers.clock import REFERENCE, Kernel, MeasureOptions, Run, timed
from channelcut.bench.layers.lone import lone_model
from channelcut.bench.layers.onnxruntime import OnnxRuntimeClock
from channelcut.bench.layers.openvino import OpenVINOClock
from channelcut.bench.layers.reading import Deployed
from channelcut.bench.layers.steps import step_of, sweep
from channelcut.core.crew import Died, Lost, shared
from channelcut.core.errors import UserError
from channelcut.cost import deployed_costs, network_costs
from channelcut.cost.kinds import TOGETHER, Entry, LayerKind, Widths
from channelcut.cost.measured import MeasuredCost
from channelcut.cost.surface import Extent, points, surface
from channelcut.cost.table import Table, Target, Timing
from channelcut.cutting import cut, make_plan
from channelcut.latency.halved import halves, narrowed, set_right
from channelcut.latency.measuring import measured

QUICK = MeasureOptions(min_rounds=2, max_rounds=2, network_runs=2)
EXAMPLE = torch.rand(1, 3, 16, 16)


class Net(nn.Module):
    """A stem, a residual, a split, a concat, a depthwise layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.wide = nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(32, 24, 3, 1, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, 1, 1))
        self.depth = nn.Conv2d(96, 96, 3, 1, 1, groups=96)
        self.last = nn.Conv2d(96, 40, 1)
        self.head = nn.Linear(40, 7)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.wide(torch.relu(self.stem(x))).chunk(2, 1)
        joined = torch.cat([a, b, torch.relu(b + self.inner(b))], 1)
        return self.head(torch.relu(self.last(torch.relu(self.depth(joined)))).mean((2, 3)))


def stairs(kind: LayerKind, widths: Widths, step: int = 8) -> float:
    """Milliseconds on a machine whose kernels come in steps."""
    blocks = -(-widths.cin // step), -(-widths.cout // step)
    if widths.groups > 1:
        return 0.01 * blocks[1]
    return 0.01 + 0.003 * blocks[0] * blocks[1] * int(np.prod(kind.attribute("kernel_shape", (1,)))) / 9


@dataclass
class Machine:
    """A machine on which layers take `layer(kind, widths)` ms, and everything else nothing."""

    layer: Callable[[LayerKind, Widths], float] = stairs
    refuses: Callable[[Widths], bool] = lambda widths: False
    timed: list[Entry] = field(default_factory=list)

    def target(self) -> Target:
        return Target("a machine", "stairs", "1.0")

    def prepared(self, entry: Entry) -> Run:
        if self.refuses(entry.widths):
            raise UserError("no kernel for this shape")
        if entry != REFERENCE:
            self.timed.append(entry)
        return lambda: self.layer(entry.kind, entry.widths)

    def network(self, path: Path) -> Run:
        return lambda: sum(kernel.ms for kernel in self.kernels(path, 1))

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        graph = onnx.load(path).graph
        shapes = {w.name: tuple(w.dims) for w in graph.initializer}
        found = []
        for node in graph.node:
            weight = shapes.get(node.input[1] if len(node.input) > 1 else "", ())
            if node.op_type == "Conv":
                groups = next((a.i for a in node.attribute if a.name == "group"), 1)
                kind = LayerKind("Conv", (1,), (), (("kernel_shape", weight[2:]),))
                ms = self.layer(kind, Widths(weight[1] * groups, weight[0], groups))
            elif node.op_type in ("Gemm", "MatMul"):
                ms = self.layer(LayerKind("Gemm", (1,), ()), Widths(*sorted(weight, reverse=True)))
            else:
                continue
            found.append(Kernel(node.name, node.op_type, ms, frozenset(node.output), tuple(node.output), layer=True))
        return found


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def groups(model: nn.Module) -> cc.Groups:
    return deployed_costs(model, cc.analyze(model, EXAMPLE), cc.core.deployed.DEFAULT, ())


@pytest.fixture(scope="module")
def file(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "whole.onnx"
    cc.export(model, path, EXAMPLE)
    return path


def costed(
    file: Path, groups: cc.Groups, machine: Machine, folder: Path, options: MeasureOptions = QUICK
) -> MeasuredCost:
    return measured(file, groups, machine, Table.open(machine.target(), folder / "table.jsonl"), options)


def test_a_prediction_is_what_the_cut_takes(model: nn.Module, groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Machine(), tmp_path)
    assert cost.step == 8
    assert not cost.notes
    assert cost.scale == pytest.approx((1.0, 1.0))
    generator = np.random.default_rng(0)
    widths = np.array([generator.integers(1 + g.width // 16, g.width + 1) for g in groups.groups])
    kept = np.zeros(groups.channel_count, bool)
    kept[0] = True
    kept[np.concatenate([pin.channels for pin in groups.pins])] = True
    for group, width in zip(groups.groups, widths, strict=True):
        for lane, count in zip(group.lanes, group.counts(int(width)), strict=True):
            kept[lane[:count]] = True
    plan = make_plan(model, groups, kept, network_costs(model, groups))
    cc.export(cut(model, plan), tmp_path / "cut.onnx", EXAMPLE, allow_unproven=True)
    assert cost(widths) == pytest.approx(Machine().network(tmp_path / "cut.onnx")(), rel=0.03)


@dataclass
class Believed:
    """A measured cost without a `target`: nothing is timed for a plan by it."""

    cost: MeasuredCost

    def __post_init__(self) -> None:
        self.step, self.fine = self.cost.step, self.cost.fine

    def __call__(self, widths: NDArray[np.int64]) -> float:
        return self.cost(widths)

    def pairwise(self, steps: Sequence[NDArray[np.int64]]) -> object:
        return self.cost.pairwise(steps)

    def on(self, groups: cc.Groups) -> Believed:
        return Believed(self.cost.on(groups))


@dataclass
class Slower(Machine):
    """A machine whose networks take less than their layers do alone, and something else beside."""

    def network(self, path: Path) -> Run:
        return lambda: 0.9 * sum(k.ms for k in self.kernels(path, 1) if k.layer) + 0.5 * self.others(path)

    def others(self, path: Path) -> float:
        """By the channels of what is concatenated."""
        sizes = {w.name: tuple(w.dims) for w in onnx.load(path).graph.initializer}
        return 0.002 * sum(shape[0] for shape in sizes.values() if len(shape) == 4)

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        values = {name for node in onnx.load(path).graph.node for name in node.output}
        found = super().kernels(path, runs)
        return [*found, Kernel("rest", "Rest", self.others(path), frozenset(), tuple(values))]


def products(kind: LayerKind, widths: Widths) -> float:
    """What layers take that have no constant part."""
    return 0.0002 * widths.cin * widths.cout / widths.groups


def test_a_network_of_half_the_width_sets_the_sum_right(
    model: nn.Module, groups: cc.Groups, file: Path, tmp_path: Path
) -> None:
    machine = Slower(products)
    cost = costed(file, groups, machine, tmp_path)

    def write(widths: NDArray[np.int64], path: Path) -> None:
        cc.export(narrowed(model, groups, widths), path, EXAMPLE, allow_unproven=True)

    right = set_right(cost, groups, write, file, machine, runs=3)
    half = halves(groups, cost.step)
    write(half, tmp_path / "half.onnx")
    taken = machine.network(tmp_path / "half.onnx")()
    assert right(half) == pytest.approx(taken, rel=0.005) != pytest.approx(cost(half), rel=0.03)
    assert right(cost.full_widths) == pytest.approx(cost.full_ms)
    quarter = np.array([max(1, g.width // 32 * 8) for g in groups.groups])
    write(quarter, tmp_path / "quarter.onnx")
    assert right(quarter) == pytest.approx(machine.network(tmp_path / "quarter.onnx")(), rel=0.05)

    def refused(widths: NDArray[np.int64], path: Path) -> None:
        raise UserError("not to be written")

    assert set_right(cost, groups, refused, file, machine, runs=3) is cost


def test_what_cannot_be_told_of_the_others_is_not_believed(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Slower(), tmp_path)
    half = halves(groups, cost.step)
    for ms in (0.001 * cost.full_ms, 0.01 * cost.full_ms, cost.full_ms, 5 * cost.full_ms):
        layers, others = cost.scaled(half, ms).scale
        assert layers > 0 and others > 0
        assert cost.scaled(half, ms)(cost.full_widths) == pytest.approx(cost.full_ms)


def test_pairs_add_up_to_the_whole(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Machine(), tmp_path)
    steps = [np.arange(8 if g.width > 8 else 1, g.width + 1, 8) for g in groups.groups]
    pairs = cost.pairwise(steps)
    generator = np.random.default_rng(1)
    for _ in range(5):
        at = [int(generator.integers(len(step))) for step in steps]
        widths = np.array([step[i] for step, i in zip(steps, at, strict=True)])
        # Three groups stand around what reads the concat.
        assert pairs.at(at) == pytest.approx(cost(widths), rel=0.02)


def test_pinned_groups_keep_their_width(model: nn.Module, groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Machine(), tmp_path)
    fewer = excluded(model, groups, ["last"])
    assert len(fewer.groups) == len(groups.groups) - 1
    bound = cost.on(fewer)
    names = [group.name for group in groups.groups]
    widths = np.array([8] * len(fewer.groups))
    whole = np.array([g.width for g in groups.groups])
    whole[[names.index(group.name) for group in fewer.groups]] = 8
    assert bound(widths) == pytest.approx(cost(whole))
    assert bound.pairwise([np.array([8])] * len(widths)).at([0] * len(widths)) == pytest.approx(cost(whole), rel=0.02)


def test_refused_widths_are_left_out_and_said(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    machine = Machine(refuses=lambda widths: widths.cout == 16)
    cost = costed(file, groups, machine, tmp_path)
    assert any("refuses" in note and "no kernel for this shape" in note for note in cost.notes)
    full = cost.full_widths
    assert cost(full) == pytest.approx(cost.full_ms)
    machine.timed.clear()
    costed(file, groups, machine, tmp_path)
    assert not machine.timed  # what is known to fail is not tried again


def test_an_unsettled_time_is_said(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    machine = Machine(lambda kind, widths: stairs(kind, widths) * float(generator.uniform(0.3, 3)))
    cost = costed(file, groups, machine, tmp_path, replace(QUICK, max_rounds=8, step=8))
    assert any("did not settle" in note for note in cost.notes)
    assert 0.05 < cost.half_width < 1
    assert costed(file, groups, Machine(), tmp_path / "quiet").half_width < 1e-9


def test_an_interrupted_run_is_gone_on_with(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    machine = Machine()
    whole = Machine()
    costed(file, groups, whole, tmp_path / "whole")
    first = len(whole.timed) // 2

    def killed(widths: Widths) -> bool:
        if len(machine.timed) >= first:
            raise KeyboardInterrupt
        return False

    machine.refuses = killed
    with pytest.raises(KeyboardInterrupt):
        costed(file, groups, machine, tmp_path)
    kept = sum(len(times) for times in Table.open(machine.target(), tmp_path / "table.jsonl").times.values())
    assert 0 < kept < len(whole.timed)
    machine.refuses = lambda widths: False
    machine.timed.clear()
    costed(file, groups, machine, tmp_path)
    assert len(machine.timed) == len(whole.timed) - kept


def test_a_time_limit_is_said_and_gone_on_with(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    """Each run does one lot of 48 layers here: the sweeps take two, and then the step is known."""
    machine, whole = Machine(), Machine()
    cost = costed(file, groups, whole, tmp_path / "whole")
    short = replace(QUICK, limit_s=1e-9)
    first = costed(file, groups, machine, tmp_path, short)
    assert not first.step_known and first.step == 1
    assert "step" not in Table.open(machine.target(), tmp_path / "table.jsonl").facts
    said = [note for note in first.notes if "time limit of 1e-09 s ended the measuring" in note]
    assert len(said) == 1 and "tell this target's step" in said[0] and "run the same again" in said[0]
    missing, runs, later = int(re.findall(r"(\d+) of the", said[0])[0]), 1, first
    while any("time limit" in note for note in later.notes):
        timed_before, runs = len(machine.timed), runs + 1
        later = costed(file, groups, machine, tmp_path, short)
        assert 0 < len(machine.timed) - timed_before <= 48
    assert 0 < missing < len(whole.timed) and runs == -(-len(whole.timed) // 48)
    assert later.step_known and later.step == cost.step == 8
    assert later(later.full_widths // 2) == pytest.approx(cost(cost.full_widths // 2))
    assert len(machine.timed) == len(whole.timed)


def test_what_a_limit_leaves_of_known_steps_is_counted(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Machine(), tmp_path, replace(QUICK, limit_s=1e-9, step=8))
    assert cost.step_known
    (note,) = (note for note in cost.notes if "time limit" in note)
    missing, of = map(int, re.findall(r": (\d+) of (\d+) widths are not timed yet", note)[0])
    assert of - missing == 48


def test_a_limit_ends_what_a_crew_does(
    groups: cc.Groups, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = Mortals(2, Widths(0, 0), unlucky=0)
    monkeypatch.setattr("channelcut.latency.measuring.RayCrew", lambda *_: nullcontext(crew))
    cost = costed(file, groups, Machine(), tmp_path, replace(QUICK, limit_s=1e-9, step=8, workers=2))
    assert any("time limit" in note for note in cost.notes)
    assert len(crew.answers) == 2  # those that both workers had


def test_where_no_sweep_tells_the_step_is_not_known(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Machine(lambda kind, widths: 1.0), tmp_path)
    assert not cost.step_known and not cost.notes
    assert "step" not in Table.open(Machine().target(), tmp_path / "table.jsonl").facts


@pytest.mark.parametrize("step", [8, 16])
def test_a_surface_is_the_staircase(step: int) -> None:
    def ms(cin: int, cout: int) -> float:
        blocks = -(-cin // step), -(-cout // step)
        return 0.05 + 0.01 * blocks[0] * (blocks[1] + 0.4 * (blocks[1] % 4 > 0))

    extent = Extent(Widths(192, 160))
    found = surface(extent, {w: ms(w.cin, w.cout) for w in points(extent, step)}, step)
    assert found is not None
    for cin, cout in [(192, 160), (96, 80), (48, 144), (33, 41), (120, 100), (64, 64)]:
        assert found.at(np.array([cin]), np.array([cout]))[0] == pytest.approx(ms(cin, cout), rel=0.04)


def test_whole_groups_go_together() -> None:
    extent = Extent(Widths(96, 192, 24), TOGETHER)
    found = points(extent, 8)
    assert all(w.cin == 4 * w.groups and w.cout == 8 * w.groups for w in found)
    times = surface(extent, {w: 0.1 * w.groups for w in found}, 8)
    assert times is not None
    assert times.at(np.array([96.0]), np.array([96.0]))[0] == pytest.approx(1.2)


@pytest.mark.parametrize("step", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_step_is_found(step: int, noise: float) -> None:
    generator = np.random.default_rng(step)

    def times(top: int) -> dict[int, float]:
        return {w: (1.0 + -(-w // step) * step / 8) * generator.normal(1, noise) for w in sweep(top)}

    assert step_of([times(top) for top in (128, 128, 128, 96, 64, 128, 128, 96)]) == step


def test_a_flat_sweep_tells_no_step() -> None:
    assert step_of([dict.fromkeys(sweep(64), 1.0)]) is None


def test_the_step_of_a_processor() -> None:
    """ONNX Runtime on AVX2, 64 channels in, 3×3: blocks of 8, of which four at once are quicker."""
    ends = {32: 0.697, 40: 1.061, 48: 1.160, 56: 1.304, 64: 1.469}
    assert step_of([{w: ends[-(-w // 8) * 8] for w in sweep(64)}]) == 8


def test_onnxruntime_runs_lone_layers() -> None:
    clock = OnnxRuntimeClock()
    clock.prepared(REFERENCE)
    clock = pickle.loads(pickle.dumps(clock))  # as a worker gets it
    square = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)))
    for after in ((), ("Relu",), ("Add", "Relu"), ("LeakyRelu(alpha=0.1)",), ("Clip(0,6)",), ("x·Sigmoid",)):
        assert clock.prepared(Entry(LayerKind("Conv", (1,), (8, 8), square, after), Widths(16, 24)))() > 0
    for kind in (LayerKind("Gemm", (1,), ()), LayerKind("Gemm", (1, 5), (), (), ("Bias",))):
        assert clock.prepared(Entry(kind, Widths(16, 24)))() > 0
    for widths in (Widths(24, 24, 24), Widths(12, 20), Widths(15, 9), Widths(16, 32, 4)):
        assert clock.prepared(Entry(LayerKind("Conv", (1,), (8, 8), square), widths))() > 0
    with pytest.raises(UserError, match="refuses Conv"):
        clock.prepared(Entry(LayerKind("Conv", (1,), (2, 2), (("kernel_shape", (5, 5)),)), Widths(16, 16)))()


def test_measuring_with_onnxruntime(model: nn.Module, groups: cc.Groups, tmp_path: Path) -> None:
    cost = cc.measure(model, EXAMPLE, groups=groups, batch=2, table=tmp_path / "t", options=replace(QUICK, step=32))
    assert len(cost.layers) == 7
    assert cost.shapes == ((2, 3, 16, 16),)
    assert cost(cost.full_widths) == pytest.approx(cost.full_ms)
    assert cost.target.backend == "onnxruntime"
    with pytest.raises(UserError, match="known: onnxruntime"):
        cc.measure(model, EXAMPLE, groups=groups, backend="abacus")


def test_a_width_inside_a_step_pays_what_such_widths_pay() -> None:
    def ms(cin: int, cout: int) -> float:
        plain = -(-cin // 8) * -(-cout // 8)
        return plain * (1.4 if cin % 8 else 1.0) * (1.1 if cout % 8 else 1.0)

    extent = Extent(Widths(128, 64))
    found = surface(extent, {w: ms(w.cin, w.cout) for w in points(extent, 8)}, 8)
    assert found is not None
    for cin, cout in [(128, 64), (77, 64), (128, 33), (51, 27), (64, 30)]:
        assert found.at(np.array([cin]), np.array([cout]))[0] == pytest.approx(ms(cin, cout), rel=0.03)


def test_widths_that_no_vector_divides_follow_the_width() -> None:
    """As ONNX Runtime does with AVX-512: multiples of four in blocks of 16, of other input widths a product of sums."""

    def ms(cin: int, cout: int) -> float:
        blocked = -(-cin // 16) * 16
        return (blocked if cin % 4 == 0 else 1.5 * cin) * -(-cout // 16) / 1000

    extent = Extent(Widths(128, 96))
    found = surface(extent, {w: ms(w.cin, w.cout) for w in points(extent, 16)}, 16)
    assert found is not None
    for cin, cout in [(52, 96), (49, 96), (57, 96), (63, 33), (113, 80), (98, 31), (124, 12)]:
        assert found.at(np.array([cin]), np.array([cout]))[0] == pytest.approx(ms(cin, cout), rel=0.05)


def test_narrow_layers_may_be_quicker_inside_a_step(
    groups: cc.Groups, file: Path, model: nn.Module, tmp_path: Path
) -> None:
    """What reads some narrow widths inside a step runs in half the time: a budget of time is met by these too."""

    def ms(kind: LayerKind, widths: Widths) -> float:
        blocks = -(-widths.cin // 16) * -(-widths.cout // 16)
        return blocks * (0.5 if widths.cin in (12, 24, 28) and widths.groups == 1 else 1.0)

    cost = costed(file, groups, Machine(ms), tmp_path, replace(QUICK, step=16))
    assert cost.fine == 4
    kept = {}
    for align in ("auto", 16):
        plan = cc.plan(model, groups, latency=0.7, cost=Believed(cost), align=align, min_keep=0.0)
        kept[align] = [group.kept for group in plan.groups]
        assert cost(np.array(kept[align])) <= 0.7 * cost.full_ms
        assert plan.options["align"] == 16
    assert any(width % 16 and width < 32 for width in kept["auto"])
    assert not any(width % 4 for width in kept["auto"])
    assert kept[16] == [group.kept for group in plan.groups if group.kept % 16 == 0 or group.kept == group.width]
    macs = cc.plan(model, groups, macs=0.5, cost=Believed(cost))
    assert all(g.kept % 16 == 0 or g.kept == g.width for g in macs.groups), "no time, no width that time alone tells"


def test_between_layers_a_launch_takes_its_time_at_any_width(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    """On a GPU a kernel takes some microseconds however narrow it is: what stands between layers goes down to that."""

    class Launching(Slower):
        def kernels(self, path: Path, runs: int) -> list[Kernel]:
            return [replace(k, least_ms=0.0 if k.layer else 0.75 * k.ms) for k in super().kernels(path, runs)]

    quick, table = replace(QUICK, step=8), tmp_path / "t"
    free, held = (measured(file, groups, c, Table.open(c.target(), table), quick) for c in (Slower(), Launching()))
    narrow = np.maximum(free.full_widths // 4, 1)
    assert held(held.full_widths) == pytest.approx(free(free.full_widths))
    (layers, most), (same, full) = free._plain(narrow), free._plain(free.full_widths)
    assert held._plain(free.full_widths) == pytest.approx((same, full))
    assert held._plain(narrow) == pytest.approx((layers, 0.75 * full + 0.25 * most))
    assert most < full


def test_measuring_with_pytorch(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    from channelcut.bench.layers.torch import TorchClock

    clock = TorchClock(device="cpu")
    cost = measured(file, groups, clock, Table.open(clock.target(), tmp_path / "t"), replace(QUICK, step=32))
    assert len(cost.layers) == 7
    assert {"relu", "cat"} <= {other.op for other in cost.others}
    assert all(0 < kernel.least_ms <= kernel.ms for kernel in clock.kernels(file, 2))
    assert cost(cost.full_widths) == pytest.approx(cost.full_ms)
    transposed = LayerKind("ConvTranspose", (1,), (8, 8), (("kernel_shape", (2, 2)), ("strides", (2, 2))))
    assert clock.prepared(Entry(transposed, Widths(8, 4)))() > 0
    with pytest.raises(UserError, match="PyTorch refuses Conv"):
        clock.prepared(Entry(LayerKind("Conv", (1,), (2, 2), (("kernel_shape", (5, 5)),)), Widths(16, 16)))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs an NVIDIA GPU"):
            TorchClock()


def test_measuring_with_openvino(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from channelcut.bench.layers.openvino import OpenVINOClock

    clock = OpenVINOClock()
    cost = measured(file, groups, clock, Table.open(clock.target(), tmp_path / "t"), replace(QUICK, step=32))
    assert len(cost.layers) == 7
    assert any("Relu" in layer.words for layer in cost.layers)  # it fuses them
    assert cost(cost.full_widths) == pytest.approx(cost.full_ms)


@pytest.mark.parametrize("slower", [1, 30])
def test_openvinos_borders_are_a_share_of_the_run(slower: int) -> None:
    """The profile is of wall time, which on a busy machine is any multiple of the processor time that counts."""
    pytest.importorskip("openvino")

    class Request:
        runs, spent = 0, 0.0

        def infer(self) -> None:
            self.runs += 1
            self.spent += 50 if self.runs == 3 else slower  # one run is interrupted

        def get_profiling_info(self) -> list[SimpleNamespace]:
            return [
                SimpleNamespace(
                    node_name=kind, node_type=kind, real_time=timedelta(milliseconds=part * self.spent / self.runs)
                )
                for kind, part in (("Reorder", 3), ("Convolution", 1))
            ]

    assert OpenVINOClock()._share(Request()) == pytest.approx(0.25, rel=1e-3)


def test_layers_of_tensorrt_take_a_launch_at_least(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Relu of one number takes .5 on this stand-in, and no layer is said to need more than it takes."""
    from channelcut.bench.layers import tensorrt

    class Engine:
        def __init__(self, model: onnx.ModelProto) -> None:
            names = [node.name for node in model.graph.node]
            self.times = dict(zip(names, (0.25, *[1.0] * len(names)), strict=False)) if len(names) > 1 else {"y": 0.5}
            self.times["Reformatting CopyNode for Input Tensor 0"] = 0.1

        def layer_times(self, inputs: object, runs: int) -> dict[str, float]:
            assert runs == 3
            return self.times

    monkeypatch.setattr(tensorrt, "require", lambda name: None)
    monkeypatch.setattr(tensorrt.TensorRTClock, "_runner", lambda clock, model, graph: Engine(model))
    monkeypatch.setattr(tensorrt, "inputs_for", lambda *_, **__: ({}, None))
    found = tensorrt.TensorRTClock("tensorrt").kernels(file, 3)
    assert [(kernel.ms, kernel.least_ms) for kernel in found[:2]] == [(0.25, 0.25), (1.0, 0.5)]
    assert found[-1].least_ms == 0.1


def test_tensorrt_names_layers_after_nodes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from channelcut.bench.layers import tensorrt

    borders = {"Reformatting CopyNode for Input Tensor 0 to layer": 5.0}
    times = {"layer + step0": 2.0, "PWN(step1)": 0.5, **borders}
    built: list[Path] = []

    def build(source: Path, engine: Path, options: object) -> None:
        onnx.checker.check_model(onnx.load(source), full_check=True)
        built.append(source)

    def load(engine: Path, options: object) -> SimpleNamespace:
        return SimpleNamespace(inputs={"x": ((1, 16, 8, 8), np.float32)}, layer_times=lambda inputs, runs: times)

    monkeypatch.setattr(tensorrt, "require", lambda name: SimpleNamespace(build=build, load=load))
    square = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)))
    entry = Entry(LayerKind("Conv", (1,), (8, 8), square, ("Relu", "Clip(0,6)")), Widths(16, 16))
    for precision in ("fp32", "fp16"):
        assert tensorrt.TensorRTClock("tensorrt", precision).prepared(entry)() == pytest.approx(2.5)
    assert len(built) == 2
    model = onnx.load(file)
    first, second = [node.name for node in model.graph.node[:2]]
    found = tensorrt.kernels_of({f"{first} + {second}": 1.0, **borders}, model)
    assert [kernel.layer for kernel in found] == [True, False]
    assert {first, second} <= found[0].names
    assert not found[1].names


@dataclass
class Mortals:
    """A crew whose workers die of one layer, and once of nothing."""

    size: int
    deadly: Widths
    unlucky: int = 1
    replaced: int = 0
    answers: dict[int, tuple[Entry, ...]] = field(default_factory=dict)

    def submit(self, worker: int, lot: Sequence[Entry]) -> int:
        self.answers[len(self.answers)] = tuple(lot)
        return len(self.answers) - 1

    def first(self, answers: Sequence[int]) -> int:
        return answers[-1]

    def rows(self, answer: int) -> dict[Entry, Timing | str]:
        lot = self.answers[answer]
        if self.unlucky or self.deadly in [entry.widths for entry in lot]:
            self.unlucky = 0
            raise Died("killed")
        return {entry: Timing(1.0, 1.0, 1.0) for entry in lot}

    def replace(self, worker: int) -> None:
        self.replaced += 1


def test_what_a_dead_worker_had_is_timed_by_another() -> None:
    entries = [Entry(REFERENCE.kind, Widths(8, width)) for width in range(1, 21)]
    crew = Mortals(3, Widths(8, 5))
    found: dict[Entry, Timing | str] = {}
    told: list[int] = []
    for rows in shared(crew, entries, lambda done, total, words: told.append(done), 48):
        assert not set(rows) & set(found)
        found |= rows
    assert set(found) == set(entries)
    failed = [entry.widths.cout for entry, row in found.items() if isinstance(row, Lost)]
    assert failed == [5]
    assert crew.replaced >= 4
    assert told[-1] == len(entries)


def test_what_was_lost_is_timed_by_the_next_run(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    """Memory that another process had, say, is there another time: the table knows nothing of it."""

    def short(widths: Widths) -> bool:
        if widths.cout == 16:
            raise MemoryError
        return False

    machine = Machine(refuses=short)
    cost = costed(file, groups, machine, tmp_path)
    assert any("tried again by the next run" in note and "memory ran out" in note for note in cost.notes)
    lost = Table.open(machine.target(), tmp_path / "table.jsonl").failed
    machine.refuses = lambda widths: False
    machine.timed.clear()
    again = costed(file, groups, machine, tmp_path)
    assert not lost and not again.notes
    assert machine.timed and all(entry.widths.cout == 16 for entry in machine.timed)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_killed_run_is_gone_on_with(groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    machine, whole = Machine(), Machine()
    cost = costed(file, groups, whole, tmp_path / "whole")
    child = os.fork()
    if not child:
        try:

            def killed(widths: Widths) -> bool:
                if len(machine.timed) >= len(whole.timed) // 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return False

            machine.refuses = killed
            costed(file, groups, machine, tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    kept = sum(len(times) for times in Table.open(machine.target(), tmp_path / "table.jsonl").times.values())
    assert 0 < kept < len(whole.timed)
    again = costed(file, groups, machine, tmp_path)
    assert len(machine.timed) == len(whole.timed) - kept
    assert again(again.full_widths // 2) == cost(cost.full_widths // 2)


def test_workers_through_ray(file: Path, groups: cc.Groups, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    clock = OnnxRuntimeClock()
    options = replace(QUICK, step=32, workers=2)
    cost = measured(file, groups, clock, Table.open(clock.target(), tmp_path / "t"), options)
    assert cost(cost.full_widths) == pytest.approx(cost.full_ms)
    assert len(cost.layers) == 7


def test_workers_need_ray(file: Path, groups: cc.Groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    machine = Machine()
    with pytest.raises(UserError, match=r"channelcut\[ray\]"):
        costed(file, groups, machine, tmp_path, replace(QUICK, workers=2))


def test_another_coupling_of_the_same_network(model: nn.Module, groups: cc.Groups, file: Path, tmp_path: Path) -> None:
    cost = costed(file, groups, Machine(), tmp_path)
    other = cc.analyze(model, EXAMPLE, probe=False)
    widths = np.array([8] * len(groups.groups))
    assert cost.on(other)(widths) == pytest.approx(cost(widths))
    freed = cc.analyze(model, EXAMPLE, prunable_outputs=["*"])
    with pytest.raises(UserError, match=r"head\.weight may lose channels"):
        cost.on(freed)


def test_weights_that_the_exporter_made_are_said_once() -> None:
    found = Deployed([], {}, (), unknown=["a", "b", "c", "d", "e"])
    (note,) = found.notes
    assert "a, b, c and 2 more are no parameters" in note
    assert Deployed([], {}, (), doubts=["something"]).notes == ("something",)


def test_heavy_layers_are_held_a_few_at_a_time() -> None:
    kind = LayerKind("Gemm", (1,), (), ())
    heavy = [Entry(kind, Widths(4096, width)) for width in range(4096, 4196)]  # each of 64 MiB or a little more
    lots = list(timed(Machine(), heavy, QUICK, lambda *_: None))
    assert [len(lot) for lot in lots] == [15] * 6 + [10]
    light = [Entry(kind, Widths(8, width)) for width in range(8, 108)]
    assert [len(lot) for lot in timed(Machine(), light, QUICK, lambda *_: None)] == [48, 48, 4]


def test_a_weight_that_is_not_stored_has_the_same_shape() -> None:
    for after in ((), ("Bias", "Add", "Relu")):
        entry = Entry(LayerKind("Gemm", (1, 5), (), after=after), Widths(8, 12))
        light, stored = lone_model(entry, stored=False), lone_model(entry)
        assert "weight" not in {w.name for w in light.graph.initializer}
        assert light.graph.output == stored.graph.output
        assert list(light.graph.input) == list(stored.graph.input)
        ran = onnxruntime.InferenceSession(light.SerializeToString(), providers=["CPUExecutionProvider"])
        given = {value.name: np.ones(value.shape, np.float32) for value in ran.get_inputs()}
        assert ran.run(None, given)[0].shape == (1, 5, 12)


def test_the_weight_of_a_lone_layer_is_drawn_in_its_shape() -> None:
    square = (("kernel_shape", (3, 3)),)
    for op, kept in (("Conv", (12, 4, 3, 3)), ("ConvTranspose", (8, 6, 3, 3)), ("Gemm", (8, 12))):
        entry = Entry(LayerKind(op, (1,), (6, 6), square if op != "Gemm" else ()), Widths(8, 12, 2))
        weight = lone_model(entry).graph.initializer[0]
        assert tuple(weight.dims) == entry.weight == kept
        values = onnx.numpy_helper.to_array(weight)
        assert len(np.unique(values)) > 0.9 * values.size
        assert np.abs(values).max() <= 0.05
