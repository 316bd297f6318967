"""Depth and width in one program: which blocks go whole beside which widths, and the network that comes of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.allocation import Budget, Candidate, blocks_to_go
from channelcut.allocation.budget import steps_and_means
from channelcut.allocation.worth import losses_at
from channelcut.cli import parsing
from channelcut.core.measurement import Latency, Measurement
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.cost.mixed import MixedCost
from channelcut.cost.roofline import roofline
from channelcut.cost.table import Target
from channelcut.gauge import Gauge

X = torch.rand(2, 3, 12, 12)


class Block(nn.Module):
    """Two groups of channels inside."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 8, 1)
        with torch.no_grad():
            self.c.weight.mul_(size)
            self.c.bias.mul_(size)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def network() -> nn.Module:
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1)
    return nn.Sequential(stem, nn.ReLU(), Block(0.01), Block(), Block(), nn.ReLU(), head).eval()


@pytest.mark.parametrize("limit", [0.4, 0.6, 0.85])
@pytest.mark.parametrize("losses", [(0.1, 5.0, 5.0), (0.1, 0.1, 9.0), (50.0, 50.0, 50.0)])
def test_the_program_equals_brute_force(limit: float, losses: tuple[float, ...]) -> None:
    model = network()
    groups = cc.analyze(model, X)
    cost, rng = network_costs(model, groups), np.random.default_rng(0)
    scores, budget = rng.random(groups.channel_count), Budget(macs=limit, align=2)
    inner = [[g.index for g in groups.groups if g.name.startswith(f"{block}.")] for block in (2, 3, 4)]
    candidates = [Candidate(str(b), tuple(own), loss) for b, own, loss in zip((2, 3, 4), inner, losses, strict=True)]
    found = blocks_to_go(groups, scores, budget, cost, "loss", candidates)

    steps, means, _ = steps_and_means(groups, scores, budget)
    tables = losses_at(groups, means, steps, cost["macs"], "loss")
    whole, best = cost["macs"](full_widths(groups.groups)), (np.inf, ())
    for gone in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)):
        dead = {g for block in gone for g in inner[block]}
        free = [[(0, 0.0)] if g in dead else list(zip(steps[g], tables[g], strict=True)) for g in range(len(steps))]
        for chosen in itertools.product(*free):
            if cost["macs"](np.array([width for width, _ in chosen])) <= limit * whole:
                loss = sum(lost for _, lost in chosen) + sum(losses[block] for block in gone)
                best = min(best, (loss, tuple(str((2, 3, 4)[block]) for block in gone)))
    assert found == best[1]


def test_a_block_that_adds_nothing_goes_and_the_rest_is_cut_to_the_budget() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(32, 3, 12, 12)
    result = cc.prune(model, X, macs=0.4, blocks="auto", calibration=images)
    assert result.plan.dropped == ("2",)
    assert result.plan.options["blocks"] == ["2"]
    assert result.plan.options["macs"] == 0.4
    assert result.plan.macs_ratio <= 0.4
    assert [group.name for group in result.plan.groups] == [group.name for group in result.groups.groups]
    assert [group.kept for group in result.plan.groups if group.name.startswith("2.")] == [0, 0]
    assert isinstance(result.model[2], nn.Identity)  # type: ignore[index]
    assert result.proof.passed
    assert result.compensation is not None
    assert not result.compensation.refused  # towards the original, though both run different layers
    assert result.compensation.refitted
    again = cc.apply(model, result.plan)
    assert [t.shape for t in again.state_dict().values()] == [t.shape for t in result.model.state_dict().values()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    mild = cc.prune(model, X, macs=0.8, blocks="auto", calibration=images)
    assert mild.plan.dropped == ()
    assert mild.plan.to_dict() == cc.prune(model, X, macs=0.8, calibration=images).plan.to_dict()


def test_what_is_left_learns_from_the_whole_original() -> None:
    model, images = network(), torch.rand(32, 3, 12, 12)
    result = cc.prune(model, X, macs=0.4, blocks=["2"], calibration=images, restore="none")
    again = cc.compensate(model, result, images)
    assert again.compensation is not None
    assert again.compensation.refitted
    assert again.plan.options["blocks"] == ["2"]
    options = cc.RecoverOptions(batch=8, learning_rate=1e-3)
    taught = cc.recover(model, again, images, epochs=2, options=options)
    assert taught.recovery is not None
    assert taught.recovery.after < taught.recovery.before
    assert [change["step"] for change in taught.plan.changes] == ["compensate", "recover"]


def test_blocks_alone_that_meet_a_budget_leave_all_widths(tmp_path: Path) -> None:
    model = network()
    result = cc.prune(model, X, macs=0.9, blocks=["3"])
    assert (result.plan.dropped, result.plan.options["macs"]) == (("3",), 0.9)
    assert all(group.kept == group.width for group in result.plan.groups if not group.name.startswith("3."))
    named = cc.prune(model, X, keep=0.5, blocks="3")
    assert named.plan.dropped == ("3",)
    assert named.model[0].out_channels == 4  # type: ignore[index,union-attr]
    cc.save(named, tmp_path / "out")
    assert torch.equal(cc.load(network, tmp_path / "out")(X), named.model(X))


def test_a_budget_of_time_counts_the_blocks_that_are_gone() -> None:
    model = network()
    groups = cc.analyze(model, X)
    cost = roofline(groups, "orin-nano", "fp32")
    small = cc.prune(model, X, latency=0.7, cost=cost, align=1, blocks=["2"])
    left = cc.analyze(small.model, X)
    share = cost.on(left)(full_widths(left.groups)) / cost(full_widths(groups.groups))
    assert share <= 0.7
    assert small.plan.options["latency"] == 0.7


@dataclass(frozen=True)
class Timed:
    """A roofline that pretends to have been measured here."""

    base: Any
    target = Target("a machine", "onnxruntime", "1")
    shapes = ()

    def __call__(self, widths: Any) -> float:
        return float(self.base(widths))

    def pairwise(self, steps: Any) -> Any:
        return self.base.pairwise(steps)

    def on(self, groups: cc.Groups) -> Timed:
        return Timed(self.base.on(groups))

    def without(self, modules: Any) -> Timed:
        return Timed(self.base.without(modules))


def test_trials_are_of_the_original_and_blocks_alone_have_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    cost = Timed(roofline(cc.analyze(model, X), "orin-nano"))
    ratios: list[float] = []

    def stand_in(gauge: Gauge, smaller: nn.Module) -> Measurement:
        sides = Latency("original", (1.0, 1.0)), Latency("pruned", (1.0, 1.0))
        return Measurement(*sides, ratios[0], ratios[0] - 0.01, ratios.pop(0) + 0.01)

    monkeypatch.setattr(Gauge, "__call__", stand_in)
    ratios[:] = [0.8, 0.75]
    result = cc.prune(model, X, latency=0.6, cost=cost, align=1, blocks=["2"])
    alone, width = result.plan.options["trials"]
    assert (alone["ratio"], alone["chosen"], width["ratio"], width["chosen"]) == (0.8, False, pytest.approx(0.6), True)
    assert width["macs"] == pytest.approx(result.plan.macs_ratio, rel=1e-6) and alone["macs"] > width["macs"]
    ratios[:] = [0.7]
    result = cc.prune(model, X, latency=0.72, cost=cost, align=1, blocks=["2"])
    assert [trial["chosen"] for trial in result.plan.options["trials"]] == [True]
    ratios[:] = [0.8, *[0.75] * 9]
    with pytest.raises(cc.BudgetError, match=r"Of the whole network the nearest possible budget is latency=0.6\.$"):
        cc.prune(model, X, latency=0.3, cost=cost, align=1, blocks=["2"])
    ratios[:] = [0.995]
    with pytest.raises(cc.BudgetError, match=r"latency=0.99 would not be faster than the original by more than the"):
        cc.prune(model, X, latency=0.99, cost=cost, align=1, blocks=["2"])


def test_the_nearest_budget_is_of_the_whole_network() -> None:
    model = network()
    for limit in ({"macs": 0.05}, {"latency": 0.05, "cost": roofline(cc.analyze(model, X), "orin-nano")}):
        asked = {"min_keep": 0.6, "align": 1, "blocks": ["2"]} | limit
        name = next(iter(limit))
        with pytest.raises(cc.BudgetError, match="Of the whole network the nearest") as caught:
            cc.prune(model, X, **asked)
        nearest = float(str(caught.value).rsplit(f"{name}=", 1)[1].rstrip("."))
        assert cc.prune(model, X, **asked | {name: nearest * 1.001}).proof.passed
        with pytest.raises(cc.BudgetError):
            cc.prune(model, X, **asked | {name: nearest * 0.98})


def test_precisions_are_chosen_for_what_is_left_of_the_blocks() -> None:
    model = network()
    groups = cc.analyze(model, X)
    columns = {name: roofline(groups, "orin-nano", name) for name in ("fp32", "int8")}
    errors = {layer: {"int8": 0.01} for layer in ("2.b", "3.b", "4.b")}
    cost = MixedCost(columns, errors, max_error=0.1)
    result = cc.prune(model, X, latency=0.6, cost=cost, align=1, blocks=["2"])
    assert result.plan.dropped == ("2",)
    assert set(result.plan.options["precision"]["layers"]) <= {"3.b", "4.b"}


def test_layers_without_channels_take_no_time() -> None:
    model = network()
    groups = cc.analyze(model, X)
    cost, own = roofline(groups, "avx2", "fp32"), [g.index for g in groups.groups if g.name.startswith("2.")]
    widths = full_widths(groups.groups)
    widths[own] = 0
    shorter = cc.drop_blocks(model, X, ["2"]).model
    left = cc.analyze(shorter, X)
    expected = cost.on(left)(full_widths(left.groups))
    assert cost(widths) >= expected  # the addition is still there
    assert cost(widths) == pytest.approx(expected, rel=0.1)


def test_what_is_excluded_stays() -> None:
    model = network()
    images = torch.rand(32, 3, 12, 12)
    asked: dict[str, Any] = {"macs": 0.42, "blocks": "auto", "calibration": images}
    assert "2" in cc.prune(model, X, exclude=["3.c"], **asked).plan.dropped
    assert "2" not in cc.prune(model, X, exclude=["2.c"], **asked).plan.dropped


def test_what_cannot_be() -> None:
    model = network()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"keep": 0.5, "blocks": "auto"}, r"keep limits nothing"),
        ({"latency": 0.5, "blocks": "auto", "cost": lambda widths: float(widths.sum())}, r"known without them"),
        ({"macs": 0.5, "blocks": "head"}, r"no residual block"),
    ]
    for given, text in wrong:
        with pytest.raises(cc.UserError, match=text):
            cc.prune(model, X, **given)
    with pytest.raises(cc.UserError, match=r"rounds=2 with blocks"):
        cc.prune_in_rounds(model, X, torch.rand(8, 3, 12, 12), rounds=2, epochs=1, macs=0.5, blocks="auto")
    with pytest.raises(cc.UserError, match=r"No name is no residual block"):
        cc.prune(model, X, macs=0.5, blocks=parsing.blocks(","))
    assert parsing.blocks("auto") == "auto"
    assert parsing.blocks("a, b") == ("a", "b")


def test_a_group_is_gone_with_its_block_or_not_at_all() -> None:
    model = network()
    groups = cc.analyze(model, X)
    costs = network_costs(model, groups)
    own = tuple(g.index for g in groups.groups if g.name.startswith("2."))
    assert len(own) == 2
    apart = blocks_to_go(
        groups, np.ones(groups.channel_count), Budget(macs=0.7), costs, "loss", [Candidate("2", own, 0.0)]
    )
    assert apart == ("2",)
