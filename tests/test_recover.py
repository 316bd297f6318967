"""The original teaches its cut: what is learnt, what is compared, and what interrupts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import channelcut as cc
from channelcut.adapters.ultralytics.teaching import heads_loss
from channelcut.cli import main
from channelcut.core.result import PruneResult
from channelcut.core.tensors import named_tensors
from channelcut.cutting.storage import load_plan
from channelcut.recovering import rounds, steps
from channelcut.recovering.steps import Training
from channelcut.recovery.distil import training
from channelcut.recovery.distil.augment import KINDS, augmented, draws
from channelcut.recovery.distil.checkpoints import CHECKPOINT
from channelcut.recovery.distil.losses import comparable, says_where
from channelcut.recovery.distil.processes import processes
from channelcut.recovery.distil.state import State, fill
from channelcut.tracing import trace

QUICK = cc.RecoverOptions(batch=16, learning_rate=2e-3, held_back=0.25, augment=("flip", "colour"))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))))
        logits = self.head(x.mean((2, 3)))
        return {"logits": logits, "best": logits.topk(2, 1).values}


@pytest.fixture(scope="module")
def made() -> tuple[Net, PruneResult, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Net().eval(), torch.rand(48, 3, 12, 12)
        with torch.no_grad():
            model.train()(images)
    return model.eval(), cc.prune(model, images[:1], keep=0.5), images


def weights(result: PruneResult) -> dict[str, Tensor]:
    return named_tensors(result.model)


def same(one: PruneResult, other: PruneResult) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_the_cut_comes_closer_and_nothing_else_changes(made: Any, tmp_path: Path) -> None:
    model, result, images = made
    before = {name: tensor.clone() for name, tensor in (*weights(result).items(), *named_tensors(model).items())}
    state = torch.random.get_rng_state()
    said: list[str] = []

    class Progress:
        def __call__(self, stage: str, done: int, total: int) -> None:
            said.append(stage)

        def note(self, stage: str, text: str) -> None:
            said.append(text)

    found = cc.recover(model, result, images, epochs=6, options=QUICK, progress=Progress())
    assert found.recovery is not None
    assert found.recovery.after < 0.8 * found.recovery.before
    assert (found.recovery.images, found.recovery.steps, found.recovery.labels) == (36, 18, False)
    assert torch.equal(state, torch.random.get_rng_state())
    after = {**weights(result), **named_tensors(model)}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert any(text.startswith("loss ") and text.endswith(" left") for text in said)
    change = found.plan.changes[-1]
    assert (change["step"], change["images"], change["epochs"]) == ("recover", 36, 6)
    assert result.plan.changes == ()
    cc.save(found, tmp_path)
    loaded = cc.load(Net, tmp_path)
    assert torch.equal(loaded(images)["logits"], found.model(images)["logits"])
    assert cc.prove(model, found.model, found.plan, images[:1]).passed
    assert all(parameter.requires_grad for parameter in found.model.parameters())


def test_kept_channels_are_compared_with_the_teachers_own(made: Any) -> None:
    """Where what goes has no effect, the cut is as good as the original in all that is compared."""
    model, result, images = made
    dead = Net().eval()
    dead.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, axes in result.plan.kept.items():
            if 1 in axes or name == "head.weight":
                gone = [i for i in range(named_tensors(dead)[name].shape[1]) if i not in axes[1]]
                named_tensors(dead)[name][:, gone] = 0
    again = cc.prune(dead, images[:1], keep=0.5, importance=lambda tensor, slot: _as(result, tensor, slot))
    assert again.plan.kept == result.plan.kept
    found = cc.recover(dead, again, images, epochs=1, options=cc.RecoverOptions(learning_rate=1e-12, ema=0.0))
    assert found.recovery is not None
    assert found.recovery.before < 1e-9
    only = cc.recover(dead, again, images, epochs=1, options=cc.RecoverOptions(output=0.0))
    assert only.recovery is not None
    assert only.recovery.before < 1e-9


def _as(result: PruneResult, tensor: Tensor, slot: Any) -> Tensor:
    chosen = torch.zeros(tensor.shape[slot.axis])
    chosen[list(result.plan.kept.get(slot.tensor, {}).get(slot.axis, range(len(chosen))))] = 1
    return chosen


def test_outputs_behind_a_topk_do_not_compare(made: Any) -> None:
    assert comparable(made[1].groups.graph) == ("logits",)
    lone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    assert comparable(cc.analyze(lone, torch.rand(1, 3, 4, 4)).graph) == ("0",)


def killed(call: Callable[[Callable[..., None]], Any], at: int) -> int:
    """The signal that ends a child process which is killed in a step of its recovery."""
    child = os.fork()
    if not child:
        try:

            def kill(stage: str, done: int, total: int) -> None:
                if (stage, done) == ("recover", at):
                    os.kill(os.getpid(), signal.SIGKILL)

            call(kill)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_killed_and_resumed_is_the_same_bit_by_bit(made: Any, tmp_path: Path) -> None:
    model, result, images = made
    quick = replace(QUICK, device="cpu")  # a GPU cannot be used in a forked process, and adds up in any order
    whole = cc.recover(model, result, images, epochs=3, options=quick)

    def again(progress: Any = None, out: Path = tmp_path / "a", **other: Any) -> PruneResult:
        return cc.recover(model, result, images, **{"epochs": 3, "options": quick, **other}, out=out, progress=progress)

    assert killed(again, 5) == -signal.SIGKILL  # in the second of three epochs
    assert (tmp_path / "a" / CHECKPOINT).is_file()
    assert same(again(), whole)
    assert same(again(), whole)  # done already: nothing is left to do

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("recover", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(stop, tmp_path / "b")
    steps = []
    assert same(again(lambda stage, done, total: steps.append((stage, done)), tmp_path / "b"), whole)
    assert ("recover", 4) not in steps
    assert ("recover", 5) in steps
    with pytest.raises(cc.UserError, match="another recovery: the epochs differs"):
        again(epochs=4)
    with pytest.raises(cc.UserError, match=r"the plan, .*the weights that it starts from differ"):
        cc.recover(model, cc.prune(model, images[:1], keep=0.4), images, epochs=3, options=quick, out=tmp_path / "a")
    (tmp_path / "a" / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(cc.UserError, match="cannot be read as a checkpoint"):
        again()


def test_without_a_learning_rate_the_best_of_some_is_taken(made: Any, tmp_path: Path) -> None:
    model, result, images = made
    options = replace(QUICK, learning_rate=None)
    found = cc.recover(model, result, images, epochs=3, options=options)
    assert found.recovery is not None
    (note,) = [note for note in found.recovery.notes if "learning rate" in note]
    losses = {float(rate): float(loss) for rate, loss in re.findall(r"([\d.e-]+) \((\d\.\d+)\)", note)}
    chosen = float(re.findall(r"learning rate ([\d.e-]+) was", note)[0])
    assert len(losses) > 1
    alike = [rate for rate, loss in losses.items() if loss <= 1.05 * min(losses.values())]
    assert chosen == max(alike)
    assert same(found, cc.recover(model, result, images, epochs=3, options=replace(options, learning_rate=chosen)))

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("recover", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cc.recover(model, result, images, epochs=3, options=options, out=tmp_path, progress=stop)
    seen: list[tuple[str, int]] = []

    def note(stage: str, done: int, total: int) -> None:
        seen.append((stage, done))

    more = cc.recover(model, result, images, epochs=3, options=options, out=tmp_path, progress=note)
    assert same(more, found)
    assert more.recovery is not None
    assert more.recovery.notes == found.recovery.notes
    assert seen.count(("recover", 0)) <= 1  # no rate is tried again


def test_one_image_over_and_over_is_said(made: Any) -> None:
    model, result, images = made
    same_one = images[:1].expand(8, -1, -1, -1).clone()
    said = cc.recover(model, result, same_one, epochs=1, options=QUICK).recovery.notes
    assert any("all 8 that were compared are the same" in note for note in said)
    other = cc.recover(model, result, images[:8], epochs=1, options=QUICK).recovery.notes
    assert not any("over and over" in note for note in other)


@pytest.mark.parametrize(
    ("dense", "norms", "chosen"), [(True, "frozen", "0.0001"), (True, "batch", "0.0003"), (False, "frozen", "0.0003")]
)
def test_of_rates_that_do_as_well_detectors_whose_norms_stay_get_the_lowest(
    made: Any, monkeypatch: pytest.MonkeyPatch, dense: bool, norms: str, chosen: str
) -> None:
    model, result, images = made
    monkeypatch.setattr(training, "_tried", lambda *_: {1e-4: 4.30, 3e-4: 4.19, 1e-3: 9.0})
    monkeypatch.setattr(steps, "says_where", lambda _: dense)
    options = replace(QUICK, learning_rate=None, batch_norm=norms)
    found = cc.recover(model, result, images, epochs=1, options=options)
    assert any(note.startswith(f"The learning rate {chosen} was chosen") for note in found.recovery.notes)


@pytest.mark.parametrize("epochs", [4, 100])
def test_a_short_training_has_48_steps_or_a_quarter_of_them(
    made: Any, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    model, result, images = made
    taken: list[int] = []
    step = training._Training.step
    monkeypatch.setattr(training._Training, "step", lambda self: taken.append(1) or step(self))
    monkeypatch.setattr(training, "_RATES", (1e-4,))
    found = cc.recover(model, result, images, epochs=epochs, options=replace(QUICK, learning_rate=None))
    assert found.recovery is not None
    assert len(taken) - found.recovery.steps == min(48, found.recovery.steps // 4)


def test_what_is_drawn_anew_has_the_usual_rate(made: Any) -> None:
    model, result, images = made
    options = replace(QUICK, learning_rate=None, init="scratch")
    found = cc.recover(model, result, images, epochs=1, options=options)
    assert same(found, cc.recover(model, result, images, epochs=1, options=replace(options, learning_rate=1e-3)))


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(made: Any, tmp_path: Path) -> None:
    model, result, images = made
    broken = images.clone()
    broken[17] = float("nan")
    options = cc.RecoverOptions(batch=4, held_back=0.0, augment=(), seed=1)
    with pytest.raises(cc.UserError, match=r"is not finite in step .* on the batch of .*input 17.*nothing was changed"):
        cc.recover(model, result, broken, epochs=2, options=options, out=tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()  # there was no whole epoch


def test_memory_that_runs_out_halves_what_is_computed_at_once(made: Any) -> None:
    model, result, images = made
    sizes: list[int] = []

    def loss(network: nn.Module, batch: Any) -> Tensor:
        sizes.append(len(batch[0]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return F.cross_entropy(network(batch[0])["logits"], batch[1])

    data = TensorDataset(images, torch.arange(48) % 4)
    found = cc.recover(model, result, data, epochs=1, loss=loss, options=QUICK)
    assert found.recovery is not None
    assert sizes[0] == 12
    assert sizes[2:] == [3] * 12
    assert any("Memory ran out at 12 inputs at once: 6 from step 0 on" in note for note in found.recovery.notes)
    whole = cc.recover(
        model, result, data, epochs=1, options=QUICK, loss=lambda n, b: F.cross_entropy(n(b[0])["logits"], b[1])
    )
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(found)[name], atol=1e-4), name

    def never(network: nn.Module, batch: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(cc.UserError, match="not enough memory to train on a single input"):
        cc.recover(model, result, data, epochs=1, loss=never, options=QUICK)


def test_labels_teach_where_a_loss_is_given(made: Any) -> None:
    model, result, images = made
    labels = torch.arange(48) % 4
    loss: Any = lambda network, batch: F.cross_entropy(network(batch[0])["logits"], batch[1])  # noqa: E731
    alone = cc.RecoverOptions(batch=16, output=0.0, features=0.0, learning_rate=1e-2, batch_norm="batch")
    before = loss(result.model, (images, labels))
    for data in (
        TensorDataset(images, labels),
        DataLoader(TensorDataset(images, labels), batch_size=9),
        [(images[:24], labels[:24]), (images[24:], labels[24:])],
    ):
        found = cc.recover(model, result, data, epochs=3, loss=loss, options=alone)
        assert loss(found.model, (images, labels)) < before
    away = cc.recover(model, result, data, epochs=3, loss=loss, options=replace(alone, output=1e-3))
    assert away.recovery.after > away.recovery.before
    assert any("labels led away from the original" in note for note in away.recovery.notes)
    close = cc.recover(model, result, data, epochs=1, loss=loss, options=replace(QUICK, task=1e-6))
    assert not any("led away" in note for note in close.recovery.notes)
    with pytest.raises(cc.UserError, match="mosaic"):
        cc.recover(model, result, data, epochs=1, loss=loss, options=cc.RecoverOptions(augment=("mosaic",)))
    with pytest.raises(cc.UserError, match="task loss returns a Tensor of shape"):
        cc.recover(model, result, data, epochs=1, loss=lambda network, batch: network(batch[0])["logits"])


def test_a_folder_with_images_that_cannot_be_decoded(made: Any, tmp_path: Path) -> None:
    model, result, images = made
    for number, image in enumerate(images[:5]):
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).resize((20, 16)).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    found = cc.recover(model, result, tmp_path, epochs=1)
    assert found.recovery is not None
    assert found.recovery.unreadable == 1
    assert "1 of 6 images could not be decoded and were left out: 5.png." in found.recovery.notes
    assert any("less than a batch of 32" in note for note in found.recovery.notes)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG")
    with pytest.raises(cc.UserError, match=r"Of 6 images in .*, 5 cannot be decoded, which leaves 1: too few"):
        cc.recover(model, result, tmp_path, epochs=1)


def test_scratch_and_rewound_start(made: Any) -> None:
    model, result, images = made
    still: dict[str, Any] = {"learning_rate": 1e-12, "ema": 0.0, "warmup": 0.0, "held_back": 0.0}
    early = {name: tensor * 2 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    early = {**model.state_dict(), **early}
    options = cc.RecoverOptions(init="rewind", rewind=early, **still)
    found = cc.recover(model, result, images, epochs=1, options=options)
    assert torch.allclose(found.model.a.weight, result.model.a.weight * 2)
    scratch = cc.RecoverOptions(init="scratch", **still)
    state = torch.random.get_rng_state()
    one, other = (cc.recover(model, result, images, epochs=1, options=scratch) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert same(one, other)
    assert not torch.allclose(one.model.a.weight, result.model.a.weight, atol=1e-3)


def test_another_original_is_refused(made: Any) -> None:
    _, result, images = made
    with pytest.raises(cc.UserError, match="cut from another network"):
        cc.recover(nn.Sequential(nn.Conv2d(3, 4, 1)), result, images, epochs=1)
    for wrong in ({"epochs": 0}, {"epochs": 1, "options": {}}, {"epochs": 1, "loss": 3}):
        with pytest.raises(cc.UserError):
            cc.recover(made[0], result, images, **wrong)
    for wrong in ({"batch_norm": "no"}, {"batch": 0}, {"augment": ("spin",)}, {"init": "rewind"}, {"warmup": 2}):
        with pytest.raises(cc.UserError):
            cc.RecoverOptions(**wrong)


def test_augmentation_is_drawn_by_seeds_and_stays_in_range() -> None:
    images = torch.rand(6, 3, 9, 8)
    numbers = draws(6, 1, 2)
    assert torch.equal(numbers, draws(6, 1, 2))
    assert not torch.equal(numbers, draws(6, 2, 1))
    for kind in KINDS:
        changed = augmented(images, [kind], numbers)
        assert changed.shape == images.shape
        assert changed.min() >= images.min() - 1e-6
        assert changed.max() <= images.max() + 1e-6
        assert not torch.equal(changed, images)
    flipped = augmented(images, ["flip"], numbers)
    for number, image in enumerate(images):
        expected = image.flip(2) if numbers[number, 0] < 0.5 else image
        assert torch.equal(flipped[number], expected)


@pytest.mark.parametrize(
    ("dense", "compensated", "given", "expected"),
    [
        (True, False, {}, ("frozen", 8)),
        (True, False, {"batch_norm": "batch"}, ("batch", 32)),
        (True, False, {"batch": 16}, ("frozen", 16)),
        (True, True, {"init": "scratch"}, ("frozen", 32)),
        (False, False, {}, ("auto", 32)),
        (False, True, {}, ("frozen", 32)),
        (False, True, {"batch_norm": "batch"}, ("batch", 32)),
        (False, True, {"init": "scratch"}, ("auto", 32)),
        (False, False, {"batch_norm": "frozen"}, ("frozen", 32)),
    ],
)
def test_norms_stay_of_what_was_compensated_and_where_outputs_say_where_things_are(
    dense: bool, compensated: bool, given: dict[str, Any], expected: tuple[str, int]
) -> None:
    pupil: Any = SimpleNamespace(compensated=compensated)
    found = Training(None, 1, options=cc.RecoverOptions(**given)).trained(pupil, dense)
    assert (found.batch_norm, found.batch_size) == expected


@pytest.mark.parametrize("places", [False, True])
def test_outputs_with_more_than_two_axes_say_where_things_are(places: bool) -> None:
    head = [] if places else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), *head), (torch.rand(2, 3, 8, 8),), {})
    assert says_where(graph) == places


@pytest.mark.parametrize("restores", [["compensate"], ["recalibrate"], ["compensate", "recalibrate"]])
def test_a_cut_that_was_compensated_keeps_the_statistics_of_its_norms(restores: list[str]) -> None:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), *head).eval()
    images = torch.rand(128, 3, 8, 8)
    start: nn.Module = model
    for restore in restores:
        result = cc.prune(
            start, images[:1], macs=0.5 if len(restores) > 1 else 0.3, calibration=images, restore=restore
        )
        start = result.model
    options = cc.RecoverOptions(learning_rate=1e-3, augment=(), held_back=0.25)  # leaves steps of 32
    found = cc.recover(model, result, images, epochs=20, options=options)
    assert found.recovery is not None and found.recovery.after < found.recovery.before
    before, after = (dict(r.model.named_buffers())["1.running_mean"] for r in (result, found))
    assert torch.equal(before, after) == (restores[-1] == "compensate")


def test_a_detectors_heads_agree_with_themselves_alone() -> None:
    generator = torch.Generator().manual_seed(0)

    def head() -> dict[str, Any]:
        scores = torch.randn(2, 5, 30, generator=generator) - 2
        return {"scores": scores, "boxes": torch.rand(2, 4, 30, generator=generator), "feats": [scores]}

    teacher = (torch.rand(1), {"one2many": head(), "one2one": head()})
    student = (torch.rand(1), {"one2many": head(), "one2one": head()})
    none, some = heads_loss(teacher, teacher), heads_loss(teacher, student)
    assert none is not None
    assert some is not None
    assert none.abs() < 1e-5
    assert some > 0.5
    assert heads_loss(torch.rand(1), torch.rand(1)) is None


def test_rounds_reach_the_budget_and_load_in_one_step(made: Any, tmp_path: Path) -> None:
    model, _, images = made
    found = cc.prune_in_rounds(
        model, images[:1], images, rounds=2, epochs=1, macs=0.4, options=QUICK, out=tmp_path / "checkpoints"
    )
    assert 0.25 < found.plan.macs_ratio <= 0.4
    assert [(change["step"], change["round"]) for change in found.plan.changes] == [("recover", 1), ("recover", 2)]
    assert found.step.fingerprint == found.plan.fingerprint
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["round1", "round2"]
    cc.save(found, tmp_path / "out")
    loaded = cc.load(Net, tmp_path / "out")
    assert torch.equal(loaded(images)["logits"], found.model(images)["logits"])
    whole = cc.prune_in_rounds(model, images[:1], images, rounds=1, epochs=1, params=500, options=QUICK)
    assert whole.plan.after.params <= 500
    assert same(whole, cc.recover(model, cc.prune(model, images[:1], params=500), images, epochs=1, options=QUICK))
    with pytest.raises(cc.UserError, match="rounds=0"):
        cc.prune_in_rounds(model, images[:1], images, rounds=0, epochs=1, keep=0.5)


FACTORY = """
import torch
from torch import nn

def factory():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    return body, torch.rand(1, 3, 12, 12)

def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(8, 3, 12, 12, generator=generator), torch.zeros(8, 4, 10, 10)) for _ in range(6)]

def loss(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()
"""


def test_compress_recovers_and_reports(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "det.py").write_text(FACTORY)
    out = tmp_path / "out"
    command = ["compress", f"{tmp_path}/det.py:factory", "--keep", "0.5", "--align", "1", "--no-engine", "--no-bench"]
    command += ["--labels", "--importance", "taylor", "--sparsify", "1"]
    command += ["--out", str(out), "--recover", "2", "--batch-norm", "recalibrate", "--rounds", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "recovered: 2 epochs of 5 images, 10 steps, the original as teacher, with labels" in " ".join(
        printed.split()
    )
    report = json.loads((out / "report.json").read_text())
    assert report["recovery"]["labels"] is True
    before = load_plan(out).changes
    assert [change["step"] for change in before] == ["sparsify", *["compensate", "recover", "recalibrate"] * 2]
    assert [change["round"] for change in before] == [0, 1, 1, 1, 2, 2, 2]
    assert load_plan(out).options["scored_by"] == "labels"
    assert "Loss on images held back" in (out / "report.html").read_text()
    assert not list(tmp_path.glob(".out*"))
    again = ["recover", str(out), "--epochs", "1", "--out", str(tmp_path / "again"), "--learning-rate", "1e-4"]
    again += ["--augment", "none", "--patience", "1", "--device", "cpu", "--seed", "3"]
    assert main(again) == 0
    assert "1 epochs, 5 steps, with labels, loss on images held back" in " ".join(capsys.readouterr().out.split())
    changes = load_plan(tmp_path / "again").changes
    assert [change["step"] for change in changes] == [*(change["step"] for change in before), "recover"]
    assert main(again) == 2
    assert "exists. Nothing was changed" in capsys.readouterr().err
    (tmp_path / "det.py").write_text(FACTORY.replace("seed(0)", "seed(1)"))
    assert main([*again, "--force"]) == 2
    assert "and other weights, so that its channels" in capsys.readouterr().err
    assert main([*command[:7], "--out", str(out), "--batch-norm", "batch"]) == 2
    assert "--batch-norm says how a recovery trains, and none is asked for" in capsys.readouterr().err


TWO = """
import sys, torch, channelcut as cc
sys.path.insert(0, {tests!r})
from test_recover import Net, QUICK
torch.set_num_threads(1)
torch.manual_seed(0)
model, images = Net().eval(), torch.rand(40, 3, 12, 12)
found = cc.recover(model, cc.prune(model, images[:1], keep=0.5), images, epochs=2, options=QUICK, out=sys.argv[1])
torch.save(found.model.state_dict(), sys.argv[1] + "/" + __import__("os").environ.get("RANK", "alone") + ".pt")
"""


def test_the_average_follows_the_weights() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    options = cc.RecoverOptions(learning_rate=1e-3, ema=0.9, device="cpu")
    state = State(network, [], [], options, processes(torch.device("cpu")), 4)
    for step, share in ((0, 1 - 1 / 10), (1000, 0.1)):  # what the average takes over of the weights: less and less
        for tapped in (state.student, state.average):
            fill(tapped.module, {name: t + (tapped is state.student) for name, t in named_tensors(network).items()})
        state.step = step
        state._averaged()
        for name, tensor in named_tensors(state.average.module).items():
            moved = tensor - named_tensors(network)[name]
            assert torch.allclose(moved.float(), torch.tensor(share if moved.is_floating_point() else 1.0)), name


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for out, command in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])):
        done = subprocess.run(
            [sys.executable, *command, str(script), str(tmp_path / out)],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt") for rank in (0, 1))
    alone = torch.load(tmp_path / "one" / "alone.pt")  # with statistics that stay, as QUICK has few inputs
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert torch.allclose(tensor, alone[name], atol=1e-5), name


def test_a_recovery_within_a_budget_of_time_goes_on_with_its_cut(tmp_path: Path, monkeypatch: Any) -> None:
    """Measured times, and so plans, differ from run to run."""
    (tmp_path / "det.py").write_text(FACTORY.replace("16", "64"))
    plans: list[Any] = []
    killed = [True]

    def cut(*given: Any, **asked: Any) -> Any:
        plans.append(cc.prune(*given, **asked | {"latency": asked["latency"] - 0.1 * len(plans)}))
        return plans[-1]

    def recovered(*given: Any) -> Any:
        if killed.pop() if killed else False:
            raise KeyboardInterrupt
        return rounds_recovered(*given)

    rounds_recovered = rounds.recovered
    monkeypatch.setattr(rounds, "prune", cut)
    monkeypatch.setattr(rounds, "recovered", recovered)
    command = ["compress", f"{tmp_path}/det.py:factory", "--target", "avx2", "--no-engine", "--no-bench", "--quiet"]
    command += ["--out", str(tmp_path / "out"), "--recover", "1", "--learning-rate", "1e-4", "--latency"]
    assert main([*command, "0.7"]) == 130
    assert main([*command, "0.7"]) == 0
    assert len(plans) == 1
    found = load_plan(tmp_path / "out")
    assert found.kept == plans[0].plan.kept
    assert [change["step"] for change in found.changes] == ["compensate", "recover"]
    assert not list(tmp_path.glob(".out*"))
    killed.append(True)
    assert main([*command, "0.6", "--force"]) == 130
    assert main([*command, "0.7", "--force"]) == 0, "another budget is another cut"
    assert len(plans) == 3


def test_the_flags_of_a_training_reach_it() -> None:
    from argparse import ArgumentParser

    from channelcut.cli import recovery_flags

    parser = ArgumentParser()
    recovery_flags.add_training(parser)
    given = ["--augment", "flip, scale", "--patience", "2", "--device", "cpu", "--seed", "0", "--batch-norm", "frozen"]
    found = recovery_flags.read_training(parser.parse_args(given))
    expected = {"augment": ("flip", "scale"), "patience": 2, "device": "cpu", "seed": 0, "batch_norm": "frozen"}
    assert found == cc.RecoverOptions(**expected)
    assert recovery_flags.read_training(parser.parse_args(["--augment", "none"])).augment == ()
    with pytest.raises(cc.UserError, match="mosaics"):
        recovery_flags.read_training(parser.parse_args(["--augment", "mosaics"]))
    for given in (["--init", "rewind"], ["--rewind", "epoch5.pt"], ["--init", "cut", "--rewind", "epoch5.pt"]):
        with pytest.raises(cc.UserError, match=r"^--init rewind and --rewind FILE go together"):
            recovery_flags.read_training(parser.parse_args(given))
