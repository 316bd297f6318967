"""The allocator: widths that lose least within a limit on a cost of groups and pairs of groups."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import channelcut as cc
from channelcut.allocation import lagrangian, minsum, search
from channelcut.allocation import program as programs
from channelcut.allocation.minsum import floors, minimise
from channelcut.allocation.program import Program, solve
from channelcut.allocation.search import branch_and_bound, loss_at
from channelcut.cost.protocol import Pairwise
from channelcut.report.facts import allocation_words, options_of
from channelcut.report.reader import Part

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """A cost that is its tables, and `more` of the widths beside them."""

    steps: Sequence[NDArray[np.int64]]
    tables: Pairwise
    more: float = 0.0

    def __call__(self, widths: NDArray[np.int64]) -> float:
        places = [int(np.searchsorted(step, w)) for step, w in zip(self.steps, widths, strict=True)]
        return self.tables.at(places) + self.more * float(np.prod(widths / [step[-1] for step in self.steps]))

    def pairwise(self, steps: Sequence[NDArray[np.int64]]) -> Pairwise:
        return self.tables


def drawn(seed: int, *, groups: int = 5, most: int = 5, staircase: bool = False, more: float = 0.0) -> Program:
    """A program over a random graph: tables of any sign and shape, or those of layers that are products of widths."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, groups)
    steps = [np.arange(1, size + 1) for size in sizes]
    edges = [(g, h) for g in range(groups) for h in range(g + 1, groups) if rng.random() < 0.6]
    if staircase:
        alone = tuple(np.ceil(step / 2) for step in steps)
        pairs = {(g, h): np.outer(alone[g], alone[h]) * rng.random() for g, h in edges}
    else:
        alone = tuple(rng.normal(size=size) for size in sizes)
        pairs = {(g, h): rng.normal(size=(sizes[g], sizes[h])) for g, h in edges}
    losses = [np.sort(rng.exponential(size=size))[::-1] for size in sizes]
    cost = Tables(steps, Pairwise(float(rng.normal()), alone, pairs), more)
    costs = [cost(np.array(widths)) for widths in itertools.product(*steps)]
    return Program([loss - loss[-1] for loss in losses], steps, cost, float(np.quantile(costs, rng.random())))


def brute(program: Program) -> float:
    """The least loss within the limit, by looking at all widths."""
    losses = np.array([sum(lost) for lost in itertools.product(*program.losses)])
    costs = np.array([program.cost(np.array(widths)) for widths in itertools.product(*program.steps)])
    return float(losses[costs <= program.limit * (1 + 1e-9)].min())


@pytest.mark.parametrize("staircase", [False, True])
def test_it_equals_brute_force(staircase: bool) -> None:
    for seed in range(15):
        program = drawn(seed, staircase=staircase)
        found = solve(program)
        assert found is not None
        assert found.loss == pytest.approx(brute(program), abs=1e-9), seed
        assert found.cost <= program.limit + 1e-9 * abs(program.limit)
        assert found.gap == pytest.approx(0, abs=1e-6)


def test_no_bound_is_above_what_it_bounds() -> None:
    """That of the whole, and that of each width, by which widths are struck out."""
    for seed in range(12):
        program = drawn(seed, staircase=True)
        assert isinstance(program.cost, Tables)
        dual = lagrangian.relax(program.losses, program.cost.tables, program.limit)
        fitting = {
            places: loss_at(program.losses, np.array(places))
            for places in itertools.product(*(range(len(step)) for step in program.steps))
            if program.cost.tables.at(places) <= program.limit
        }
        assert dual.bound <= min(fitting.values()) + 1e-9
        for g, below in enumerate(dual.floors()):
            for i, floor in enumerate(below):
                least = min((loss for places, loss in fitting.items() if places[g] == i), default=np.inf)
                assert floor <= least + 1e-9, (seed, g, i)


def test_the_gap_says_how_far_the_bound_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the last step, which closes it."""
    monkeypatch.setattr(programs, "SMALL", 0)
    monkeypatch.setattr(programs, "LARGEST", 0)
    gaps = []
    for seed in range(8):
        found = solve(drawn(seed, staircase=True))
        assert found is not None
        assert found.gap * found.loss == pytest.approx(max(0.0, found.loss - found.bound), abs=1e-9)
        gaps.append(found.gap)
    assert max(gaps) > 0.01  # five groups of five widths are coarse: there is something to say


def test_branch_and_bound_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly anything enumerated; where it is stopped, its bound is one."""
    monkeypatch.setattr(search, "SMALL", 2)
    for seed in range(6):
        program = drawn(seed, staircase=seed % 2 == 1)
        assert isinstance(program.cost, Tables)
        least = brute(program)
        found = branch_and_bound(program.losses, program.cost.tables, program.limit, 1e-9)
        assert found.places is not None
        assert loss_at(program.losses, found.places) == pytest.approx(least, abs=1e-9)
        assert found.bound == pytest.approx(least, abs=1e-6)
        with monkeypatch.context() as stopped:
            stopped.setattr(search, "NODES", 2)
            assert branch_and_bound(program.losses, program.cost.tables, program.limit, 1e-9).bound <= least
        assert branch_and_bound(program.losses, program.cost.tables, program.limit, 1e-9, least).places is None


@pytest.mark.parametrize("seed", [23, 32])
def test_widths_that_miss_the_limit_by_a_millionth_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], seed: int
) -> None:
    """Within a solver's tolerance they would be; HiGHS 1.12 also prints on the process's stdout where it meets them."""
    monkeypatch.setattr(search, "SMALL", 2)
    program = drawn(seed, groups=4, most=4)
    assert isinstance(program.cost, Tables)
    tables = program.cost.tables
    best = search.enumerated(program.losses, tables, program.limit)
    assert best is not None
    price = tables.at(best.tolist())
    limit = price - 1e-6 * abs(price - tables.constant)
    next_best = search.enumerated(program.losses, tables, limit)
    found = branch_and_bound(program.losses, tables, limit, 1e-9).places
    assert found is not None and next_best is not None and found.tolist() == next_best.tolist() != best.tolist()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("largest", [minsum.LARGEST, 8])
def test_sums_of_tables_are_minimised_or_bounded(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """By elimination, and by messages where no table would fit."""
    monkeypatch.setattr(minsum, "LARGEST", largest)
    for seed in range(15):
        program = drawn(seed)
        assert isinstance(program.cost, Tables)
        alone, pairs = program.cost.tables.alone, program.cost.tables.pairs
        sums = Pairwise(0.0, alone, pairs)
        true = {places: sums.at(places) for places in itertools.product(*(range(len(v)) for v in alone))}
        found = minimise(alone, pairs)
        exact = largest > 8
        assert found.bound == pytest.approx(min(true.values())) if exact else found.bound <= min(true.values()) + 1e-9
        assert not exact or true[tuple(found.places.tolist())] == pytest.approx(min(true.values()))
        for g, below in enumerate(floors(alone, pairs)):
            least = [min(v for places, v in true.items() if places[g] == i) for i in range(len(alone[g]))]
            assert np.allclose(below, least) if exact else (below <= np.array(least) + 1e-9).all()


def test_blocks_of_widths_lose_nothing_of_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of widths are taken together first; the bound is that of all of them."""
    rng = np.random.default_rng(0)
    steps = [np.arange(1, 201)] * 3
    losses = [np.append(np.cumsum(rng.exponential(size=199))[::-1], 0.0) for _ in steps]
    widths = steps[0].astype(float)
    tables = Pairwise(0.0, (widths, 0 * widths, 2 * widths), {(0, 1): np.outer(widths, widths)})
    limit = 0.5 * tables.at([199] * 3)
    found = lagrangian.relax(losses, tables, limit)
    monkeypatch.setattr(lagrangian, "WHOLE", 1000)
    assert found.bound == pytest.approx(lagrangian.relax(losses, tables, limit).bound, rel=1e-5)


@pytest.mark.parametrize("more", [-2.0, 5.0])
def test_a_cost_that_is_no_sum_of_pairs_is_met_all_the_same(more: float) -> None:
    for seed in range(8):
        program = drawn(seed, staircase=True, more=more)
        found, least = solve(program), brute(program)
        assert found is not None
        assert program.cost(found.widths) == found.cost <= program.limit + 1e-9 * abs(program.limit)
        assert found.loss >= least - 1e-9
        assert found.method.endswith("on the closest sum of pairs") or found.method == "descent"


def test_of_widths_that_cost_no_more_the_largest_is_kept() -> None:
    """Also where a larger one costs less, and where what it has more is worth nothing."""
    steps = [np.arange(1, 9)]
    losses = [np.array([9.0, 3, 3, 1, 1, 1, 0.5, 0])]
    stairs = Tables(steps, Pairwise(0.0, (np.array([4.0, 4, 4, 6, 5, 5, 8, 8]),), {}))
    found = [solve(Program(losses, steps, stairs, limit)) for limit in (4, 5, 6)]
    assert [one.widths.tolist() for one in found if one is not None] == [[3], [6], [6]]


def test_no_widths_within_the_limit() -> None:
    program = drawn(1, staircase=True)
    assert solve(Program(program.losses, program.steps, program.cost, -100.0)) is None


@pytest.mark.parametrize(
    ("method", "gap", "words"),
    [
        ("branch and bound", 1e-7, "the least loss, by branch and bound"),
        ("Lagrangian relaxation", 2.1e-4, "within 0.021 % of the least loss, by Lagrangian relaxation"),
        ("descent", 1.0, "by descent, without a bound"),
    ],
)
def test_the_gap_in_words(method: str, gap: float, words: str) -> None:
    assert allocation_words(Part({"method": method, "gap": gap})) == words


def test_a_plan_says_how_its_widths_were_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 4, 1)).eval()
    groups = cc.analyze(model, torch.rand(1, 3, 12, 12))
    plan = cc.plan(model, groups, macs=0.5)
    assert plan.options["allocation"] == {"method": "enumeration", "gap": 0.0}
    assert ", macs 0.5 (the least loss, by enumeration), align 1" in options_of(Part({"options": plan.options}))
    assert "allocation" not in cc.plan(model, groups, keep=0.5).options
    assert "allocation" not in plan.with_kept("0.weight", [0, 1]).options  # the widths are others then
