"""What callers hand in stays theirs, and what makes no sense is refused in one paragraph."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from networks import build, example
from torch import Tensor, nn

import channelcut as cc


def chain() -> tuple[nn.Module, Tensor]:
    return build("Chain"), example()


def in_place(tensor: Tensor, slot: cc.Slot) -> Tensor:
    return tensor.abs_().transpose(0, slot.axis).flatten(1).sum(1) if tensor.dim() > 1 else tensor.abs_()


def all_to_zero(groups: cc.Groups, tensors: Mapping[str, Tensor], model: nn.Module) -> Any:
    for tensor in (*tensors.values(), *model.state_dict().values()):
        tensor.zero_()
    return torch.arange(groups.channel_count)


@pytest.mark.parametrize("criterion", [in_place, all_to_zero])
def test_a_criterion_that_works_in_place_leaves_the_model_alone(criterion: Any) -> None:
    model, x = chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cc.plan(model, cc.analyze(model, x), keep=0.5, importance=criterion)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_was_trained_between_two_rounds_is_recorded() -> None:
    model, x = chain()
    first = cc.prune(model, x, keep=0.5)
    with torch.no_grad():
        next(first.model.parameters()).mul_(3)
    second = cc.prune(first.model, x, keep=0.7)
    assert [change["step"] for change in second.plan.changes] == ["trained or changed outside of channelcut"]
    assert second.plan.changes[0]["round"] == 1


def test_a_trained_cut_is_proven_by_its_shapes_and_the_stored_proof() -> None:
    model, x = chain()
    plan = cc.plan(model, cc.analyze(model, x), keep=0.5)
    small = cc.apply(model, plan)
    assert cc.prove(model, small, plan, x).passed
    with torch.no_grad():
        next(small.parameters()).mul_(3)
    again = cc.prove(model, small, plan, x)
    assert again.passed
    assert "trained or changed outside of channelcut" in again.note


@functools.lru_cache(None)
def grid(height: int, width: int) -> Tensor:
    return torch.arange(height * width).float().view(1, 1, height, width).sin()


class Gridded(nn.Module):
    """A forward that keeps a grid outside of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.h((self.a(x) * grid(*x.shape[2:])).relu())


def test_torch_export_leaves_nothing_without_values_in_a_cache() -> None:
    grid.cache_clear()
    model, x = Gridded().eval(), example()
    result = cc.prune(model, x, keep=0.5, tracer="export")
    assert result.model.a.out_channels == 8
    assert type(model(x)) is Tensor


def test_two_threads_in_torch_export_wait_for_each_other() -> None:
    found: list[Any] = []

    def run(name: str) -> None:
        try:
            found.append(cc.prune(build(name), example(), keep=0.5, tracer="export").proof.passed)
        except Exception as error:  # noqa: BLE001  a thread that fails is seen below
            found.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("Chain", "Residual")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True]


def test_another_name_of_a_module_can_be_excluded() -> None:
    model = build("Chain")
    model.other = model.b
    found = cc.plan(model, cc.analyze(model, example()), keep=0.5, exclude=["other"])
    assert {group.name for group in found.groups} == {"a.0.weight"}


WRONG: dict[str, tuple[Callable[[nn.Module, Tensor], Any], str]] = {
    "empty batch": (lambda m, x: cc.prune(m, torch.rand(0, 3, 8, 8), keep=0.5), "which has no elements"),
    "no plan": (lambda m, x: cc.apply(m, None), "plan is a NoneType. Expected a Plan"),  # type: ignore[arg-type]
    "no groups": (lambda m, x: cc.plan(m, None, keep=0.5), "groups is a NoneType"),  # type: ignore[arg-type]
    "no exclusion": (lambda m, x: cc.prune(m, x, keep=0.5, exclude=5), "exclude=5 names nothing"),  # type: ignore[arg-type]
    "halves": (lambda m, x: by_hand(m, x, [0.5, 8.7]), "are no positions"),
    "mask": (lambda m, x: by_hand(m, x, [True] * 12), "of a mask, mask.nonzero()"),
    "nothing": (lambda m, x: by_hand(m, x, None), "None are no positions"),
}


def by_hand(model: nn.Module, x: Tensor, positions: Any) -> cc.Plan:
    return cc.plan(model, cc.analyze(model, x), keep=0.5).with_kept("a.0.weight", positions)


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused_in_words(name: str) -> None:
    call, text = WRONG[name]
    with pytest.raises(cc.UserError) as raised:
        call(*chain())
    assert text in str(raised.value)
