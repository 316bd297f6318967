"""What callers hand in may raise: it comes out as it is, at once, and nothing has run twice or stays behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from networks import build, example
from torch import Tensor, nn

import channelcut as cc

STAGES = ["trace", "couple", "score", "allocate", "cut", "prove", "prove each", "compensate"]


class Cancelled(Exception):
    """What a user raises to stop a run."""


def residual() -> nn.Module:
    return build("Residual")


@pytest.mark.parametrize("kind", [Cancelled, RuntimeError, ValueError, KeyboardInterrupt, cc.UserError])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_progress_may_cancel(stage: str, last: int, kind: type[BaseException]) -> None:
    seen: list[tuple[str, int]] = []

    def progress(name: str, done: int, total: int) -> None:
        seen.append((name, done))
        if name == stage and (done == total) == bool(last):
            raise kind("cancelled by the user")

    model = residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = gc.get_freeze_count()
    with pytest.raises(kind, match="cancelled by the user"):
        cc.prune(model, example(), keep=0.5, prove="each", calibration=torch.randn(64, 3, 16, 16), progress=progress)
    assert [name for name, done in seen if done == 0] == STAGES[: STAGES.index(stage) + 1]
    assert seen[-1][0] == stage
    assert gc.get_freeze_count() == frozen
    assert not hasattr(model, "_channelcut")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [AttributeError, RuntimeError, cc.UserError])
def test_an_error_in_a_criterion_comes_out_once(kind: type[Exception]) -> None:
    calls = []

    def of_slots(tensor: Tensor, slot: cc.Slot) -> Tensor:
        calls.append(slot)
        raise kind("a defect of the criterion")

    def of_all(groups: cc.Groups, tensors: dict[str, Tensor], model: nn.Module) -> Tensor:
        calls.append(groups)
        raise kind("a defect of the criterion")

    for criterion in (of_slots, of_all):
        calls.clear()
        with pytest.raises(kind, match="a defect of the criterion"):
            cc.prune(residual(), example(), keep=0.5, importance=criterion)
        assert len(calls) == 1


def test_a_generator_of_calibration_data_is_read_once() -> None:
    read = []

    def batches(*channels: int) -> Iterator[Tensor]:
        for count in channels:
            read.append(count)
            yield torch.rand(16, count, 16, 16)

    result = cc.prune(residual(), example(), keep=0.5, calibration=batches(3, 3))
    assert result.compensation is not None and result.compensation.images == 32
    assert read == [3, 3]
    with pytest.raises(cc.UserError, match=r"calibration inputs \(\d+x5x16x16\) do not run through the network"):
        cc.prune(residual(), example(), keep=0.5, calibration=batches(3, 5))


def test_an_error_of_the_generator_comes_out() -> None:
    def broken() -> Iterator[Tensor]:
        yield torch.rand(4, 3, 16, 16)
        raise Cancelled("the disk is gone")

    with pytest.raises(Cancelled, match="the disk is gone"):
        cc.prune(residual(), example(), keep=0.5, calibration=broken())


class Trainer(nn.Module):
    """A wrapper as Ultralytics' `YOLO`: a module whose `train` trains."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        raise AssertionError("a training was started")


class Logged(nn.Sequential):
    """Modules that change what `train` does, and stay switches."""

    def train(self, mode: bool = True) -> Any:
        return super().train(mode)


class Passing(nn.Sequential):
    def train(self, *args: Any, **kwargs: Any) -> Any:
        return super().train(*args, **kwargs)


class Lightning(nn.Module):
    """A module around a network, without a forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Loop:
    """No module at all; its `model` is a property that must not be asked."""

    @property
    def model(self) -> nn.Module:
        raise AssertionError("a property was run")


@pytest.mark.parametrize(
    ("wrapped", "text"),
    [
        (lambda: Trainer(residual()), r"The model is a Trainer, whose train\(\) is no switch .* pass model\.model"),
        (lambda: nn.Sequential(Trainer(residual())), r"0 in the model is a Trainer"),
        (lambda: Lightning(residual()), r"is a Lightning, which has no forward. Expected .*: pass model\.model"),
        (Loop, r"The model is a Loop. Expected a torch\.nn\.Module: pass model\.model"),
        (lambda: nn.DataParallel(residual()), r"wrapped in DataParallel. Pass the network itself: model\.module"),
        (
            lambda: torch.compile(residual(), backend="eager"),
            r"torch\.compile. Pass the network itself: model\._orig_mod",
        ),
        (lambda: residual().state_dict(), r"The model is an OrderedDict. Expected a torch\.nn\.Module"),
    ],
)
def test_wrappers_are_refused_with_the_way_to_the_network(wrapped: Any, text: str) -> None:
    inner = residual()
    plan = cc.plan(inner, groups := cc.analyze(inner, example()), keep=0.5)
    for step in (
        lambda m: cc.analyze(m, example()),
        lambda m: cc.plan(m, groups, keep=0.5),
        lambda m: cc.apply(m, plan),
        lambda m: cc.prove(m, inner, plan, example()),
        lambda m: cc.prove(inner, m, plan, example()),
        lambda m: cc.prune(m, example(), keep=0.5),
    ):
        with pytest.raises(cc.UserError, match=text):
            step(wrapped())


@pytest.mark.parametrize("kind", [Logged, Passing])
def test_switches_of_ones_own_are_switches(kind: type[nn.Sequential]) -> None:
    model = kind(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    assert cc.prune(model, example(), keep=0.5).proof.passed
