"""Criteria that read images, against independent implementations; what a channel costs in the ranking."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import build, example
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import channelcut as cc
from channelcut.allocation import Budget, allocate
from channelcut.allocation.descent import descend
from channelcut.core.errors import UserError
from channelcut.core.sensitivity import Weighing, differentiable, projections
from channelcut.core.tensors import named_tensors
from channelcut.cost import network_costs
from channelcut.labelled import rereadable, targets_of
from channelcut.ranking import Criterion, ranking_notes
from channelcut.scoring import SAMPLED, Sample, names, sampled_score, score
from channelcut.scoring.gradients import NORMS, READERS, derivatives
from channelcut.scoring.reconstruction import Elimination, prices

IMAGES = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(3))
NAMED = sorted(SAMPLED)


def lively(name: str) -> nn.Module:
    """A network whose norms scale and shift; frozen, as a checkpoint may be."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build(name)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.requires_grad_(False)


def sample(images: Tensor = IMAGES) -> Sample:
    return Sample([((part,), {}) for part in torch.split(images, 4)])


def by_gates(model: nn.Module, places: dict[str, bool], count: int) -> np.ndarray:
    """d L / d gate for each image: a factor of ones on what these modules return, or (True) on what they are given."""
    clone, weighed = differentiable(model), projections(differentiable(model), sample().batches)
    found = []
    for number, image in enumerate(IMAGES):
        gate = torch.ones(1, count, 1, 1, requires_grad=True)
        hooks = [
            clone.get_submodule(path).register_forward_pre_hook(lambda _, args, gate=gate: (args[0] * gate,))
            if given
            else clone.get_submodule(path).register_forward_hook(lambda *call, gate=gate: call[2] * gate)
            for path, given in places.items()
        ]
        weighed.of(clone(image[None]), number).backward()
        assert gate.grad is not None
        found.append(gate.grad.flatten().numpy())
        for hook in hooks:
            hook.remove()
    return np.array(found)


def test_derivatives_are_those_of_a_factor_on_the_channel() -> None:
    """A residual stream: both norms that add to it, and of group Fisher the layer that reads it inside the block."""
    model = lively("Residual")
    groups = cc.analyze(model, example())
    stream = next(group for group in groups.groups if group.width == 16)
    norms = derivatives(groups, model, sample(), NORMS)[:, stream.channels]
    assert np.allclose(norms, by_gates(model, {"stem.1": False, "b.1": False}, 16), rtol=1e-3, atol=1e-6)
    inner = next(group for group in groups.groups if group.width == 24)
    readers = derivatives(groups, model, sample(), READERS)[:, inner.channels]
    assert np.allclose(readers, by_gates(model, {"b.0": True}, 24), rtol=1e-3, atol=1e-6)
    found = {name: SAMPLED[name].of(groups, model, sample()) for name in ("fisher", "taylor")}
    assert np.allclose(found["fisher"][stream.channels], np.square(norms).mean(0))
    assert np.allclose(found["taylor"][stream.channels], np.abs(norms).mean(0))


def test_with_a_loss_the_derivatives_are_of_labels() -> None:
    """Of a frozen network, image by image, whether the labels come in batches or one by one."""
    model, labels = lively("Residual"), torch.arange(6) % 3
    groups = cc.analyze(model, example())
    stream = next(group for group in groups.groups if group.width == 16)

    def loss(network: nn.Module, batch: Any) -> Tensor:
        assert len(batch[0]) == len(batch[1]) == 1
        return F.cross_entropy(network(batch[0]).flatten(1)[:, :3], batch[1])

    wanted, clone = [], differentiable(model)
    for image, label in zip(IMAGES, labels, strict=True):
        gate = torch.ones(1, 16, 1, 1, requires_grad=True)
        hooks = [
            clone.get_submodule(path).register_forward_hook(lambda *call, gate=gate: call[2] * gate)
            for path in ("stem.1", "b.1")
        ]
        loss(clone, (image[None], label[None])).backward()
        wanted.append(gate.grad.flatten().numpy())  # type: ignore[union-attr]
        for hook in hooks:
            hook.remove()
    batches = [(IMAGES[:4], labels[:4]), (IMAGES[4:], labels[4:])]
    for given in (iter(batches), TensorDataset(IMAGES, labels), DataLoader(TensorDataset(IMAGES, labels), 4)):
        targets = targets_of(model, rereadable(given, twice=loss is not None), loss, ((example(),), {}))
        found = derivatives(groups, model, Sample((), targets=targets), NORMS)
        assert np.allclose(found[:, stream.channels], np.array(wanted), rtol=1e-3, atol=1e-6)
    plan = cc.plan(model, groups, keep=0.5, importance="taylor", calibration=batches, loss=loss)
    assert (plan.options["scored_by"], plan.options["scored_images"]) == ("labels", 6)


def test_what_no_loss_can_be_taken_of_is_said() -> None:
    model, labels = lively("Residual"), torch.arange(6)
    batches, groups = [(IMAGES, labels)], cc.analyze(model, example(), probe=False)
    loss: Any = lambda network, batch: network(batch[0]).mean() * batch[1].sum()  # noqa: E731

    def said(text: str, **asked: Any) -> None:
        with pytest.raises(UserError, match=text):
            cc.plan(model, groups, keep=0.5, **{"calibration": batches, "loss": loss, **asked})

    said("'l2' does not read labels.* fisher, taylor, group-fisher", importance="l2")
    said("'reconstruction' does not read labels", importance="reconstruction")
    said("calibration= has none", calibration=IMAGES)
    said("no labels to rank", loss="library")
    said("a part of shape .3,., which is not one for each image", calibration=[(IMAGES, labels[:3])])
    said("The task loss returns an int", loss=lambda *_: 0)
    said("The task loss has no gradient", loss=lambda network, batch: network(batch[0]).mean().detach())
    said("are not finite", loss=lambda network, batch: network(batch[0]).mean() * float("nan"))


def test_without_norms_the_weights_that_produce_a_channel_are_its_gate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    groups = cc.analyze(model, example())
    found = derivatives(groups, model, sample(), NORMS)[:, groups.groups[0].channels]
    assert np.allclose(found, by_gates(model, {"0": False}, 6), rtol=1e-3, atol=1e-6)


def test_activation_energy_is_of_what_is_read() -> None:
    model = lively("Chain")
    groups = cc.analyze(model, example())
    first = next(group for group in groups.groups if group.width == 12)
    energy = model.a(IMAGES).square().mean((0, 2, 3)).numpy()
    found = SAMPLED["activation"].of(groups, model, sample())[first.channels]
    assert np.allclose(found, energy / energy.mean(), rtol=1e-4)


def test_fpgm_agrees_with_torch_pruning_on_one_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    groups = cc.analyze(model, example())
    weight = model[0].weight.detach().flatten(1)
    expected = (weight[:, None] - weight[None]).norm(dim=2).sum(1).numpy()
    found = score(groups, named_tensors(model), "fpgm")[groups.groups[0].channels]
    assert np.allclose(found, expected / expected.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", NAMED)
def test_every_named_criterion_prunes_and_leaves_model_and_process_alone(name: str) -> None:
    model = lively("C2f")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    groups = cc.analyze(model, example())
    one, two = (cc.plan(model, groups, macs=0.6, importance=name, calibration=IMAGES) for _ in range(2))
    assert one == two and one.options["importance"] == name and one.options["scored_images"] == 6
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    if name == "fisher":
        pruned = cc.prune(model, example(), macs=0.6, importance=name, calibration=IMAGES)
        assert pruned.proof.passed and pruned.plan.kept == one.kept


def test_images_choose_the_criterion_and_the_plan_says_so() -> None:
    model, groups = lively("Chain"), cc.analyze(lively("Chain"), example())
    assert cc.plan(model, groups, keep=0.5).options["importance"] == "l2"
    options = cc.plan(model, groups, params=0.5, calibration=IMAGES).options
    assert (options["importance"], options["scored_images"], options["unit"]) == ("fisher", 6, "loss per params")
    assert Criterion(None, [((IMAGES,), {})], detects=True).chosen == "taylor"


def test_reports_say_what_a_criterion_does_not_know() -> None:
    model, groups = lively("Chain"), cc.analyze(lively("Chain"), example())
    (note,) = ranking_notes(cc.plan(model, groups, keep=0.5))
    assert "ranked by l2, which looks at weights alone. Magnitude is no importance for a detector" in note
    assert not ranking_notes(cc.plan(model, groups, keep=0.5, calibration=IMAGES))
    blind = Detached(alone=False).eval()
    plan = cc.plan(blind, cc.analyze(blind, example()), macs=0.8, calibration=IMAGES)
    (note,) = ranking_notes(plan)
    assert note.startswith("No gradient of the outputs reaches a.weight (a head that reads detached features")


def test_what_cannot_be_scored_is_said() -> None:
    model, groups = lively("Chain"), cc.analyze(lively("Chain"), example())
    with pytest.raises(cc.UserError, match=r"'fisher' is computed of images, and there are none.*calibration=.*--data"):
        cc.plan(model, groups, keep=0.5, importance="fisher")
    with pytest.raises(cc.UserError, match="outputs of the network are not finite on the calibration images"):
        cc.plan(model, groups, keep=0.5, importance="fisher", calibration=IMAGES * float("nan"))


class Detached(nn.Module):
    """A head that reads detached features, beside one that does not, or alone."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(*shape, 1) for shape in ((3, 8), (3, 8), (8, 2), (8, 2)))
        self.alone = alone

    def forward(self, x: Tensor) -> Any:
        blind = self.c(torch.relu(self.a(x)).detach())
        return blind if self.alone else (blind, self.d(torch.relu(self.b(x))))


def test_what_no_gradient_reaches_goes_last_and_is_named() -> None:
    model = Detached(alone=False).eval()
    plan = cc.plan(model, cc.analyze(model, example()), macs=0.6, importance="taylor", calibration=IMAGES)
    assert plan.options["unseen"] == ["a.weight"]
    assert {group.name: group.kept for group in plan.groups}["a.weight"] == 8
    alone = Detached(alone=True).eval()
    with pytest.raises(cc.UserError, match="No gradient"):
        cc.plan(alone, cc.analyze(alone, example()), macs=0.6, importance="taylor", calibration=IMAGES)


def test_a_channel_is_worth_its_loss_per_cost() -> None:
    """Two layers of equal losses: the one whose channels cost more gives more of them, whichever cost is limited."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 7, 1, 3), nn.Conv2d(16, 16, 3, 1, 1)
            self.pool, self.c = nn.MaxPool2d(4), nn.Conv2d(16, 16, 5, 1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.pool(self.b(self.a(x))))

    model = Two().eval()
    groups = cc.analyze(model, torch.rand(1, 3, 16, 16))
    costs = network_costs(model, groups)
    losses = np.where(groups.group_of() >= 0, 1.0, np.inf)
    first, second = groups.groups
    kept = {
        name: allocate(groups, losses, Budget(**{name: 0.8}), costs, unit="loss").kept for name in ("macs", "params")
    }
    assert kept["macs"][first.channels].sum() < kept["macs"][second.channels].sum()
    assert kept["params"][second.channels].sum() < kept["params"][first.channels].sum()


def test_descent_takes_the_least_loss_per_unit_saved() -> None:
    cost = lambda widths: float(3 * widths[0] + widths[0] * widths[1] + widths[1])  # noqa: E731
    losses = [np.array([9.0, 4.0, 1.0, 0.0]), np.array([5.0, 0.9, 0.8, 0.0])]
    steps = [np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4])]
    widths = np.array([4, 4])
    while cost(widths) > 14:  # the same, looking at every step every time
        ratios = []
        for g in range(2):
            trial = widths - np.eye(2, dtype=int)[g]
            more = losses[g][widths[g] - 2] - losses[g][widths[g] - 1]
            ratios.append(more / (cost(widths) - cost(trial)) if widths[g] > 1 else np.inf)
        widths = widths - np.eye(2, dtype=int)[int(np.argmin(ratios))]
    assert descend(losses, steps, cost, 14).tolist() == widths.tolist()


def test_unseen_groups_are_told_from_undeployed_ones() -> None:
    model = Detached(alone=False).eval()
    groups = cc.analyze(model, example())
    fallback = score(groups, named_tensors(model))
    found = sampled_score(groups, model, "fisher", sample(), fallback)
    assert found.unseen == ("a.weight",)
    blind, seen = (next(g for g in groups.groups if g.name == f"{n}.weight").channels for n in "ab")
    assert found.values[blind].min() > found.values[seen].max()


def test_reconstruction_prices_what_a_refit_cannot_make_up_for() -> None:
    """The sums of prices are the errors of the sets that have gone; a combination of others costs nothing."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    features = features @ torch.randn(8, 8, generator=generator, dtype=torch.float64)
    features[:, 5] = features[:, 1] + 0.5 * features[:, 2]
    weights = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    second = features.T @ features / 500 + 1e-8 * torch.eye(8, dtype=torch.float64)
    lane = np.arange(1, 9)
    found = prices(lane, [Elimination(lane, torch.linalg.inv(second), weights.T.clone())])
    order = np.argsort(found, kind="stable")
    assert found[order[0]] < 1e-6 and order[0] in (1, 2, 5)
    for count in range(1, 6):
        gone, kept = order[:count], np.sort(order[count:])
        left = torch.linalg.solve(second[np.ix_(kept, kept)], second[np.ix_(kept, gone)])
        missed = second[np.ix_(gone, gone)] - second[np.ix_(gone, kept)] @ left
        error = float(torch.trace(weights[:, gone] @ missed @ weights[:, gone].T))
        assert found[gone].sum() == pytest.approx(error, rel=0.02, abs=1e-5)  # a price is not below the one before


def test_a_stream_is_priced_over_all_that_read_it_and_a_copy_is_free() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(self.a(x))
            return self.c(y), self.b(y)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Stream().eval()
    with torch.no_grad():
        model.a.weight[3], model.a.bias[3] = model.a.weight[6], model.a.bias[6]
    groups = cc.analyze(model, example())
    lane = groups.groups[0].lanes[0]
    whole = SAMPLED["reconstruction"].of(groups, model, sample())[lane]
    assert int(np.argmin(whole)) in (3, 6) and np.sort(whole)[0] < 0.1 * np.sort(whole)[1]
    copy = Sample(sample().batches, Weighing(lambda result: result[:1]))  # the strided reader is not seen
    assert SAMPLED["reconstruction"].of(groups, model, copy)[lane].sum() < whole.sum()


def test_the_page_lists_every_name() -> None:
    page = (Path(__file__).parent.parent / "docs" / "scores.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {*names(), "tp:NAME"}
