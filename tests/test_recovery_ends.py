"""How a recovery ends before its time, and what it refuses before it begins."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

import channelcut as cc
from channelcut.core.result import PruneResult
from channelcut.core.tensors import named_tensors
from channelcut.recovery.distil.checkpoints import CHECKPOINT

IMAGES = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = {"batch": 16, "held_back": 0.25, "augment": (), "places": 2}
HERE = torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, PruneResult]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    return model, cc.prune(model, IMAGES[:1], keep=0.5)


def same(one: PruneResult, other: PruneResult) -> bool:
    theirs = named_tensors(other.model)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in named_tensors(one.model).items())


def test_a_loss_that_stops_being_finite_leaves_the_last_whole_epoch(made: Any, tmp_path: Path) -> None:
    model, result = made
    data = TensorDataset(IMAGES, torch.arange(48) % 4)
    seen: list[int] = []

    def loss(network: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])

    def broken(network: nn.Module, batch: Any) -> Tensor:
        seen.append(len(batch[0]))
        return loss(network, batch) * (float("nan") if len(seen) == 5 else 1.0)

    def taught(loss: Any, out: Path | None, progress: Any = None) -> PruneResult:
        options = cc.RecoverOptions(**QUICK, learning_rate=1e-3)
        return cc.recover(model, result, data, epochs=3, loss=loss, options=options, out=out, progress=progress)

    seen += [0] * 4
    with pytest.raises(cc.UserError, match=r"not finite in step 1 \(epoch 1\)") as error:
        taught(broken, tmp_path)
    assert "checkpoint" not in str(error.value) and not list(tmp_path.iterdir())  # there was no whole epoch
    seen.clear()
    with pytest.raises(cc.UserError, match=r"not finite in step 5 \(epoch 2\), on the batch of item \d") as error:
        taught(broken, tmp_path)
    assert f"The checkpoint in {tmp_path} is of an earlier step, and good." in str(error.value)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]
    assert (state["step"], len(state["history"])) == (3, 1)
    assert all(bool(t.isfinite().all()) for part in ("student", "average") for t in state[part].values())
    steps: list[int] = []
    again = taught(loss, tmp_path, lambda stage, done, total: steps.append(done) if total == 9 else None)
    assert steps == [4, 5, 6, 7, 8, 9]
    assert same(again, taught(loss, None))


def test_patience_ends_a_training_that_gains_nothing(made: Any) -> None:
    model, result = made
    options = cc.RecoverOptions(**QUICK, learning_rate=1e-12, patience=2)
    found = cc.recover(model, result, IMAGES, epochs=9, options=options)
    assert found.recovery is not None
    assert (found.recovery.epochs, found.recovery.steps, len(found.recovery.history)) == (2, 6, 2)
    assert "The training stopped after 2 epochs: 2 without a gain." in found.recovery.notes


def test_no_epoch_that_brings_the_outputs_closer_leaves_the_weights(made: Any) -> None:
    model, result = made
    options = cc.RecoverOptions(**QUICK, learning_rate=1.0, warmup=0.0, ema=0.0)
    found = cc.recover(model, result, IMAGES, epochs=2, options=options)
    assert found.recovery is not None
    assert all(loss > found.recovery.before for _, loss in found.recovery.history)
    assert found.recovery.after == found.recovery.before
    assert same(found, result)
    assert any(note.startswith("No epoch brought the outputs closer") for note in found.recovery.notes)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: cc.RecoverOptions(device=f"cuda:{HERE}"), f"device='cuda:{HERE}', and PyTorch sees"),
        (lambda: cc.RecoverOptions(device="gpu"), "device='gpu' is none that trains"),
        (lambda: cc.RecoverOptions(device="meta"), "device='meta' is none that trains"),
        (lambda: cc.RecoverOptions(device=3), "device=3 is none that trains"),  # type: ignore[arg-type]
        (lambda: cc.RecoverOptions(preprocessing={}), "preprocessing is a dict. Expected channelcut.Preprocessing"),  # type: ignore[arg-type]
        (lambda: cc.RecoverOptions(augment=3), "augment=3 is unknown"),  # type: ignore[arg-type]
        (lambda: cc.RecoverOptions(init="rewind", rewind=3), "rewind is an int. Expected a Mapping"),  # type: ignore[arg-type]
        pytest.param(
            lambda: cc.RecoverOptions(device="cuda"),
            "device='cuda', and PyTorch sees no CUDA device here. Expected cpu",
            marks=pytest.mark.skipif(HERE > 0, reason="there is one"),
        ),
    ],
)
def test_options_that_cannot_train_are_refused_at_once(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(cc.UserError) as error:
        call()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"mac": 0.5}, "mac=0.5 is no keyword of prune_in_rounds, nor one of prune."),
        ({"macs": "0.5"}, "macs='0.5' is no budget"),
        ({"macs": -5}, "macs=-5 is no budget"),
        ({"keep": "0.5"}, "keep='0.5' is not a share of the original"),
        ({"keep": {"*": "a"}}, "keep={'*': 'a'}"),
        ({"keep": 0.5, "min_keep": None}, "min_keep=None: expected a share between 0 and 1."),
        ({"keep": 0.5, "align": "x"}, "align='x'"),
        ({}, "Give exactly one of keep, macs, params"),
        ({"keep": 0.5, "out": 3}, "out is 3, an int. Expected a path."),
    ],
)
def test_a_budget_of_rounds_is_refused_before_anything_runs(made: Any, asked: dict[str, Any], text: str) -> None:
    ran: list[str] = []
    with pytest.raises(cc.UserError) as error:
        cc.prune_in_rounds(
            made[0], IMAGES[:1], IMAGES, rounds=2, epochs=1, progress=lambda stage, *_: ran.append(stage), **asked
        )
    assert text in str(error.value)
    assert not ran
    if "out" not in asked:
        with pytest.raises(cc.UserError) as error:
            cc.sparsify(made[0], IMAGES[:1], IMAGES, epochs=1, progress=lambda stage, *_: ran.append(stage), **asked)
        assert text.replace("prune_in_rounds", "sparsify") in str(error.value)
        assert not ran


def test_other_pixels_or_labels_in_the_same_places_are_other_data(made: Any, tmp_path: Path) -> None:
    model, result = made

    def taught(data: Any, **given: Any) -> PruneResult:
        options = cc.RecoverOptions(**QUICK, learning_rate=1e-3)
        return cc.recover(model, result, data, epochs=1, options=options, out=tmp_path, **given)

    def loss(network: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])

    taught(IMAGES)
    with pytest.raises(cc.UserError, match="the data"):
        taught(torch.cat([IMAGES[:1], IMAGES[1:].flip(3)]))
    for file in tmp_path.iterdir():
        file.unlink()
    taught(TensorDataset(IMAGES, torch.arange(48) % 4), loss=loss)
    with pytest.raises(cc.UserError, match="the data"):
        taught(TensorDataset(IMAGES, torch.arange(48) % 2), loss=loss)


@pytest.mark.parametrize("images", [torch.rand(16, 1, 8, 8), torch.rand(3, 16, 16)], ids=["one channel", "no batch"])
def test_inputs_that_the_network_does_not_take_are_refused_by_a_paragraph(made: Any, images: Tensor) -> None:
    model, result = made
    with pytest.raises(cc.UserError):
        cc.recover(model, result, images, epochs=1)


def test_inputs_of_several_sizes_are_refused_by_a_paragraph(made: Any) -> None:
    model, result = made
    mixed = [torch.rand(3, size, size) for size in (8, 9) * 8]
    with pytest.raises(cc.UserError, match="Expected inputs of one size"):
        cc.recover(model, result, mixed, epochs=1, options=cc.RecoverOptions(**QUICK, learning_rate=1e-3))


def test_weights_in_half_precision_are_refused_by_name(made: Any) -> None:
    model = copy.deepcopy(made[0]).half()
    result = cc.prune(model, IMAGES[:1].half(), keep=0.5)
    with pytest.raises(cc.UserError, match=r"float16 \(0\.0\.weight\).*Expected float32"):
        cc.recover(model, result, IMAGES.half(), epochs=1)


def test_rounds_read_a_generator_of_calibration_once(made: Any) -> None:
    found = cc.prune_in_rounds(
        made[0], IMAGES[:1], IMAGES, rounds=2, epochs=1, keep=0.5, calibration=iter(IMAGES.split(8)),
        options=cc.RecoverOptions(**QUICK, learning_rate=1e-3),
    )  # fmt: skip
    assert [change["round"] for change in found.plan.changes if change["step"] == "compensate"] == [1, 2]


class Normed(nn.Module):
    """A residual network with a layer whose weights are divided by their norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.b = parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, stride=2, padding=1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.b(self.a(x).relu()).relu()
        return self.head((inner + self.c(inner)).relu().mean((2, 3)))


def test_a_layer_that_has_another_size_since_the_cut_is_not_compared() -> None:
    torch.manual_seed(0)
    model = Normed().eval()
    images = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    result = cc.prune(model, images[:1], macs=0.5, calibration=images)

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(images) - model(images)).square().mean())

    found = cc.recover(model, result, images, epochs=1)
    assert error(found.model) <= 1.05 * error(result.model)
