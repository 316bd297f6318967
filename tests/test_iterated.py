"""A cut of a cut: one plan from the original class, however many rounds there were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import NETWORKS, build, example
from torch import nn
from torch.utils import _pytree as pytree

import channelcut as cc
from channelcut.core.record import record_of


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 5, 1)).eval()


def same(one: object, other: object) -> bool:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


def test_three_rounds_load_in_one_step(tmp_path: Path) -> None:
    model, shares = chain(), (0.8, 0.7, 0.5)
    for round_, share in enumerate(shares):
        result = cc.prune(model, example(), keep=share)
        cc.save(result, tmp_path / str(round_))
        again = cc.load(chain, tmp_path / str(round_))
        assert same(again(example()), result.model(example()))
        model = again if round_ == 1 else result.model  # a loaded one goes on as well
    assert [(g.name, g.width, g.kept) for g in result.plan.groups] == [("0.weight", 32, 9), ("2.weight", 32, 9)]
    assert result.plan.before.params == sum(p.numel() for p in chain().parameters())
    assert result.plan.after.params == sum(p.numel() for p in result.model.parameters())
    assert [g.width for g in result.step.groups] == [18, 18]
    record = record_of(result.model)
    assert record is not None and record.proven
    assert [found["options"]["keep"] for found in record.rounds] == list(shares)
    assert [found["proof"]["passed"] for found in record.rounds] == [True, True, True]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_twice(name: str, tmp_path: Path) -> None:
    one = cc.prune(build(name), example(), keep=0.75)
    try:
        two = cc.prune(one.model, example(), keep=0.6)
    except cc.BudgetError:  # the narrow ones have nothing left to lose
        pytest.skip("nothing is left to remove")
    cc.save(two, tmp_path)
    again = cc.load(lambda: build(name, seed=3), tmp_path)
    assert same(again(example()), two.model(example()))
    assert {n: tuple(t.shape) for n, t in again.state_dict().items()} == {
        n: tuple(t.shape) for n, t in two.model.state_dict().items()
    }
    assert two.plan.fingerprint == one.plan.fingerprint
    assert two.plan.before == one.plan.before
    assert two.plan.after.params == sum(p.numel() for p in two.model.parameters())
    assert two.plan.after.macs == pytest.approx(two.step.after.macs)


def test_the_composed_plan_is_a_plan_of_the_original() -> None:
    """Both rounds in one: cut and proven on the original at once."""
    original = chain()
    two = cc.prune(cc.prune(original, example(), keep=0.7).model, example(), keep=0.7)
    at_once = cc.apply(original, two.plan)
    assert cc.prove(original, at_once, two.plan, example()).passed
    assert same(at_once(example()), two.model(example()))


def test_restored_between_rounds(tmp_path: Path) -> None:
    data = torch.randn(32, 3, 16, 16)
    one = cc.prune(build("Residual"), example(), keep=0.75, calibration=data)
    two = cc.prune(one.model, example(), keep=0.6, calibration=data)
    assert [(c["step"], c["round"]) for c in two.plan.changes] == [("compensate", 1), ("compensate", 2)]
    cc.save(two, tmp_path)
    again = cc.load(lambda: build("Residual"), tmp_path)
    assert same(again(example()), two.model(example()))
    assert "stored proof" in cc.prove(one.model, again, two.step, example()).note


def test_an_unproven_round_is_not_forgotten(tmp_path: Path) -> None:
    model = chain()
    small = cc.apply(model, cc.plan(model, cc.analyze(model, example()), keep=0.7))
    two = cc.prune(small, example(), keep=0.7)
    assert two.proof.passed
    with pytest.raises(cc.UserError, match="has not been proven"):
        cc.save(two, tmp_path)


def test_a_cut_that_has_got_other_shapes_begins_anew(tmp_path: Path) -> None:
    one = cc.prune(chain(), example(), keep=0.5)
    one.model[4] = nn.Conv2d(16, 7, 1)
    with pytest.raises(cc.UserError, match="is no cut of channelcut, or has got other shapes"):
        cc.save(one.model, tmp_path)
    two = cc.prune(one.model, example(), keep=0.5)
    assert two.plan.before.params == sum(p.numel() for p in one.model.parameters())
    cc.save(two, tmp_path)
    assert same(cc.load(lambda: one.model, tmp_path)(example()), two.model(example()))


def test_a_half_and_a_moved_cut_keep_their_record(tmp_path: Path) -> None:
    one = cc.prune(chain(), example(), keep=0.5)
    two = cc.prune(one.model.double(), example().double(), keep=0.5)
    assert two.plan.before == one.plan.before
    cc.save(two, tmp_path)
    assert [m.out_channels for m in cc.load(chain, tmp_path) if isinstance(m, nn.Conv2d)] == [8, 8, 5]


def test_a_round_that_leaves_a_layer_alone_keeps_what_the_first_did_to_it(tmp_path: Path) -> None:
    one = cc.prune(chain(), example(), keep={"0": 0.5})
    two = cc.prune(one.model, example(), keep={"2": 0.5})
    cc.save(two, tmp_path)
    loaded, expected = cc.load(chain, tmp_path), [(3, 16), (16, 16), (16, 5)]
    for model in (two.model, loaded, cc.apply(chain(), two.plan)):
        assert [(m.in_channels, m.out_channels) for m in model if isinstance(m, nn.Conv2d)] == expected
    assert {group.name: group.kept for group in two.plan.groups} == {"0.weight": 16, "2.weight": 16}
