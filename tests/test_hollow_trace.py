"""A trace without arithmetic is the trace with it, and one that needs its values is made with them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut import steps
from channelcut.choosing import Ranked
from channelcut.core.graph import Graph
from channelcut.core.proof import Proof
from channelcut.coupling import couple
from channelcut.tracing import trace
from channelcut.tracing.dispatch import record
from channelcut.tracing.hollow import ValuesNeeded, is_hollow, weightless_copy
from tests.networks import NETWORKS, build, example


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_both_traces_say_the_same(name: str) -> None:
    model = build(name)
    hollow, real = trace(model, (example(),)), trace(model, (example(),), arithmetic=True)
    assert hollow.hollow and not real.hollow
    assert [(n.kind, n.name, n.value, n.args) for n in hollow.nodes] == [
        (n.kind, n.name, n.value, n.args) for n in real.nodes
    ]
    assert hollow.uses == real.uses and hollow.attributes == real.attributes
    assert all(torch.equal(hollow.constants[k], v) for k, v in real.constants.items())
    a, b = couple([hollow]), couple([real])
    assert [(g.name, g.width, g.slots) for g in a.groups] == [(g.name, g.width, g.slots) for g in b.groups]


class Kept(nn.Module):
    """Uses a large tensor that it keeps beside its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.grid = torch.arange(2048.0).view(1, 2, 32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) * self.grid[:, :1]


def test_a_constant_keeps_its_values() -> None:
    graph = trace(Kept().eval(), (torch.rand(1, 3, 32, 32),))
    assert graph.hollow and torch.equal(graph.constants["constant_0"], Kept().grid)


class Reads(nn.Module):
    """Looks at its values by Python, in a way that no op shows."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.read = read
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x if self.read(x) > 1e9 else x.relu())


def filled(x: Tensor) -> Tensor:
    whole = torch.zeros_like(x)
    whole[:, :2] = x[:, :2]
    return whole


READERS = {
    "tolist": lambda x: x.mean((0, 2, 3)).tolist()[0],
    "numpy": lambda x: x.numpy().mean(),
    "asarray": lambda x: np.asarray(x).mean(),
    "storage": lambda x: x.untyped_storage()[0],
    "item": lambda x: x.mean().item(),
    "truth": lambda x: 2e9 if x.sum() > 1e9 else 0,
    "equal": lambda x: 2e9 if torch.equal(x, x + 1) else 0,
    "data": lambda x: x.data.mean().tolist(),
    "filled": lambda x: filled(x).tolist()[0][0][0][0],
    "detached": lambda x: x.detach().cpu().numpy().mean(),
    "count": lambda x: len((x > 0).nonzero()),
    "selected": lambda x: x[x > 1e9].numel(),
}


@pytest.mark.parametrize("name", sorted(READERS))
def test_whoever_looks_at_values_gets_real_ones(name: str) -> None:
    graph = trace(Reads(READERS[name]).eval(), (torch.rand(1, 3, 32, 32),))
    assert not graph.hollow
    assert any(node.name == "aten.relu" for node in graph.nodes)


@torch.library.custom_op("hollow_tests::looked_up", mutates_args=())
def looked_up(x: Tensor) -> Tensor:
    assert float(x.abs().max()) < 1e6, "a kernel that trusts its values was given none"
    return x.clone()


def test_an_unknown_kernel_gets_real_values() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return looked_up(self.a(x))

    graph = trace(Custom().eval(), (torch.rand(1, 3, 32, 32),))
    assert not graph.hollow and graph.calls[-1].name == "hollow_tests.looked_up"


class LargestWeight(nn.Module):
    """Divides by a number that it reads from its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) / self.b.weight.abs().amax().item()


def test_a_number_of_the_weights_is_the_real_one() -> None:
    model = LargestWeight().eval()
    graph = trace(model, (torch.rand(1, 3, 32, 32),))
    number = next(node.args[1] for node in graph.calls if node.name == "aten.div")
    assert not graph.hollow and number == model.b.weight.abs().max().item()


def test_a_number_of_small_weights_needs_no_arithmetic() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.scale = nn.Conv2d(3, 8, 3), nn.Parameter(torch.tensor([2.5]))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.scale.item()

    graph = trace(Scaled().eval(), (torch.rand(1, 3, 32, 32),))
    assert graph.hollow and any(2.5 in node.args for node in graph.calls)


def test_what_cannot_be_proven_without_values_is_tried_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that a value has misled costs a second one, never a wrong refusal."""
    real, seen = steps.proof_of, []

    def misled(*args: Any, **kwargs: Any) -> Any:
        hollow = args[3].graph.hollow
        seen.append(hollow)
        proof = real(*args, **kwargs)
        return replace(proof, passed=False, failures=("misled",)) if hollow else proof

    monkeypatch.setattr(steps, "proof_of", misled)
    monkeypatch.setattr(steps, "same_run", lambda one, other: False)
    result = cc.prune(build("Chain"), example(), keep=0.5, exclude=iter(["b"]))
    assert result.proof.passed and result.plan.options["exclude"] == ["b"]
    assert seen == [True, False]


def test_where_values_change_nothing_a_failure_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, plans = Ranked.planned, []
    broken = Proof(False, 1.0, 1e-9, 1.0, (), "passed", "own", failures=("on purpose",))
    monkeypatch.setattr(steps, "proof_of", lambda *args, **kwargs: broken)
    monkeypatch.setattr(Ranked, "planned", lambda *args, **kwargs: plans.append(1) or real(*args, **kwargs))
    with pytest.raises(cc.ProofError, match="on purpose"):
        cc.prune(build("Chain"), example(), keep=0.5)
    assert len(plans) == 1


def test_runs_are_told_apart_by_ops_shapes_numbers_and_constants() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float, offset: float, wide: int = 4) -> None:
            super().__init__()
            self.a, self.factor, self.offset = nn.Conv2d(3, wide, 1), factor, offset

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.factor + torch.tensor([self.offset])

    def traced(*how: float) -> Graph:
        torch.manual_seed(0)
        return trace(Scaled(*how).eval(), (example(),))

    first = traced(2.0, 1.0)
    assert steps.same_run(first, traced(2.0, 1.0))
    for other in ((3.0, 1.0), (2.0, 5.0), (2.0, 1.0, 6)):
        assert not steps.same_run(first, traced(*other)), other


def test_a_proof_that_fails_with_values_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = steps.proof_of
    monkeypatch.setattr(
        steps, "proof_of", lambda *a, **k: replace(real(*a, **k), passed=False, failures=("on purpose",))
    )
    with pytest.raises(cc.ProofError, match="on purpose"):
        cc.prune(build("Chain"), example(), keep=0.5)


class Embedded(nn.Module):
    """An index out of range shows when values are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.b = nn.Embedding(50, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.b(self.a(self.words(words)).relu())


def test_a_wrong_input_that_only_values_show_is_the_users() -> None:
    with pytest.raises(cc.UserError, match="own forward fails"):
        cc.prune(Embedded().eval(), torch.tensor([[1, 2, 99]]), keep=0.5)
    assert cc.prune(Embedded().eval(), torch.tensor([[1, 2, 49]]), keep=0.5).proof.passed


@pytest.mark.parametrize("part", ["module", "in place", "whole"])
def test_a_compiled_model_is_traced_as_it_is_written(part: str) -> None:
    from torch._dynamo.utils import counters

    model = build("Chain")
    plain = trace(model, (example(),))
    if part == "whole":
        model = torch.compile(model, backend="eager")
    for name, child in [] if part == "whole" else list(model.named_children()):
        child.compile(backend="eager") if part == "in place" else setattr(
            model, name, torch.compile(child, backend="eager")
        )
    model(example())
    before = dict(counters["frames"])
    graph = trace(model, (example(),)) if part == "whole" else cc.analyze(model, example()).graph
    assert [node.name for node in graph.calls] == [node.name for node in plain.calls]
    assert dict(counters["frames"]) == before, "nothing of the recorder is compiled"


def test_an_analysis_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch, channelcut as cc; cc.analyze(torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 4, 4)); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", done.stderr


class Strided(nn.Module):
    """Keeps anchors and strides until the shape of its features changes, filled by a method of these features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 4, 1)
        self.shape: tuple[int, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.shape != x.shape:
            self.anchors = torch.arange(x.shape[3]).type_as(x).expand(1, 1, *x.shape[2:]).clone()
            self.strides, self.shape = x.new_full((1, 1, *x.shape[2:]), 8.0), x.shape
        return (self.head(self.b(x)) + self.anchors) * self.strides


def test_a_model_that_has_run_is_analysed_like_a_fresh_one() -> None:
    model, x = Strided().eval(), torch.rand(1, 3, 64, 64)
    fresh = cc.analyze(model, x)
    model(x)
    warm = cc.analyze(model, x)
    assert [(g.name, g.width) for g in fresh.groups] == [(g.name, g.width) for g in warm.groups] != []
    assert cc.prune(model, x, keep=0.5).proof.passed


class Remembers(nn.Module):
    """Adds what its last forward has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last = nn.Conv2d(3, 8, 3), torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        added, self.last = x + self.last, x
        return added


def test_a_value_of_an_earlier_hollow_forward_is_no_constant() -> None:
    model, x = weightless_copy(Remembers().eval()), torch.rand(1, 3, 32, 32)
    record(model, (x.clone(),), {}, training=False, hollow=True)
    with pytest.raises(ValuesNeeded):
        record(model, (x.clone(),), {}, training=False, hollow=True)


def test_what_is_made_like_a_value_is_not_hollow() -> None:
    """It may be kept in a cache, and be a constant of the next trace."""
    model, x = Strided().eval(), torch.rand(1, 3, 64, 64)
    copy = weightless_copy(model)
    record(copy, (x.clone(),), {}, training=False, hollow=True)
    assert not is_hollow(copy.strides) and torch.equal(copy.strides, torch.full((1, 1, 64, 64), 8.0))
