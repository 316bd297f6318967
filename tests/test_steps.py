"""The public steps by themselves: what each returns, what it refuses, and that `prune` is made of them."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import build, example
from torch import Tensor, nn

import channelcut as cc
from channelcut import steps
from channelcut.core.tensors import named_tensors
from channelcut.report.api import DOCUMENTED, page
from channelcut.sources import open_source

HERE = Path(__file__).parent


def cut_by_steps(name: str = "C2f", **budget: Any) -> tuple[nn.Module, cc.Plan, nn.Module]:
    model = build(name)
    plan = cc.plan(model, cc.analyze(model, example()), **(budget or {"keep": 0.5}))
    return model, plan, cc.apply(model, plan)


@pytest.mark.parametrize("name", ["C2f", "Residual", "Grouped", "Transposed", "Attention", "Recurrent"])
def test_prune_is_the_four_steps(name: str) -> None:
    model, plan, small = cut_by_steps(name)
    proof = cc.prove(model, small, plan, example())
    result = cc.prune(build(name), example(), keep=0.5)
    assert plan == result.plan == result.step
    assert proof.passed and replace(proof, seconds=0) == replace(result.proof, seconds=0)
    for tensor, other in zip(small.state_dict().values(), result.model.state_dict().values(), strict=True):
        assert torch.equal(tensor, other)


def test_no_option_hides_behind_another() -> None:
    for step in (cc.analyze, cc.plan, cc.prune, cc.save, cc.export):
        for parameter in inspect.signature(step).parameters.values():
            assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    of_prune = set(inspect.signature(cc.prune).parameters)
    for step in (cc.analyze, cc.plan):
        assert set(inspect.signature(step).parameters) - {"groups"} <= of_prune


def test_a_plan_of_other_groups_is_refused() -> None:
    with pytest.raises(cc.UserError, match="found in another model"):
        cc.plan(build("Chain"), cc.analyze(build("C2f"), example()), keep=0.5)
    with pytest.raises(cc.UserError, match="another architecture"):
        cc.apply(build("Chain"), cut_by_steps("C2f")[1])


class TestProving:
    def test_a_cut_is_unproven_until_it_is_proven(self, tmp_path: Path) -> None:
        model, plan, small = cut_by_steps()
        for refused in (
            lambda: cc.save(small, tmp_path / "out"),
            lambda: cc.export(small, tmp_path / "m.onnx", example()),
        ):
            with pytest.raises(cc.UserError, match=r"has not been proven.*allow_unproven=True"):
                refused()
        assert list(tmp_path.iterdir()) == []
        cc.save(small, tmp_path / "unproven", allow_unproven=True)
        with pytest.raises(cc.UserError, match="has not been proven"):
            cc.save(cc.load(lambda: build("C2f"), tmp_path / "unproven"), tmp_path / "again")
        assert cc.prove(model, small, plan, example()).passed
        cc.save(small, tmp_path / "out")
        assert cc.export(small, tmp_path / "m.onnx", example()).max_relative_error < 1e-4

    def test_any_module_is_exported(self, tmp_path: Path) -> None:
        assert cc.export(build("Chain"), tmp_path / "m.onnx", (example(),)).path.is_file()
        assert cc.export(build("Chain"), tmp_path / "n.onnx", {"x": example()}).input_names == ("x",)

    def test_the_mark_travels_with_copies_and_pickles(self, tmp_path: Path) -> None:
        model, plan, small = cut_by_steps("Chain")
        with pytest.raises(cc.UserError, match="has not been proven"):
            cc.save(copy.deepcopy(small), tmp_path)
        cc.prove(model, small, plan, example())
        cc.save(pickle.loads(pickle.dumps(small)), tmp_path)
        assert not hasattr(model, "_channelcut")
        assert json.loads(json.dumps(small._channelcut)) is not None

    def test_a_pickle_of_a_cut_needs_no_channelcut(self, tmp_path: Path) -> None:
        plain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
        small = cc.prune(plain, example(), keep=0.5).model
        torch.save(small, tmp_path / "m.pt")
        code = (
            "import sys, torch; sys.modules['channelcut'] = None; print(torch.load(sys.argv[1], weights_only=False)[0])"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "m.pt"], capture_output=True, text=True, check=True
        )
        assert "Conv2d(3, 4" in ran.stdout

    def test_a_tampered_cut_fails_and_stays_unproven(self, tmp_path: Path) -> None:
        model, plan, small = cut_by_steps()
        with torch.no_grad():
            small.get_submodule("m.0.0").weight[0, 0, 0, 0] += 1e-4
        proof = cc.prove(model, small, plan, example())
        assert not proof.passed and "m.0.0.weight is not the selection" in proof.failures[0]
        with pytest.raises(cc.UserError, match="has not been proven"):
            cc.save(small, tmp_path)

    def test_a_plan_from_a_file_is_proven_after_a_new_analysis(self) -> None:
        model, plan, _ = cut_by_steps()
        read = cc.Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
        assert read == plan and read.context is None
        assert cc.prove(model, cc.apply(model, read), read, example()).passed

    def test_offsets_and_prunable_outputs_are_found_again(self) -> None:
        model = build("Grouped")
        plan = cc.plan(model, cc.analyze(model, example(), grouped="offsets"), keep=0.5)
        read = cc.Plan.from_dict(plan.to_dict())
        assert cc.prove(model, cc.apply(model, read), read, example()).passed

    def test_another_example_is_analyzed_anew(self) -> None:
        """A traced view holds the batch that it was traced with."""

        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8 * 256, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.b(torch.relu(self.a(x)).view(x.shape[0], -1))

        model = Rows().eval()
        plan = cc.plan(model, cc.analyze(model, example()), keep=0.5)
        assert cc.prove(model, cc.apply(model, plan), plan, torch.rand(3, 3, 16, 16)).passed

    def test_a_plan_that_breaks_the_coupling_is_not_proven(self) -> None:
        model, plan, _ = cut_by_steps("Residual")
        others = tuple(sorted(set(range(24)) - set(plan.kept["a.0.weight"][0])))
        bad = replace(plan, kept={**plan.kept, "a.0.weight": {**plan.kept["a.0.weight"], 0: others}})
        small = cc.apply(model, bad)
        assert "positions of a.0.weight are not those" in cc.prove(model, small, bad, example()).failures[0]
        with pytest.raises(cc.UserError, match="keeps other channels in some tensors"):
            cc.prove(model, small, replace(bad, context=None), example())

    def test_each_group_alone(self) -> None:
        found = cc.prune(build("ConfiguredHeads"), example(), keep=0.5, prove="each")
        assert found.proof.groups and all(check.passed for check in found.proof.groups)


class TestRestored:
    def test_a_recalibrated_cut_refers_to_the_proof_of_the_cut(self, tmp_path: Path) -> None:
        model = build("Residual")
        images = torch.randn(64, 3, 16, 16)
        result = cc.prune(model, example(), keep=0.5, calibration=images, restore="recalibrate")
        assert result.plan.changes == ({"step": "recalibrate", "images": 64, "layers": 3, "round": 1},)
        proof = cc.prove(model, result.model, result.plan, example())
        assert proof.passed and "recalibrate" in proof.note and "stored proof" in proof.note
        assert proof.max_relative_error == result.proof.max_relative_error
        assert proof.to_dict()["checks"] == len(result.proof.checks) > 0
        cc.save(result, tmp_path)
        again = cc.load(lambda: build("Residual"), tmp_path)
        assert cc.prove(model, again, result.plan, example()).note == proof.note

    def test_other_shapes_are_seen(self) -> None:
        model = build("Residual")
        result = cc.prune(model, example(), keep=0.5, calibration=torch.randn(64, 3, 16, 16))
        other = cc.plan(model, cc.analyze(model, example()), keep=0.7)
        proof = cc.prove(model, result.model, other, example())
        assert not proof.passed and "has not the shape that the plan names" in proof.failures[0]

    def test_training_is_noted_in_memory_and_when_it_is_saved(self, tmp_path: Path) -> None:
        model = build("Residual")
        result = cc.prune(model, example(), keep=0.5)
        with torch.no_grad():
            result.model.stem[0].weight.mul_(1.5)
        proof = cc.prove(model, result.model, result.plan, example())
        assert proof.passed and "trained or changed outside of channelcut" in proof.note
        cc.save(result, tmp_path)
        again = cc.load(lambda: build("Residual"), tmp_path)
        proof = cc.prove(model, again, result.plan, example())
        assert proof.passed and "trained or changed outside of channelcut" in proof.note

    def test_what_was_never_proven_stays_unproven(self) -> None:
        from channelcut.recovery import recalibrate

        model, plan, small = cut_by_steps("Residual")
        tuned, _ = recalibrate(small, [torch.randn(16, 3, 16, 16)])
        proof = cc.prove(model, tuned, plan, example())
        assert not proof.passed and "was not proven before" in proof.failures[0]


class TestByHand:
    def test_coupled_tensors_follow(self) -> None:
        model, plan, _ = cut_by_steps("Residual")
        name, coupled = "a.0.weight", [n for n, axes in plan.kept.items() if axes.get(0) == plan.kept["a.0.weight"][0]]
        changed = plan.with_kept(name, [0, 1, 5, 9])
        assert all(changed.kept[other][0] == (0, 1, 5, 9) for other in coupled)
        assert changed.after.params == sum(p.numel() for p in cc.apply(model, changed).parameters())
        assert cc.prove(model, cc.apply(model, changed), changed, example()).passed
        assert changed.options["by_hand"] == ["a.0.weight"]
        assert 0 not in plan.with_kept(name, range(24)).kept[name]

    def test_the_order_of_positions_does_not_matter(self) -> None:
        _, plan, _ = cut_by_steps("Residual")
        assert (
            plan.with_kept("a.0.weight", [5, 0, 9]).kept == plan.with_kept("a.0.weight", torch.tensor([0, 5, 9])).kept
        )

    def test_a_transposed_convolution_counts_its_outputs(self) -> None:
        model = nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
        plan = cc.plan(model, cc.analyze(model, example()), keep=0.5).with_kept("0.weight", [1, 2, 6])
        assert plan.kept["0.weight"] == {1: (1, 2, 6)} and plan.kept["2.weight"] == {1: (1, 2, 6)}
        assert cc.prove(model, cc.apply(model, plan), plan, example()).passed

    def test_other_lanes_keep_as_many_of_their_best(self) -> None:
        class Halves(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

            def forward(self, x: Tensor) -> Tensor:
                left, right = self.a(x).chunk(2, 1)
                return self.b(left) * self.c(right)

        model = Halves().eval()
        groups = cc.analyze(model, example())
        assert len(groups.groups[0].lanes) == 2
        plan = cc.plan(model, groups, keep=0.5)
        changed = plan.with_kept("a.weight", [0, 3, 5, 8, 9, 15])
        assert changed.kept["b.weight"] == {1: (0, 3, 5)} and changed.kept["c.weight"] == {1: (0, 1, 7)}
        with pytest.raises(cc.UserError, match=r"same share in each of its 2 lanes, .* 2 of 8 .*; 3 of 8"):
            plan.with_kept("a.weight", [0, 1, 8, 9, 10])
        assert cc.prove(model, cc.apply(model, changed), changed, example()).passed

    def test_a_lane_that_nobody_named_keeps_its_best(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
        with torch.no_grad():
            model[0].weight[4:] *= torch.tensor([1.0, 9.0, 1.0, 9.0])[:, None, None, None]
        groups = cc.analyze(model, example())
        plan = cc.plan(model, groups, keep=0.75)
        context = plan.context
        slot = next(s for s in context.groups.slots if s.tensor == "0.weight" and s.axis == 0)
        half = replace(slot, tensor="half", channels=slot.channels[:4])  # a tensor that only one lane goes through
        part = replace(context, groups=replace(context.groups, slots=(*context.groups.slots, half)))
        changed = part.with_kept(plan, "half", [2, 3])
        assert [p for p in changed.kept["0.weight"][0] if p >= 4] == [5, 7]

    def test_what_cannot_be(self) -> None:
        _, plan, _ = cut_by_steps("Residual")
        last = next(s.tensor for s in plan.context.groups.slots if s.role == "out" and s.tensor.startswith("head"))
        for positions, tensor, text in (
            ([99], "a.0.weight", r"position 99 is given. Expected distinct positions from 0 to 23"),
            ([], "a.0.weight", "no position is given"),
            ([1, 1], "a.0.weight", "a position twice is given"),
            ([0], "a.0.wieght", r"is no parameter or buffer of it.*a\.0\.weight"),
            ([0], last, r"position 1 must stay, because it is pinned \(.*network output"),
        ):
            with pytest.raises(cc.UserError, match=text):
                plan.with_kept(tensor, positions)
        for bare in (cc.Plan.from_dict(plan.to_dict()), copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
            assert bare == plan
            with pytest.raises(cc.UserError, match="read from a file or copied"):
                bare.with_kept("a.0.weight", [0])


class TestImportance:
    def chain(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()

    def test_of_a_slot(self) -> None:
        asked = []

        def last_ones(tensor: Tensor, slot: cc.Slot) -> Tensor | None:
            asked.append((slot.tensor, slot.axis))
            return torch.arange(tensor.shape[slot.axis]) if slot.role == "out" else None

        plan = cc.plan(self.chain(), cc.analyze(self.chain(), example()), keep=0.5, importance=last_ones)
        assert plan.kept["0.weight"] == {0: (4, 5, 6, 7)}
        assert len(asked) == len(set(asked))
        assert plan.options["importance"].endswith("last_ones")

    def test_a_slot_that_several_lanes_share_is_asked_about_once(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
        groups, asked = cc.analyze(model, example()), []
        assert len(groups.groups[0].lanes) == 2
        cc.plan(model, groups, keep=0.5, importance=lambda t, s: asked.append((s.tensor, s.axis)))
        assert len(asked) == len(set(asked)) == len(groups.groups[0].slots)

    def test_of_the_whole(self) -> None:
        model = self.chain()

        def by_name(groups: cc.Groups, tensors: dict[str, Tensor], given: nn.Module) -> np.ndarray:
            assert type(given) is type(model) and given is not model
            assert set(tensors) == set(named_tensors(model))
            scores = np.zeros(groups.channel_count)
            slot = next(s for s in groups.slots if s.tensor == "0.weight" and s.axis == 0)
            scores[slot.channels] = [0, 9, 0, 9, 0, 9, 0, 9]
            return scores

        assert cc.prune(model, example(), keep=0.5, importance=by_name).plan.kept["0.weight"] == {0: (1, 3, 5, 7)}

    def test_signed_scores_are_ranked(self) -> None:
        plan = cc.prune(self.chain(), example(), keep=0.5, importance=lambda t, s: torch.arange(8.0) - 9).plan
        assert plan.kept["0.weight"] == {0: (4, 5, 6, 7)}

    @pytest.mark.parametrize(
        ("importance", "text"),
        [
            (lambda tensor, slot: tensor, r"'.*' for axis 0 of 0\.weight has the shape \(8, 3, 1, 1\).*shape \(8,\)"),
            (lambda tensor, slot: "high", r"for axis 0 of 0\.weight is a str"),
            (lambda tensor, slot: tensor.flatten(1).sum(1) * float("nan") if slot.axis == 0 else None, "holds NaN"),
            (lambda groups, tensors, model: np.ones(3), r"for all channels has the shape \(3,\)"),
            (lambda tensor: tensor, "is no criterion. Expected a name"),
            (7, "importance=7 is no criterion"),
        ],
    )
    def test_what_makes_no_ranking(self, importance: Any, text: str) -> None:
        with pytest.raises(cc.UserError, match=text):
            cc.prune(self.chain(), example(), keep=0.5, importance=importance)


class TestSources:
    def test_the_command_line_opens_what_python_wrote(self, tmp_path: Path) -> None:
        source = f"{HERE / 'networks.py'}:residual"
        original = open_source(source).build()
        result = cc.prune(original, example(), keep=0.5)
        cc.save(result, tmp_path / "a")
        with pytest.raises(cc.UserError, match="does not record which model it was cut from"):
            open_source(str(tmp_path / "a"))
        cc.save(result, tmp_path / "b", source=source)
        opened = open_source(str(tmp_path / "b"))
        assert [spec.shape for spec in opened.inputs] == [tuple(example().shape)]
        assert torch.equal(opened.build()(example()), result.model(example()))

    def test_a_source_that_is_none(self, tmp_path: Path) -> None:
        result = cc.prune(build("Chain"), example(), keep=0.5)
        with pytest.raises(cc.UserError, match="names no model"):
            cc.save(result, tmp_path, source="resnet18")
        assert not list(tmp_path.iterdir())
        with pytest.raises(cc.UserError, match="is no cut of channelcut"):
            cc.save(build("Chain"), tmp_path)


def members(name: str) -> Callable[..., Any]:
    found: Any = getattr(cc, name)
    return found


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_is_documented_and_its_example_runs(name: str) -> None:
    found = members(name)
    text = inspect.getdoc(found) or ""
    sections = ["Args:", "Example:"] if inspect.isclass(found) else ["Args:", "Returns:", "Raises:", "Example:"]
    assert [s for s in sections if f"\n{s}\n" not in text] == []
    tests = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    assert tests[0].examples
    torch.manual_seed(0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(tests[0])
    assert runner.failures == 0
    if not inspect.isclass(found):
        arguments = text.split("\nArgs:\n")[1].split("\n\n")[0]
        named = re.findall(r"^    (\w+): ", arguments, re.M)
        assert named == list(inspect.signature(found).parameters)


def test_the_page_is_written_from_the_docstrings() -> None:
    assert (HERE.parent / "docs" / "api.md").read_text() == page(), "python -m channelcut.report.api > docs/api.md"


def test_names_that_fight_are_gone() -> None:
    for module in ("channelcut.api", "channelcut.results", "channelcut.core.result"):
        importlib.import_module(module)
    for name in ("metadata", "Pruned", "PruneOptions"):
        assert not hasattr(cc, name)
    for name in ("analyze", "plan", "apply", "prove", "prune", "save", "load", "export"):
        assert inspect.isfunction(getattr(cc, name)), name
    assert steps.__doc__
