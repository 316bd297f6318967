"""Before the cut: the channels that are to go shrink, and the others take over what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_recover import Net
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.errors import UserError
from channelcut.core.tensors import named_tensors

OPTIONS = cc.RecoverOptions(batch=16, learning_rate=1e-2, ema=0.9, held_back=0.25, augment=(), batch_norm="frozen")


@pytest.fixture(scope="module")
def taught() -> tuple[Net, Tensor, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Net(), torch.rand(64, 3, 12, 12)
        for _ in range(10):
            with torch.no_grad():
                model(images)
    model.eval().requires_grad_(False)
    return model, images, cc.sparsify(model, images[:1], images, epochs=30, options=OPTIONS, keep=0.5)


def norms(model: nn.Module, plan: cc.Plan) -> tuple[float, float]:
    """Of the tensors' positions that go and that stay: the squared norms."""
    gone = stay = 0.0
    for name, parameter in model.named_parameters():
        for axis, kept in plan.kept.get(name, {}).items():
            squares = parameter.detach().square().movedim(axis, 0).reshape(parameter.shape[axis], -1).sum(1)
            stay += float(squares[list(kept)].sum())
            gone += float(squares.sum() - squares[list(kept)].sum())
    return gone, stay


def test_what_goes_shrinks_and_the_cut_loses_less(taught: Any) -> None:
    model, images, sparse = taught
    plain, first = (cc.prune(network, images[:1], keep=0.5) for network in (model, sparse))
    assert plain.plan.kept == first.plan.kept
    before, after = norms(model, plain.plan), norms(sparse, plain.plan)
    assert after[0] < 0.01 * before[0]
    assert after[1] > 0.5 * before[1]

    def lost(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(images)["logits"] - model(images)["logits"]).square().mean())

    assert lost(first.model) < 0.25 * lost(plain.model)
    assert lost(first.model) == pytest.approx(lost(sparse), rel=0.2)  # what is cut has no say any more


def test_the_original_stays_and_teaches_the_cut(taught: Any, tmp_path: Path) -> None:
    model, images, sparse = taught
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = Net()
    assert torch.equal(fresh.a.weight, model.a.weight)
    assert not model.a.weight.requires_grad
    result = cc.prune(sparse, images[:1], keep=0.5)
    assert [change["step"] for change in result.plan.changes] == ["sparsify"]
    assert result.plan.changes[0]["epochs"] == 30
    found = cc.recover(model, result, images, epochs=1, options=OPTIONS)
    assert [(change["step"], change["round"]) for change in found.plan.changes] == [("sparsify", 0), ("recover", 1)]
    cc.save(found, tmp_path)
    assert torch.equal(cc.load(Net, tmp_path)(images)["logits"], found.model(images)["logits"])
    groups = cc.analyze(sparse, images[:1])
    plan = cc.plan(sparse, groups, keep=0.5)
    assert cc.prove(sparse, cc.apply(sparse, plan), plan, images[:1]).passed


def test_it_goes_on_where_it_was_stopped(taught: Any, tmp_path: Path) -> None:
    model, images, _ = taught
    asked: Any = {"epochs": 2, "options": OPTIONS, "out": tmp_path, "keep": 0.5}

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("sparsify", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cc.sparsify(model, images[:1], images, progress=stop, **asked)
    found = [
        cc.sparsify(model, images[:1], images, **asked),
        cc.sparsify(model, images[:1], images, **{**asked, "out": None}),
    ]
    other = named_tensors(found[1])
    assert all(torch.equal(tensor, other[name]) for name, tensor in named_tensors(found[0]).items())
    with pytest.raises(UserError, match="is of another recovery: the penalty differs"):
        cc.sparsify(model, images[:1], images, penalty=5, **asked)


def test_what_makes_no_sense_before_a_cut_is_refused(taught: Any) -> None:
    model, images, _ = taught
    with pytest.raises(UserError, match="penalty=0: expected a number above 0"):
        cc.sparsify(model, images[:1], images, epochs=1, penalty=0, keep=0.5)
    with pytest.raises(UserError, match=r"mac=0\.5 is no keyword of sparsify, nor one of prune"):
        cc.sparsify(model, images[:1], images, epochs=1, mac=0.5)
    with pytest.raises(UserError, match="init and patience are of a recovery"):
        cc.sparsify(model, images[:1], images, epochs=1, options=cc.RecoverOptions(patience=2), keep=0.5)
