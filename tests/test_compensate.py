"""Compensation: what a removed channel shared with those that are left is won back, in every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut import restoring
from channelcut.core.deployed import Deploy
from channelcut.core.result import PruneResult
from channelcut.core.tensors import weights_fingerprint
from channelcut.recovery import chunks
from channelcut.recovery.compensate import _CONSTANT, _NO_GAIN, _held
from channelcut.recovery.layers import layers_of, reordered
from channelcut.recovery.rows import sample
from channelcut.tracing import trace

BEHIND: dict[str, Callable[[], list[nn.Module]]] = {
    "strided and dilated": lambda: [nn.Conv2d(8, 4, 3, stride=2, padding=2, dilation=2)],
    "without a bias": lambda: [nn.Conv2d(8, 4, (1, 3), bias=False)],
    "with a batch norm": lambda: [nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)],
    "grouped": lambda: [nn.Conv2d(8, 8, 3, groups=2)],
    "transposed": lambda: [nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, dilation=1)],
    "transposed, grouped": lambda: [nn.ConvTranspose2d(8, 4, 2, groups=2)],
    "linear": lambda: [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)],
    "linear, without a bias": lambda: [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5, bias=False)],
}


def twice(layer: nn.Conv2d) -> nn.Conv2d:
    """Give the second half of a layer's filters, by turns, what the first has: half of them lose nothing when cut."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor[1::2] = tensor[::2]
    return layer


def cut(model: nn.Module, x: Tensor, tensor: str, kept: list[int], **options: Any) -> PruneResult:
    """A cut of chosen channels, before anything is restored."""
    groups = cc.analyze(model, x, **options)
    plan = cc.plan(model, groups, keep=0.5).with_kept(tensor, kept)
    small = cc.apply(model, plan).eval()
    return PruneResult(small, plan, cc.prove(model, small, plan, x), groups, plan)


def distance(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = one(x)
        return float((other(x) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("kind", BEHIND)
def test_a_layer_that_reads_twins_gives_what_it_gave_without_one_of_them(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(twice(nn.Conv2d(3, 8, 3)), nn.ReLU(), *BEHIND[kind]()).eval()
    x = torch.rand(40, 3, 9, 9)
    result = cut(model, x[:1], "0.weight", [0, 2, 4, 6], grouped="offsets")
    before = weights_fingerprint(result.model), weights_fingerprint(model)
    done = cc.compensate(model, result, x)
    assert done.compensation is not None and done.compensation.refitted == 1
    assert distance(model, done.model, x) < 1e-4
    assert distance(model, result.model, x) > 1e-2
    assert before == (weights_fingerprint(result.model), weights_fingerprint(model))
    assert done.plan.changes[-1]["step"] == "compensate" and done.plan.changes[-1]["layers"] == 1
    assert sorted(name for name, _ in done.model.named_parameters()) == sorted(n for n, _ in model.named_parameters())


class Joined(nn.Module):
    """Two branches side by side, one of which is depthwise, and a residual stream behind."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = twice(nn.Conv2d(3, 8, 3, padding=1)), nn.Conv2d(3, 8, 3, padding=1)
        self.own = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.stem, self.norm = nn.Conv2d(16, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.outer = twice(nn.Conv2d(6, 8, 3, padding=1)), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.after, self.short = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([torch.relu(self.own(self.left(x))), torch.relu(self.right(x))], 1)
        stream = torch.relu(self.norm(self.stem(joined)))
        return self.after(self.outer(torch.relu(self.inner(stream)))) + self.short(stream)


def test_the_sum_of_a_residual_stream_is_reproduced() -> None:
    torch.manual_seed(0)
    model, x = Joined().eval(), torch.rand(32, 3, 8, 8)
    with torch.no_grad():
        model.own.weight[1::2], model.own.bias[1::2] = model.own.weight[::2], model.own.bias[::2]
    result = cut(model, x[:1], "left.weight", [0, 2, 4, 6])
    done = cc.compensate(model, result, x)
    assert done.compensation is not None
    assert distance(model, done.model, x) < 0.2 * distance(model, result.model, x)
    graph = trace(model, (x,))
    layers = {layer.module: layer for layer in layers_of(graph, ["left.weight"])[0]}
    assert layers["outer"].added and layers["outer"].norm == "after.running_mean" and layers["stem"].norm
    order = [node.index for node in reordered(graph, list(layers.values()))]
    assert order.index(layers["outer"].added[0]) < order.index(layers["outer"].node)
    assert sorted(order) == list(range(len(order)))


def test_the_same_images_give_the_same_weights() -> None:
    torch.manual_seed(0)
    model, x = Joined().eval(), torch.rand(16, 3, 8, 8)
    drawn = torch.get_rng_state()
    found = [cc.prune(model, x[:1], keep=0.5, calibration=x) for _ in range(2)]
    assert weights_fingerprint(found[0].model) == weights_fingerprint(found[1].model)
    assert torch.equal(drawn, torch.get_rng_state())


def test_what_a_gpu_cannot_do_is_done_where_the_network_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta` nothing has values, as on a GPU that is full or lacks an op nothing comes out."""
    tried: list[torch.device] = []
    move = nn.Module.to

    def to(module: nn.Module, device: torch.device) -> nn.Module:
        tried.append(device)
        return move(module, device)

    torch.manual_seed(0)
    model, images = Joined().eval(), torch.rand(64, 3, 8, 8)
    result = cc.prune(model, images[:1], keep=0.5)
    monkeypatch.setattr(restoring, "accelerator", lambda _: torch.device("cpu"))
    here = cc.compensate(model, result, images)
    monkeypatch.setattr(restoring, "accelerator", lambda _: torch.device("meta"))
    monkeypatch.setattr(nn.Module, "to", to)
    there = cc.compensate(model, result, images)
    assert [device.type for device in tried[:3]] == ["meta", "meta", "cpu"]
    assert there.compensation is not None and there.compensation.refitted
    for name, tensor in here.model.state_dict().items():
        assert torch.equal(tensor, there.model.state_dict()[name])


def test_shared_and_computed_weights_stay_and_are_listed() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(self.again(self.again(self.first(x))), self.last.weight * 2)

    torch.manual_seed(0)
    model, x = Shared().eval(), torch.rand(8, 3, 6, 6)
    result = cc.prune(model, x[:1], keep=0.5, calibration=x)
    assert result.compensation is not None
    assert result.compensation.skipped["again"] == "its weight is read in several places"
    assert "its weight is computed" in result.compensation.skipped.values()


def test_a_layer_that_no_output_speaks_for_stays_as_it_was_cut() -> None:
    """The fixed numbers of a decoder, say, whose inputs are weighed: how they may change without harm is not known."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.seen, self.unseen = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.first(x).relu()
            return self.seen(found), self.unseen(found)

    torch.manual_seed(0)
    model, x = TwoHeads().eval(), torch.rand(16, 3, 6, 6)
    result = cc.prune(model, x[:1], keep=0.5, calibration=x, restore="none", deploy=Deploy(outputs=("0",)))
    done = cc.compensate(model, result, x)
    assert done.compensation is not None and [row.layer for row in done.compensation.layers] == ["seen"]
    assert done.compensation.skipped["unseen"].startswith("no output that counts depends on it")
    assert torch.equal(done.model.unseen.weight, result.model.unseen.weight)  # type: ignore[union-attr, arg-type]


def test_a_refit_that_does_not_lower_the_error_is_not_taken() -> None:
    """Of the images held back nothing is lost by the cut, so that nothing can be won."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False)).eval()
    images = torch.rand(20, 3, 6, 6)
    images[_held(20)] = 0
    result = cc.prune(model, images[:1] + 1, keep=0.5)
    done = cc.compensate(model, result, images)
    assert done.compensation is not None and done.compensation.refitted == 0
    assert [(row.layer, row.kept) for row in done.compensation.layers] == [("2", _NO_GAIN)]
    assert weights_fingerprint(done.model) == weights_fingerprint(result.model)


def test_a_layer_whose_inputs_are_constant_stays() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.still, self.reads, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.reads(self.still(x).relu()) * self.other(x)

    torch.manual_seed(0)
    model, images = Beside().eval(), torch.rand(20, 3, 6, 6)
    with torch.no_grad():
        model.still.weight.zero_()
        model.still.bias.copy_(torch.arange(8) + 1.0)
    result = cut(model, images[:1], "still.weight", [4, 5, 6, 7])
    done = cc.compensate(model, result, images)
    assert done.compensation is not None and done.compensation.refitted == 0
    assert [(row.layer, row.kept) for row in done.compensation.layers] == [("reads", _CONSTANT)]
    assert weights_fingerprint(done.model) == weights_fingerprint(result.model)


@pytest.mark.parametrize(
    ("images", "why"),
    [(torch.ones(1, 3, 6, 6).expand(8, -1, -1, -1), "the same"), (torch.rand(1, 3, 6, 6), "one image")],
)
def test_images_that_determine_nothing_are_named_and_leave_recalibration(images: Tensor, why: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    result = cc.prune(model, torch.rand(1, 3, 6, 6), keep=0.5, calibration=images)
    assert result.compensation is not None and why in result.compensation.refused
    assert [change["step"] for change in result.plan.changes] == ["recalibrate"]


def test_restore_says_what_is_done() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    x = torch.rand(8, 3, 6, 6)
    steps = {
        choice: [
            change["step"] for change in cc.prune(model, x[:1], keep=0.5, calibration=x, restore=choice).plan.changes
        ]
        for choice in ("compensate", "recalibrate", "none")
    }
    assert steps == {"compensate": ["compensate"], "recalibrate": ["recalibrate"], "none": []}
    with pytest.raises(cc.UserError, match="restore='all' is unknown"):
        cc.prune(model, x[:1], keep=0.5, restore="all")


@pytest.mark.parametrize("batch", [1, 5])
def test_how_large_batches_are_changes_no_result(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(36, 3)
    ).eval()
    x = torch.rand(20, 3, 9, 9) * torch.linspace(0.1, 2, 20)[:, None, None, None]
    result = cut(model, x[:1], "0.weight", [0, 3, 4, 6])
    weights = []
    for size in (16, batch):
        monkeypatch.setattr(restoring, "LARGEST", size)
        done = cc.compensate(model, result, x)
        assert done.compensation is not None and done.compensation.images == 20
        weights.append(torch.cat([value.flatten() for value in done.model.state_dict().values()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_what_others_take_of_the_memory_for_a_while_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (20, 13, 4):
        monkeypatch.setattr(chunks, "_main_memory", lambda free=free: (free << 30, 24 << 30))
        found.append(chunks.usable_memory(torch.device("cpu")) / 2**30)
    assert found == [6, 6, 2]
    monkeypatch.undo()
    free, whole = chunks._main_memory()
    assert 0 < free <= whole


def test_the_positions_of_an_image_depend_on_its_number_alone() -> None:
    weights = torch.rand(6, 50, generator=torch.Generator().manual_seed(0))
    drawn, counted = sample(weights, 10, 0)
    for batch in (1, 2, 3):
        parts = [sample(weights[start : start + batch], 10, start) for start in range(0, 6, batch)]
        assert torch.equal(torch.cat([part[0] for part in parts]), drawn)
        assert torch.equal(torch.cat([part[1] for part in parts]), counted)
    many, stands = sample(weights[:1].expand(4000, -1), 10, 0)
    assert len(many.unique()) == 50
    assert stands.sum(1).mean() == pytest.approx(50, rel=0.01)


class Reader(nn.Module):
    """Columns of an image, one after another."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3)
        self.read, self.head = getattr(nn, kind)(12, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.b(torch.relu(self.a(x))).mean(2).transpose(1, 2)
        return self.head(self.read(columns)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.filterwarnings("error")
def test_what_matters_is_known_before_a_recurrent_layer_too(kind: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 16, 16)
    result = cc.prune(Reader(kind).eval(), images[:1], macs=0.5, calibration=images, importance="fisher")
    assert result.compensation is not None
    assert result.compensation.weighted
    assert "b" in {refit.layer for refit in result.compensation.layers}
    assert "recurrent" in str(result.compensation.skipped)


def test_a_model_with_other_weights_than_those_that_were_cut_is_refused() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), torch.rand(16, 3, 8, 8)
    result = cc.prune(model, x[:1], keep=0.5)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    with pytest.raises(cc.UserError, match="other weights"):
        cc.compensate(model, result, x)


def test_images_that_are_not_finite_are_refused() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), torch.rand(16, 3, 8, 8)
    result = cc.prune(model, x[:1], keep=0.5)
    x[3, 0, 0, 0] = torch.inf
    with pytest.raises(cc.UserError, match="NaN or infinity"):
        cc.compensate(model, result, x)
