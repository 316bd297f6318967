"""Widths and precisions together: a cost with a column for each precision, and one limit on the output error."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from channelcut.allocation.mixed import MixedSolution, quickest, solve_mixed
from channelcut.allocation.program import Program, solve
from channelcut.core.errors import UserError
from channelcut.cost.mixed import MixedCost
from channelcut.cost.parts import Part, Parts
from channelcut.cost.protocol import Values

LAYERS = 3


@dataclass(frozen=True)
class Column:
    """A chain of layers between groups, whose times are tables; widths count from 1."""

    tables: tuple[Values, ...]
    step: int = 1

    def on(self, groups: Any) -> Column:
        return self

    def parted(self) -> Parts:
        count = len(self.tables) + 1
        layers = []
        for number, table in enumerate(self.tables):
            forms = np.eye(1 + count)[[1 + number, 2 + number]]

            def ms(cin: Values, cout: Values, table: Values = table) -> Values:
                return table[np.round(cin).astype(int) - 1, np.round(cout).astype(int) - 1]

            layers.append(Part(f"{number}.weight", forms[0], forms[1], ms, ms))
        return Parts(np.zeros(1 + count), tuple(layers))


def drawn(seed: int, *, low: float, most: int = 3) -> tuple[Program, MixedCost]:
    """A chain in two lower precisions, which take about `low` of the first one's time, with limits on both."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, most + 1, LAYERS + 1)
    steps = [np.arange(1, size + 1) for size in sizes]
    first = tuple(np.outer(a, b) * (0.5 + rng.random()) for a, b in itertools.pairwise(steps))
    columns = {"fp32": Column(first)}
    for name in ("fp16", "int8"):
        columns[name] = Column(tuple(t * low * rng.uniform(0.6, 1.4, t.shape) for t in first))
    errors = {str(i): {"fp16": 0.01 + 0.1 * rng.random(), "int8": 0.05 + 0.3 * rng.random()} for i in range(LAYERS)}
    cost = MixedCost(columns, errors, 0.05 + 0.3 * rng.random())
    losses = [np.sort(rng.exponential(size=size))[::-1] for size in sizes]
    full = cost(np.array([step[-1] for step in steps]))
    return Program([lost - lost[-1] for lost in losses], steps, cost, (0.25 + 0.6 * rng.random()) * full), cost


def brute(program: Program, cost: MixedCost) -> float | None:
    """The least loss within both limits, by looking at all widths and precisions."""
    best = None
    for chosen in itertools.product(cost.costs, repeat=LAYERS):
        precisions = {str(i): name for i, name in enumerate(chosen)}
        if cost.error(precisions) > cost.max_error:
            continue
        assigned = cost.assigned(precisions)
        for places in itertools.product(*(range(len(step)) for step in program.steps)):
            lost = sum(float(v[i]) for v, i in zip(program.losses, places, strict=True))
            at = np.array([step[i] for step, i in zip(program.steps, places, strict=True)])
            if (best is None or lost < best) and assigned(at) <= program.limit:
                best = lost
    return best


@pytest.mark.parametrize("low", [0.5, 1.0])
def test_it_equals_brute_force(low: float) -> None:
    reached = solvable = 0
    for seed in range(8):
        program, cost = drawn(seed, low=low)
        found, best = solve_mixed(program, cost), brute(program, cost)
        assert (found is None) == (best is None), seed
        if found is None or best is None:
            continue
        solvable += 1
        assert found.bound <= best + 1e-9, seed
        assert best - 1e-9 <= found.loss, seed
        assert cost.error(found.precisions) <= cost.max_error
        assert cost.assigned(found.precisions)(found.widths) <= program.limit * (1 + 1e-9)
        reached += found.loss <= best + 1e-9
    assert reached == solvable


def test_a_precision_that_is_slower_or_too_coarse_is_not_taken() -> None:
    for low, scale in ((1.5, 1.0), (0.4, 1000.0)):
        program, cost = drawn(1, low=low)
        errors = {name: {p: e * scale for p, e in known.items()} for name, known in cost.errors.items()}
        cost = MixedCost(cost.costs, errors, cost.max_error)
        found, alone = solve_mixed(program, cost), solve(program)
        assert isinstance(found, MixedSolution)
        assert alone is not None
        assert (dict(found.precisions), found.loss) == ({}, alone.loss)


def test_a_quicker_precision_buys_width() -> None:
    program, cost = drawn(1, low=0.4)
    cost = MixedCost(cost.costs, cost.errors, 10.0)
    found, alone = solve_mixed(program, cost), solve(program)
    assert found is not None
    assert alone is not None
    assert found.loss < alone.loss
    assert set(found.precisions) == {"0", "1", "2"}
    assert found.error == pytest.approx(cost.error(found.precisions))


def test_the_quickest_precisions_are_within_the_error() -> None:
    _, cost = drawn(3, low=0.5)
    widths = np.array([2, 2, 2, 2])
    ways = [
        (cost.assigned(chosen)(widths), chosen)
        for names in itertools.product(cost.costs, repeat=LAYERS)
        if cost.error(chosen := {str(i): name for i, name in enumerate(names)}) <= cost.max_error
    ]
    assert cost.assigned(quickest(cost, widths))(widths) == pytest.approx(min(ms for ms, _ in ways))


def test_what_is_no_mixed_cost_is_refused() -> None:
    with pytest.raises(UserError, match="at least two"):
        MixedCost({"fp32": Column(())}, {}, 0.1)
    with pytest.raises(UserError, match="above 0"):
        MixedCost({"fp32": Column(()), "int8": Column(())}, {}, 0.0)
