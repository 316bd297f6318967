"""Parts that the forward never reads: named, and dropped on request; results that hold tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from networks import example
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.unused import unused_modules, unused_words


class Auxiliary(nn.Module):
    """A head that another method trains, beside a sequence of which one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.ReLU())
        self.head, self.aux = nn.Conv2d(16, 4, 1), nn.ModuleDict({"a": nn.Conv2d(16, 32, 3), "b": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body[2](self.body[0](x)))  # type: ignore[no-any-return]

    def forward_train(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return self.head(x), self.aux["a"](x)


def test_what_is_never_read_is_named() -> None:
    groups = cc.analyze(Auxiliary().eval(), example())
    assert set(groups.unused) == {f"{m}.{p}" for m in ("body.1", "aux.a", "aux.b") for p in ("weight", "bias")}
    assert "never read by the forward: 6 parameters in body.1, aux.a, aux.b" in str(groups)
    assert unused_modules(Auxiliary(), groups.unused) == ("body.1", "aux")
    assert unused_words([f"neck.{i}.weight" for i in range(9)]) == "neck"


def test_a_head_that_runs_in_training_alone_is_not_unused() -> None:
    class Trained(Auxiliary):
        def forward(self, x: Tensor) -> Any:
            x = self.body(x)
            return (self.head(x), self.aux["a"](x)) if self.training else self.head(x)

    assert set(cc.analyze(Trained().eval(), example()).unused) == {"aux.b.weight", "aux.b.bias"}


def test_a_budget_tells_what_is_unread_from_what_is_pinned() -> None:
    with pytest.raises(cc.BudgetError, match=r"the forward \(body.1, aux.a, aux.b: see entries, drop_unused"):
        cc.prune(Auxiliary().eval(), example(), params=0.05)


@pytest.mark.parametrize("budget", [{"keep": 0.5}, {"params": 0.05}, {"params": 300}, {"macs": 0.6}])
def test_what_is_never_read_goes_on_request(budget: dict[str, float], tmp_path: Path) -> None:
    model = Auxiliary().eval()
    result = cc.prune(model, example(), drop_unused=True, **budget)  # type: ignore[arg-type]
    assert result.proof.passed
    assert result.plan.dropped == ("body.1", "aux")
    assert isinstance(result.model.aux, nn.Identity)
    assert isinstance(model.aux, nn.ModuleDict)
    assert result.plan.after.params == sum(p.numel() for p in result.model.parameters())
    if "params" in budget:
        limit = budget["params"] * (result.plan.before.params if budget["params"] <= 1 else 1)
        assert 0.6 * limit < result.plan.after.params <= limit
    cc.save(result, tmp_path / "cut")
    assert torch.equal(cc.load(Auxiliary, tmp_path / "cut")(example()), result.model(example()))
    assert cc.Plan.from_dict(result.plan.to_dict()) == result.plan
    again = cc.prune(result.model, example(), keep=0.5)
    cc.save(again, tmp_path / "again")
    assert torch.equal(cc.load(Auxiliary, tmp_path / "again")(example()), again.model(example()))


def test_a_plan_that_drops_what_is_not_there_is_refused() -> None:
    plan = cc.prune(Auxiliary().eval(), example(), keep=0.5, drop_unused=True).plan.to_dict()
    with pytest.raises(cc.UserError, match="does not have"):
        cc.apply(Auxiliary().eval(), cc.Plan.from_dict({**plan, "dropped": ["nowhere"]}))


@dataclass
class Found:
    """What a detector may return."""

    boxes: Tensor
    maps: list[Tensor]
    size: int = 3


class Detector(nn.Module):
    """Returns a dataclass, by itself or inside of something else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.h = how, nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        found = Found(self.h(x), [x])
        return {"alone": found, "dict": {"found": found}, "list": [found, 3]}[self.how]


@pytest.mark.parametrize(("how", "path"), [("alone", ""), ("dict", "found."), ("list", "0.")])
def test_results_in_dataclasses_are_results(how: str, path: str, tmp_path: Path) -> None:
    model = Detector(how).eval()
    groups = cc.analyze(model, example())
    assert groups.graph.outputs == (f"{path}boxes", f"{path}maps.0")
    assert not groups.groups
    assert any(pin.remedy.endswith(f": {path}maps.0") for pin in groups.pins)
    result = cc.prune(model, example(), keep=0.5, prunable_outputs=[f"{path}maps"])
    assert result.model.a.out_channels == 8
    cc.export(result, tmp_path / "cut.onnx", example())
    assert len(onnx.load(tmp_path / "cut.onnx").graph.output) == 2


def test_an_output_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(cc.UserError, match=r"'feats' names no output.*It returns boxes, maps.0"):
        cc.analyze(Detector("alone").eval(), example(), prunable_outputs=["feats"])
