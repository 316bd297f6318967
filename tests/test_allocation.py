"""Scores, budgets, alignment and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from networks import NETWORKS, build, example
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import channelcut as cc
from channelcut.allocation import Budget, admissible_widths, allocate
from channelcut.allocation.steps import nearest_width
from channelcut.core.tensors import named_tensors
from channelcut.cost import network_costs
from channelcut.cost.bilinear import full_widths
from channelcut.scoring import score


def of_a_vector(shape: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(shape)


VECTORS = {torch.ops.aten.mv: of_a_vector, torch.ops.aten.dot: of_a_vector}  # which the counter does not know


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_and_parameters_agree_with_the_real_network(name: str) -> None:
    model = build(name)
    result = cc.prune(model, example(), keep=0.5)
    for network, cost in ((model, result.plan.before), (result.model, result.plan.after)):
        # A recurrent layer that runs as one op of the library is not counted, nor is attention on a CPU.
        plain = torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False, custom_mapping=VECTORS) as counter, torch.no_grad(), plain[0], plain[1]:
            network(example())
        assert cost.macs == pytest.approx(counter.get_total_flops() / 2)
        assert cost.params == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("share", [0.9, 0.7, 0.4])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_budget_is_met_closely(kind: str, share: float) -> None:
    plan = cc.prune(build("Residual"), example(), **{kind: share}).plan
    ratio = {"macs": plan.macs_ratio, "params": plan.params_ratio}[kind]
    assert share - 0.08 < ratio <= share + 1e-9


def test_an_impossible_budget_names_the_nearest() -> None:
    with pytest.raises(
        cc.BudgetError, match=r"macs=0.01 cannot be met.*The nearest possible budget is macs=0\.\d+"
    ) as caught:
        cc.prune(build("Residual"), example(), macs=0.01)
    nearest = float(str(caught.value).split("nearest possible budget is macs=")[1].split(". ")[0])
    assert cc.prune(build("Residual"), example(), macs=nearest).plan.macs_ratio <= nearest


def test_the_floor_keeps_every_group() -> None:
    plan = cc.prune(build("Residual"), example(), macs=0.3, min_keep=0.25).plan
    assert all(g.kept >= 0.25 * g.width for g in plan.groups)


def test_alignment() -> None:
    plan = cc.prune(build("Residual"), example(), macs=0.6, align=8).plan
    assert all(g.kept % 8 == 0 for g in plan.groups)
    assert admissible_widths(np.arange(1, 21), 8, 2).tolist() == [8, 16, 20]
    assert admissible_widths(np.arange(1, 7), 8, 1).tolist() == [6]
    assert admissible_widths(np.arange(1, 65), 16, 32).tolist() == [32, 48, 64]
    assert admissible_widths(np.arange(1, 65), 16, 5, 4).tolist() == [8, 12, 16, 20, 24, 28, 32, 48, 64]


def test_rounding_follows_importance() -> None:
    steps = admissible_widths(np.arange(1, 17), 8)
    up = np.array([9.0] * 12 + [0.1] * 4)
    down = np.array([9.0] * 8 + [0.1] * 4 + [0.1] * 4)
    assert nearest_width(up, 12, steps) == 16
    assert nearest_width(down, 11, steps) == 8
    assert nearest_width(up, 3, steps) == 8


def test_the_least_important_go() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight[[1, 4, 6]] *= 1e-3
        model[2].weight[:, [1, 4, 6]] *= 1e-3
    plan = cc.prune(model, example(), keep=0.625).plan
    assert plan.kept["0.weight"][0] == (0, 2, 3, 5, 7) == plan.kept["2.weight"][1]


@pytest.mark.parametrize(("ours", "theirs"), [("l2", "tp:GroupMagnitudeImportance"), ("bn", "tp:BNScaleImportance")])
def test_scores_agree_with_torch_pruning(ours: str, theirs: str) -> None:
    for name in ("Chain", "Residual", "Depthwise"):
        model = build(name)
        groups = cc.analyze(model, example())
        a, b = (score(groups, named_tensors(model), which, model) for which in (ours, theirs))
        for group in groups.groups:
            if "Depthwise" in name and group.name.startswith("a."):
                continue  # torch-pruning leaves the weights of a depthwise layer out of the mean
            assert np.allclose(a[group.channels], b[group.channels], rtol=1e-5), (name, group.name)


def test_scores_agree_with_torch_prunings_own_groups() -> None:
    import torch_pruning as tp

    model = build("Residual")
    groups = cc.analyze(model, example())
    graph = tp.DependencyGraph().build_dependency(model, example())
    theirs = graph.get_pruning_group(model.a[0], tp.prune_conv_out_channels, list(range(24)))
    expected = tp.importance.GroupMagnitudeImportance(p=1)(theirs).numpy()
    (group,) = [g for g in groups.groups if g.name == "a.0.weight"]
    assert np.allclose(score(groups, named_tensors(model), "l1")[group.channels], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "criterion", ["l1", "l2", "bn", "random", "tp:FPGMImportance", "tp:LAMPImportance", "tp:RandomImportance"]
)
def test_every_criterion_prunes(criterion: str) -> None:
    assert cc.prune(build("Residual"), example(), keep=0.5, importance=criterion).proof.passed


def test_unknown_criteria_are_named() -> None:
    with pytest.raises(cc.UserError, match=r"no importance 'hessian'.*bn, fisher, fpgm, group-fisher, l1, l2"):
        cc.prune(build("Chain"), example(), keep=0.5, importance="hessian")
    with pytest.raises(cc.UserError, match=r"no criterion 'Nonsense'.*MagnitudeImportance"):
        cc.prune(build("Chain"), example(), keep=0.5, importance="tp:Nonsense")


@pytest.mark.parametrize(
    "bad", [{}, {"keep": 0.5, "macs": 0.5}, {"macs": 0.0}, {"keep": 1.5}, {"keep": 0.5, "align": 0}]
)
def test_bad_budgets(bad: dict[str, float]) -> None:
    with pytest.raises(cc.UserError, match=r"exactly one|is no budget|is not a share|expected align"):
        cc.prune(build("Chain"), example(), **bad)


def test_a_cut_that_would_remove_nothing_is_refused() -> None:
    with pytest.raises(cc.BudgetError, match=r"Nothing would be removed.*align=64.*the widest lane has 24 channels"):
        cc.prune(build("Residual"), example(), keep=0.5, align=64)


def test_misspelt_options_and_criteria_without_tensors() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'aling'"):
        cc.prune(build("Chain"), example(), keep=0.5, aling=8)  # type: ignore[call-arg]
    with pytest.raises(cc.UserError, match="this model has no norm"):
        cc.prune(build("Flattened").f1, torch.rand(2, 384), keep=0.5, importance="bn")


def test_bounds_hold_where_the_budget_asks_for_less() -> None:
    model = build("Residual")
    groups = cc.analyze(model, example())
    costs = network_costs(model, groups)
    scores = score(groups, named_tensors(model))
    scores[groups.groups[0].channels] *= 1e-6  # without bounds all of it would go first
    most = full_widths(groups.groups) - 3
    for group, width in zip(groups.groups, most, strict=True):
        for lane, count in zip(group.lanes, group.counts(int(width)), strict=True):
            scores[lane[np.argsort(-scores[lane])[count:]]] = -np.inf
    for limit in (0.99, 0.65):
        kept = allocate(groups, scores, Budget(macs=limit), costs, unit="loss", bounds=(most, most)).kept
        widths = np.array([group.kept_width(kept) for group in groups.groups])
        assert (widths <= most).all()
        assert (widths >= most - 1).all()  # the next one is always offered
        assert not (kept & np.isneginf(scores)).any()


def test_keep_everything_removes_nothing() -> None:
    model = build("Residual")
    groups = cc.analyze(model, example())
    costs = network_costs(model, groups)
    kept = allocate(groups, score(groups, named_tensors(model)), Budget(keep=1.0), costs).kept
    assert kept.all()
    assert costs["params"](full_widths(groups.groups)) == sum(p.numel() for p in model.parameters())


def test_narrow_lanes_are_aligned_together() -> None:
    """Sixteen groups of a norm with two channels each may lose one each: 16 channels, a multiple of 8."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.GroupNorm(16, 32), nn.ReLU(), nn.Conv2d(32, 12, 1), nn.Conv2d(12, 3, 1)
    )
    result = cc.prune(model.eval(), example(), keep=0.5, align=8)
    assert result.model[0].out_channels == 16
    assert result.model[1].num_channels == 16
    assert result.model[3].out_channels == 8
