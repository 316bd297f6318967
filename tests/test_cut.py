"""Cut and proof: removed equals masked, on every kind of coupling, and a wrong cut is caught in every kind of slot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import NETWORKS, build, example
from torch import Tensor, nn

import channelcut as cc
from channelcut.allocation import Budget, allocate
from channelcut.core.tensors import named_tensors, select
from channelcut.cost import network_costs
from channelcut.cutting import cut, make_plan
from channelcut.proof.prover import Lockstep
from channelcut.scoring import score
from channelcut.steps import Cuts
from channelcut.tracing import trace


@pytest.mark.parametrize("front_end", ["export", "dispatch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_cut_is_proven(name: str, front_end: str) -> None:
    model = build(name)
    result = cc.prune(model, example(), keep=0.5, tracer=front_end)
    assert result.proof.passed
    assert result.proof.max_relative_error < 1e-9
    assert result.proof.signal > 1e-3
    assert result.proof.training == "passed"
    assert sum(p.numel() for p in result.model.parameters()) == result.plan.after.params < result.plan.before.params
    assert [tuple(o.shape) for o in leaves(result.model(example()))] == [
        tuple(o.shape) for o in leaves(model(example()))
    ]


def leaves(outputs: object) -> list[torch.Tensor]:
    return [o for o in torch.utils._pytree.tree_leaves(outputs) if isinstance(o, torch.Tensor)]


# A layer norm counts zeros, a weight norm divides by them.
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("Norms", "OwnNorm", "WeightNorm", "ChannelsLast")])
def test_a_check_of_the_cut_without_our_code(name: str) -> None:
    """plan.kept alone: zero what it drops in the original, and the outputs agree with the cut model's."""
    model = build(name).double()
    result = cc.prune(build(name), example(), keep=0.5)
    for tensor_name, axes in result.plan.kept.items():
        tensor = named_tensors(model)[tensor_name]
        for axis, positions in axes.items():
            dropped = sorted(set(range(tensor.shape[axis])) - set(positions))
            if not tensor_name.endswith("running_var"):
                tensor.data.index_fill_(axis, torch.tensor(dropped), 0.0)
    with torch.no_grad():
        for a, b in zip(
            leaves(model(example().double())), leaves(result.model.double()(example().double())), strict=True
        ):
            assert torch.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("runs", [0, 1])
def test_a_model_that_has_run_is_cut_like_one_that_has_not(runs: int) -> None:
    """What a forward has stored of its shapes makes the cut model's first forward another one than its second."""
    model = build("Anchored")
    for _ in range(runs):
        model(example())
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed
    assert (result.model.a[0].out_channels, result.model.b[0].out_channels) == (6, 4)
    assert torch.equal(result.model(example()), result.model(example()))


MANY = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
"""Enough inputs that no rectifier is dead for all of them."""


def planned(name: str, front_end: str = "dispatch") -> tuple[nn.Module, cc.Groups, np.ndarray, cc.Plan]:
    model = build(name)
    groups = cc.analyze(model, MANY, tracer=front_end)
    costs = network_costs(model, groups)
    kept = allocate(groups, score(groups, named_tensors(model)), Budget(keep=0.5), costs).kept
    return model, groups, kept, make_plan(model, groups, kept, costs)


@pytest.mark.parametrize(
    "name", ["C2f", "Depthwise", "Grouped", "Transposed", "Norms", "Shared", "Flattened", "Attention"]
)
def test_a_planted_error_is_caught_in_every_slot(name: str) -> None:
    """Shift what one slot believes about its channels; mask and cut follow, and the proof must see it."""
    model, groups, kept, plan = planned(name)
    cut_slots = [s for s in groups.slots if s.axis in plan.kept.get(s.tensor, {})]
    assert len(cut_slots) >= 5
    for planted in cut_slots:
        shifted = dataclasses.replace(planted, channels=np.roll(planted.channels, 1))
        misread = dataclasses.replace(groups, slots=tuple(shifted if s is planted else s for s in groups.slots))
        bad = make_plan(model, misread, kept, network_costs(model, misread))
        proof = Cuts(model, misread, ((MANY,), {})).proof(cut(model, bad), bad, kept)
        assert not proof.passed, (planted.tensor, planted.axis)
        assert any("differs by" in failure for failure in proof.failures), proof.failures


def test_a_plan_that_keeps_other_positions_is_caught() -> None:
    model, groups, kept, plan = planned("C2f")
    wrong = (*(p + 1 for p in plan.kept["cv2.0.weight"][1][:-1]), 35)
    bad = dataclasses.replace(plan, kept={**plan.kept, "cv2.0.weight": {**plan.kept["cv2.0.weight"], 1: wrong}})
    proof = Cuts(model, groups, ((MANY,), {})).proof(cut(model, bad), bad, kept)
    assert proof.failures == ("the plan's positions of cv2.0.weight are not those of the kept channels",)


def test_tampered_weights_are_caught() -> None:
    model, groups, kept, plan = planned("C2f")
    smaller = cut(model, plan)
    with torch.no_grad():
        smaller.get_submodule("m.0.0").weight[0, 0, 0, 0] += 1e-4
    proof = Cuts(model, groups, ((MANY,), {})).proof(smaller, plan, kept)
    assert not proof.passed
    assert "m.0.0.weight is not the selection" in proof.failures[0]


def test_a_deep_network_with_default_weights_still_shows_a_swap() -> None:
    """Outputs alone would hide it: the comparison at consumers, in their own units, does not."""
    layers = [
        m for i in range(12) for m in (nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU())
    ]
    model = nn.Sequential(*layers, nn.Conv2d(16, 2, 1)).eval()
    groups = cc.analyze(model, example())
    costs = network_costs(model, groups)
    kept = allocate(groups, score(groups, named_tensors(model)), Budget(keep=0.5), costs).kept
    plan = make_plan(model, groups, kept, costs)
    state = {n: t.detach().double() for n, t in named_tensors(model).items()}
    swapped = {n: select(t, plan.kept.get(n, {})) for n, t in state.items()}
    swapped["3.weight"] = swapped["3.weight"][:, torch.tensor([1, 0, *range(2, 8)])]
    run = Lockstep(groups, kept, trace(cut(model, plan), (example(),)), ((example(),), {}))
    checks, _ = run.run(state, swapped)
    assert max(c.relative_error for c in checks) > 1e-3
    right, _ = run.run(state, {n: select(t, plan.kept.get(n, {})) for n, t in state.items()})
    assert max(c.relative_error for c in right) < 1e-9


def test_a_failed_proof_returns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from channelcut import steps

    def broken(model: nn.Module, plan: cc.Plan) -> nn.Module:
        smaller = cut(model, plan)
        next(iter(smaller.parameters())).data.mul_(1.001)
        return smaller

    monkeypatch.setattr(steps, "cut", broken)
    with pytest.raises(
        cc.ProofError, match=r"could not be proven, so it is not returned: stem.0.weight is not the selection"
    ):
        cc.prune(build("Residual"), example(), keep=0.5)


def test_a_failed_proof_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that misreads one slot: the error names the group behind it."""
    from channelcut.ops.conv import any_convolution
    from channelcut.ops.registry import OPS

    def misread(call: cc.Call) -> torch.Tensor:
        ids = any_convolution(call)
        return ids.flip(1) if call.site.module == "a.0" else ids

    monkeypatch.setitem(OPS, "aten.convolution", dataclasses.replace(OPS["aten.convolution"], rule=misread))
    with pytest.raises(cc.ProofError, match=r"The failure is in the group a\.0\.weight"):
        cc.prune(build("Residual"), example(), keep=0.5)


def test_every_group_is_proven_by_itself() -> None:
    result = cc.prune(build("ConfiguredHeads"), example(), keep=0.5, prove="each")
    assert [c.group for c in result.proof.groups] == [g.name for g in result.groups.groups]
    assert all(c.passed and c.max_relative_error <= 1e-9 for c in result.proof.groups)
    with pytest.raises(cc.UserError, match="prove='twice' is unknown"):
        cc.prune(build("Chain"), example(), keep=0.5, prove="twice")


def test_a_grouped_convolution_loses_groups_or_offsets() -> None:
    whole = cc.prune(build("Grouped"), example(), keep=0.5).model.g[0]
    part = cc.prune(build("Grouped"), example(), keep=0.5, grouped="offsets").model.g[0]
    assert (whole.groups, whole.in_channels, whole.out_channels, tuple(whole.weight.shape)) == (2, 8, 16, (16, 4, 3, 3))
    assert (part.groups, part.in_channels, part.out_channels, tuple(part.weight.shape)) == (4, 8, 16, (16, 2, 3, 3))
    with pytest.raises(cc.UserError, match="no policy for grouped convolutions"):
        cc.prune(build("Grouped"), example(), keep=0.5, grouped="some")


class Suppressing(nn.Module):
    """A detector that ends in a threshold: the values decide how many boxes there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 5, 1)
        self.after = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.head(torch.relu(self.b(torch.relu(self.a(x))))).flatten(2).transpose(1, 2)[0]
        keep = y[:, 4] > y[:, 4].mean()
        boxes = torch.zeros(int(keep.sum()), 4) + y[keep, :4]
        return {"boxes": self.after(boxes), "scores": y[:, 4]}


def test_what_values_decide_about_is_left_alone() -> None:
    result = cc.prune(Suppressing().eval(), example(), keep=0.5)
    assert result.proof.passed
    assert result.model.a.out_channels == 6
    assert result.model.b.out_channels == 4
    assert result.model.after.weight.shape == (4, 4)
    assert "read where values decide how many values there are" in {p.reason for p in result.groups.pins}
    assert result.groups.graph.outputs == ("scores",) and len(result.groups.graph.unsettled) == 4
    held = [p for p in result.groups.pins if p.reason == "read where values decide how many values there are"]
    assert held and not {id(p) for p in held} & {id(p) for p in result.groups.pins if p.reason == "network output"}


class Filling(Suppressing):
    """A detector that fills a tensor box by box, as keypoint heads do: its extent is known only when the boxes are."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(x)
        corners = torch.zeros(len(found["boxes"]), 2)
        for position, box in enumerate(found["boxes"]):
            corners[position] = box[:2]
        return {"corners": corners.clamp(min=0), "scores": found["scores"]}


def test_what_is_filled_with_as_many_values_is_left_alone() -> None:
    torch.manual_seed(0)
    result = cc.prune(Filling().eval(), example(), keep=0.5)
    assert result.proof.passed
    assert result.model.a.out_channels == 6
    assert result.groups.graph.outputs == ("scores",) and result.groups.graph.unsettled


class Thresholded(nn.Module):
    """A detector that looks at its scores once more only where it found something."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 12, 1, bias=False), nn.Conv2d(12, 2, 1, bias=False)
        for parameter in self.parameters():
            parameter.data.abs_()
        self.least = 0.0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.head(torch.relu(self.a(x)))
        scores = y[:, 0]
        keep = scores > self.least
        found = y[:, 1][keep]
        if len(found):
            found = found * scores[keep]
        return {"found": found, "map": y}


def test_what_the_cut_model_does_not_look_at_again_is_compared_all_the_same() -> None:
    torch.manual_seed(0)
    model, x = Thresholded().eval(), torch.rand(2, 3, 16, 16)
    model.least = float(model(x)["map"][:, 0].detach().max()) * 0.99
    result = cc.prune(model, x, keep=0.5)
    assert len(model(x)["found"]) and not len(result.model(x)["found"])
    assert len(result.groups.graph.unsettled) == 3
    assert result.proof.passed and result.model.a.out_channels == 6


class FixedBatch(nn.Module):
    """A forward that knows its batch, as some exported graphs do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))).reshape(2, 5, -1)[0] + torch.zeros(5, 256)


def test_a_training_step_at_the_batch_that_a_model_takes() -> None:
    assert cc.prune(FixedBatch().eval(), example(), keep=0.5).proof.training == "passed"


def test_save_and_load(tmp_path: Path) -> None:
    result = cc.prune(build("Shared"), example(), keep=0.5, calibration=torch.randn(16, 3, 16, 16))
    cc.save(result, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.safetensors", "plan.json"]
    again = cc.load(lambda: build("Shared", seed=5), tmp_path / "out")
    for a, b in zip(leaves(result.model(example())), leaves(again(example())), strict=True):
        assert torch.equal(a, b)
    assert again.other.weight is again.head.weight
    assert cc.Plan.from_dict(json.loads((tmp_path / "out" / "plan.json").read_text())) == result.plan


def test_layer_attributes_follow() -> None:
    model = cc.prune(build("Grouped"), example(), keep=0.5).model
    layer = model.g[0]
    assert (layer.in_channels, layer.out_channels, layer.groups) == (8, 16, 2)
    assert layer.weight.shape == (16, 4, 3, 3)
    assert model.g[1].num_features == 16


def test_recalibration_changes_only_statistics() -> None:
    plain = cc.prune(build("Residual"), example(), keep=0.5)
    data = torch.randn(64, 3, 16, 16)
    tuned = cc.prune(build("Residual"), example(), keep=0.5, importance="l2", calibration=data, restore="recalibrate")
    assert tuned.recalibration is not None
    assert (tuned.recalibration.images, tuned.recalibration.layers) == (64, 3)
    for name, tensor in tuned.model.state_dict().items():
        same = torch.equal(tensor, plain.model.state_dict()[name])
        assert same != ("running" in name or "num_batches" in name), name
    first = tuned.model.stem[0](data)
    assert torch.allclose(tuned.model.stem[1].running_mean, first.mean((0, 2, 3)), atol=1e-4)


class Picks(nn.Module):
    """Rows above a threshold are normalised; of the cut network there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.score, self.norm = nn.Linear(4, 16), nn.Linear(16, 3), nn.BatchNorm1d(3)
        nn.init.ones_(self.body.weight), nn.init.zeros_(self.body.bias), nn.init.ones_(self.score.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.score(self.body(x).relu())
        return self.norm(y[y[:, 0] > 44.0])  # type: ignore[no-any-return]


def test_a_norm_of_no_rows_reads_other_parameters() -> None:
    model, x = Picks().eval(), torch.ones(6, 4)
    result = cc.prune(model, x, keep=0.5)
    assert result.proof.passed
    assert (len(model(x)), len(result.model(x))) == (6, 0)
