"""Further entries: methods beside `forward` are analysed, cut and proven with it, as one computation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from networks import example
from torch import Tensor, nn
from torch.nn import functional as F

import channelcut as cc
from channelcut.cli import main


class Auxiliary(nn.Module):
    """A head that `forward` reaches, and one that another method trains, behind a neck of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Conv2d(16, 4, 1)
        self.aux = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(x))  # type: ignore[no-any-return]

    def forward_train(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.neck(x)
        return self.head(features), self.aux(features)

    def loss(self, x: Tensor, targets: Tensor, *, weight: float = 1.0) -> dict[str, Tensor]:
        """Decides by values which places are counted, and calls the model itself."""
        found, extra = self(x), self.aux(self.neck(x))
        hit = targets > 0
        return {"main": F.l1_loss(found[hit], targets[hit]), "aux": weight * F.l1_loss(extra[hit], targets[hit])}


@pytest.mark.parametrize(
    "entries",
    [
        "forward_train",
        ["forward_train"],
        ["forward", "forward_train"],
        {"forward_train": example()},
        {"forward_train": {"x": example()}},
        {"loss": (example(), torch.randn(2, 4, 16, 16))},
        {"loss": {"x": example(), "targets": torch.randn(2, 4, 16, 16), "weight": 0.5}},
    ],
)
def test_what_another_method_reaches_is_cut_with_the_rest(entries: Any, tmp_path: Path) -> None:
    model = Auxiliary().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert cc.analyze(model, example()).unused
    groups = cc.analyze(model, example(), entries=entries)
    assert not groups.unused
    assert {group.name: group.width for group in groups.groups} == {"neck.0.weight": 16, "aux.0.weight": 24}
    result = cc.prune(model, example(), keep=0.5, entries=entries)
    assert result.proof.passed
    assert result.proof.training == "passed"
    assert type(result.model) is Auxiliary
    assert (result.model.aux[0].in_channels, result.model.aux[0].out_channels) == (8, 12)
    assert (result.model.aux[3].in_channels, result.model.aux[3].out_channels) == (12, 4)
    assert result.model.forward_train(example())[1].shape == (2, 4, 16, 16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "forward_train" not in vars(result.model)
    cc.save(result, tmp_path / "cut")
    loaded = cc.load(Auxiliary, tmp_path / "cut")
    assert torch.equal(loaded.forward_train(example())[1], result.model.forward_train(example())[1])
    again = cc.prune(result.model, example(), keep=0.5, entries=entries)
    assert again.model.aux[0].out_channels == 6


def test_the_proof_covers_every_entry_and_costs_and_files_are_of_the_forward(tmp_path: Path) -> None:
    model = Auxiliary().eval()
    result = cc.prune(model, example(), macs=0.5, entries=["forward_train"])
    places = [check.place for check in result.proof.checks]
    assert any("in aux.3" in place for place in places)
    assert {p.split(" (")[0] for p in places if p.startswith("output ") and " of " not in p} == {
        "output 0",
        "output forward_train.0",
        "output forward_train.1",
    }
    plain = cc.prune(model, example(), macs=0.5)
    assert result.plan.before.macs == plain.plan.before.macs == 2 * 256 * (3 * 16 * 9 + 16 * 4)
    assert result.plan.options["entries"] == ["forward_train"]
    assert cc.export(result, tmp_path / "cut.onnx", example()).max_relative_error < 1e-4
    assert len(onnx.load(tmp_path / "cut.onnx").graph.output) == 1
    assert result.plan.options["input"] == plain.plan.options["input"] == "2x3x16x16"


def test_a_wrong_cut_of_what_an_entry_alone_reaches_is_refused() -> None:
    model = Auxiliary().eval()
    plan = cc.plan(model, cc.analyze(model, example(), entries=["forward_train"]), keep=0.5)
    small = cc.apply(model, plan)
    weight = small.get_parameter("aux.3.weight")
    with torch.no_grad():
        weight.copy_(weight.flip(1))
    assert not cc.prove(model, small, plan, example(), entries=["forward_train"]).passed


def test_steps_by_hand() -> None:
    model = Auxiliary().eval()
    groups = cc.analyze(model, example(), entries={"forward_train": example()})
    plan = cc.plan(model, groups, keep=0.5).with_kept("aux.0.weight", range(5))
    small = cc.apply(model, plan)
    assert cc.prove(model, small, plan, example(), entries=["forward_train"]).passed
    other = cc.Plan.from_dict(plan.to_dict())  # as from a file: the analysis is done anew
    assert cc.prove(model, cc.apply(model, other), other, example(), entries=["forward_train"]).passed
    with pytest.raises(cc.UserError, match=r"made with the entries forward_train.*entries=\['forward_train'\]"):
        cc.prove(model, small, plan, example())


class Numbers(nn.Module):
    """An entry whose sizes follow an attribute, and one that hard-codes a width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.width = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1), 8

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x))  # type: ignore[no-any-return]

    def follows(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)).view(len(x), self.width, -1).mean(2)

    def literal(self, x: Tensor) -> Tensor:
        return self.c(self.a(x).view(len(x), 8, 16, 16))  # type: ignore[no-any-return]

    def narrow(self, x: Tensor, other: Tensor) -> Tensor:
        return self.b(self.a(x) + other)  # type: ignore[no-any-return]


def test_numbers_of_an_entry_follow_and_its_literals_pin() -> None:
    model = Numbers().eval()
    result = cc.prune(model, example(), keep=0.5, entries=["follows"], prunable_outputs=["follows"])
    assert (result.model.a.out_channels, result.model.b.out_channels, result.model.width) == (4, 4, 4)
    assert result.model.follows(example()).shape == (2, 4)
    groups = cc.analyze(model, example(), entries=["literal"])
    assert not groups.groups
    assert any(pin.reason == "the forward hard-codes this width" for pin in groups.pins)


def test_an_entry_holds_what_its_own_inputs_are_added_to() -> None:
    model = Numbers().eval()
    assert cc.analyze(model, example()).groups
    assert not cc.analyze(model, example(), entries={"narrow": (example(), torch.rand(2, 8, 16, 16))}).groups


class Two(nn.Module):
    """Two towers that never meet, the second in a method of its own, one stem before both; hooks on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.image, self.text = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.image(self.stem(x))  # type: ignore[no-any-return]

    def get_text_features(self, x: Tensor) -> Tensor:
        return self.text(self.stem(x))  # type: ignore[no-any-return]


def test_hooks_of_the_model_see_its_forward_alone() -> None:
    seen: list[Any] = []
    model = Two().eval()
    model.register_forward_pre_hook(lambda _, args: seen.append(args) or (2 * args[0],))  # type: ignore[func-returns-value]
    result = cc.prune(model, torch.rand(2, 6), keep=0.5, entries=["get_text_features"])
    assert result.proof.passed
    assert (result.model.text.in_features, result.model.image.in_features) == (6, 6)
    assert seen
    assert all(isinstance(args[0], Tensor) for args in seen)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["forward_trian"], r"Auxiliary has no method 'forward_trian'\. The nearest are forward_train"),
        (["aux"], "'aux' is a module of Auxiliary, not a method"),
        (["train"], "'train' is a method of every module"),
        ({"forward_train": 3}, r"entries\['forward_train'\]: The example input x is an int"),
        ({"forward_train": torch.full((1, 3, 16, 16), float("nan"))}, r"entries\['forward_train'\]: .* not finite"),
        ({"forward": example() + 1, "forward_train": example()}, "entries gives forward other inputs than x"),
        ({"forward_train": torch.rand(1, 4, 16, 16)}, r"own forward_train fails on .*1x4x16x16.* what entries gives"),
        ([3], "expected the names of methods"),
        (7, "expected the names of methods"),
    ],
)
def test_what_is_no_entry_is_refused(entries: Any, said: str) -> None:
    with pytest.raises(cc.UserError, match=said):
        cc.analyze(Auxiliary().eval(), example(), entries=entries)


def test_torch_export_follows_the_forward_alone() -> None:
    with pytest.raises(cc.UserError, match=r"torch.export follows forward alone.*tracer='auto'"):
        cc.analyze(Auxiliary().eval(), example(), entries=["forward_train"], tracer="export")


def test_forward_alone_is_no_further_entry() -> None:
    groups = cc.analyze(Auxiliary().eval(), example(), entries={"forward": example()}, tracer="export")
    assert groups.graph.entries == ()


def test_the_command_line_names_what_is_unread_and_takes_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.py"
    file.write_text("from test_entries import Auxiliary\n\n\ndef build():\n    return Auxiliary().eval()\n")
    where = [f"{file}:build", "--input", "1x3x16x16"]
    assert main(["analyze", *where]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Never read by the forward: 6 parameters in aux" in said
    assert "--entry" in said
    assert main(["analyze", *where, "--entry", "forward_train", "--json"]) == 0
    trace = json.loads(capsys.readouterr().out)["trace"]
    assert (trace["entries"], trace["unused"]) == (["forward_train"], [])
    out = tmp_path / "out"
    flags = ["--entry", "forward_train", "--keep", "0.5", "--align", "1", "--no-engine", "--no-bench"]
    assert main(["compress", *where, *flags, "--out", str(out)]) == 0
    assert cc.load(Auxiliary, out).aux[0].out_channels == 12
    capsys.readouterr()
    assert main(["analyze", *where, "--entry", "forward_trian"]) == 2
    assert "forward_train" in capsys.readouterr().err
