"""Passes: what is left of a cut is refitted and ranked again before more goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from torch import nn

import channelcut as cc
from channelcut import choosing, passes, restoring
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.result import Compensation
from channelcut.core.tensors import named_tensors, weights_fingerprint
from channelcut.passes import passes_of
from channelcut.ranking import Criterion
from channelcut.recovering import rounds as in_rounds

IMAGES = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(7))
TWINS, SINGLES = [0, 1], [2, 3, 4, 5]


def twins() -> nn.Module:
    """A layer whose first two channels are one and the same; either alone matters less than any other channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3).repeat(2, 1)[:6, :, None, None] + 0.1 * torch.rand(6, 3, 1, 1))
        model[0].weight[1] = model[0].weight[0]
        model[0].bias.copy_(torch.tensor([0.0, 0.0, -0.3, -0.5, -0.4, -0.2]))
        model[2].weight.copy_(torch.randn(4, 6, 1, 1))
        model[2].weight /= model[2].weight.norm(dim=0, keepdim=True)
        model[2].weight[:, TWINS] *= 1.2
        model[2].weight[:, 1] = model[2].weight[:, 0]
        model[2].weight[:, SINGLES] *= torch.tensor([2.5, 3.5, 3.0, 2.0])[None, :, None, None]
    return model


def kept_of(result: Any) -> tuple[int, ...]:
    return result.plan.kept["0.weight"][0]


def test_of_twins_one_pass_takes_both_and_two_take_one() -> None:
    model = twins()
    asked = {"keep": 4 / 6, "calibration": IMAGES, "importance": "fisher"}
    once = cc.prune(model, IMAGES[:1], **asked)
    twice = cc.prune(model, IMAGES[:1], **asked, passes=2)
    assert kept_of(once) == (2, 3, 4, 5)
    assert len(kept_of(twice)) == 4
    assert len(set(kept_of(twice)) & set(TWINS)) == 1
    with torch.no_grad():
        wanted = model(IMAGES)
        lost = [float((result.model(IMAGES) - wanted).square().mean()) for result in (once, twice)]
    assert lost[1] < 0.5 * lost[0]
    assert twice.plan.options["passes"] == 2
    assert "passes" not in once.plan.options
    assert twice.proof.passed


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_passes_end_in_a_proven_cut_of_the_widths_that_the_plan_names(name: str) -> None:
    model, x = networks.build(name), networks.example()
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    before = weights_fingerprint(model)
    result = cc.prune(model, x, macs=0.5, calibration=images, importance="fisher", passes=3)
    assert result.proof.passed
    assert weights_fingerprint(model) == before
    for tensor, found in named_tensors(result.model).items():
        assert tuple(found.shape) == result.plan.shape(tensor, named_tensors(model)[tensor].shape)
        assert not found.is_floating_point() or torch.isfinite(found).all()
    assert result.plan.macs_ratio <= 0.5
    assert result.plan.options["passes"] == 3


def pruned(**asked: Any) -> Any:
    model, x = networks.build("Residual"), networks.example()
    return cc.prune(model, x, **{"calibration": IMAGES, "importance": "taylor", "passes": 3} | asked)


def test_the_same_call_comes_to_the_same_weights() -> None:
    one, other = (pruned(macs=0.5) for _ in range(2))
    assert weights_fingerprint(one.model) == weights_fingerprint(other.model)
    assert one.plan == other.plan


def test_no_pass_brings_back_what_one_before_has_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, allocate = [], choosing.allocate

    def noted(*args: Any) -> Any:
        found = allocate(*args)
        kept.append(found.kept)
        return found

    monkeypatch.setattr(choosing, "allocate", noted)
    pruned(macs=0.4)
    first, *passes = kept  # the first one looks whether the budget can be met
    assert len(passes) == 3
    assert not (passes[1] & ~passes[0]).any()
    assert not (passes[2] & ~passes[1]).any()
    assert first.sum() == pytest.approx(passes[2].sum(), abs=6)


def test_refits_begin_at_the_weights_that_the_pass_before_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def marked(before: nn.Module, smaller: nn.Module, *_: Any) -> tuple[nn.Module, Compensation]:
        with torch.no_grad():
            smaller.get_parameter("head.bias").add_(1.0)
        return smaller, Compensation(refused="marked")

    monkeypatch.setattr(passes, "compensated", marked)
    monkeypatch.setattr(restoring, "compensated", marked)
    monkeypatch.setattr(restoring, "recalibrate", lambda model, *_: (model, None))
    result = pruned(macs=0.5)
    before = networks.build("Residual").get_parameter("head.bias")
    assert torch.allclose(result.model.get_parameter("head.bias"), before + 3)


@pytest.mark.parametrize(("rounds", "told"), [(1, None), (2, 1)])
def test_each_of_several_rounds_with_a_training_is_one_pass(
    rounds: int, told: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def noted(*args: Any, **given: Any) -> Any:
        asked.append(given.get("passes"))
        return cc.prune(*args, **given)

    monkeypatch.setattr(in_rounds, "prune", noted)
    model, x = networks.build("Residual"), networks.example()
    cc.prune_in_rounds(model, x, torch.rand(32, 3, 16, 16), rounds=rounds, epochs=1, keep=0.5)
    assert asked == [told] * rounds


def test_four_passes_are_the_default_of_a_detector_of_a_known_library() -> None:
    batches = [((IMAGES,), {})]
    known = Criterion("taylor", batches, detects=True)
    assert passes_of(None, known, "compensate", None) == 4
    assert passes_of(2, known, "compensate", None) == 2
    assert passes_of(None, known, "compensate", "auto") == 1
    assert passes_of(None, known, "none", None) == 1
    assert passes_of(None, replace(known, detections=lambda outputs: outputs), "compensate", None) == 1
    assert passes_of(None, replace(known, detects=False), "compensate", None) == 1
    assert passes_of(None, replace(known, importance="reconstruction"), "compensate", None) == 1


def test_passes_leave_equal_shares_of_a_budget() -> None:
    told = []
    pruned(params=0.4, progress=lambda stage, done, total: told.append(stage))
    assert [stage for stage, before in zip(told, ["", *told], strict=False) if stage != before].count("compensate") == 3


@pytest.mark.parametrize(
    "asked", [{"keep": 0.5}, {"keep": {"a.*": 0.5, "*": 0.9}}, {"params": 0.5}, {"macs": 0.5, "align": 4}], ids=str
)
def test_every_kind_of_budget_is_met(asked: dict[str, Any]) -> None:
    once, found = pruned(**asked, passes=1), pruned(**asked)
    if "keep" in asked:
        assert [group.kept for group in found.plan.groups] == [group.kept for group in once.plan.groups]
    assert found.plan.params_ratio <= once.plan.params_ratio + 0.05
    assert found.plan.macs_ratio <= once.plan.macs_ratio + 0.05
    assert all(group.kept % asked.get("align", 1) == 0 for group in found.plan.groups)


def test_a_budget_of_time_is_met_by_the_cost_of_the_original() -> None:
    found = pruned(latency=0.6, cost=lambda widths: float(1 + np.square(widths).sum()))
    model = networks.build("Residual")
    groups = cc.analyze(model, networks.example())
    kept = {group.name: group.kept for group in found.plan.groups}
    widths = np.array([kept[group.name] for group in groups.groups])
    full = np.array([group.width for group in groups.groups])
    assert 1 + np.square(widths).sum() <= 0.6 * (1 + np.square(full).sum())


def test_its_result_is_saved_loaded_and_compensated_like_any(tmp_path: Path) -> None:
    model, x = networks.build("Residual"), networks.example()
    result = pruned(macs=0.5)
    cc.save(result, tmp_path)
    loaded = cc.load(lambda: networks.build("Residual"), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))
    again = cc.compensate(model, result, IMAGES)
    assert again.compensation is not None


def test_a_plan_changed_by_hand_forgets_the_passes() -> None:
    model, x = networks.build("Residual"), networks.example()
    step = pruned(macs=0.5).step
    first = step.kept["a.0.weight"][0]
    other = sorted(set(range(24)) - set(first))[: len(first)]
    small = cc.apply(model, step.with_kept("a.0.weight", other))
    assert cc.prove(model, small, step.with_kept("a.0.weight", other), x).passed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"passes": 0}, "passes=0: expected a whole number from 1 on"),
        ({"passes": True}, "passes=True: expected a whole number"),
        ({"passes": 2, "calibration": None, "importance": "l2"}, "takes images"),
        ({"passes": 2, "importance": "activation"}, "an importance of gradients"),
        ({"passes": 2, "restore": "recalibrate"}, "restore='compensate'"),
        ({"passes": 2, "blocks": "auto"}, "passes=2 with blocks"),
    ],
    ids=str,
)
def test_what_cannot_be_done_in_passes_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        pruned(macs=0.5, **asked)


def test_a_budget_that_cannot_be_met_is_refused_before_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "compensated", None)  # never reached
    with pytest.raises(BudgetError, match="nearest possible"):
        pruned(macs=0.001)
