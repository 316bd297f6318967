"""Residual branches that another module's forward adds: found, proven zero, and gone from checkpoint and file."""

from __future__ import annotations

import math
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import channelcut as cc
from channelcut.cost.bilinear import full_widths
from channelcut.cost.roofline import roofline
from channelcut.coupling.branches import residual_blocks
from channelcut.depth.finding import blocks_of
from channelcut.onnx_out.module import ExportOptions, onnx_from_module
from channelcut.onnx_out.zeros import remove_zeros
from channelcut.ops.zeros import zero_module
from channelcut.report.collect import collect

X = torch.rand(2, 3, 8, 8)
WORDS = torch.rand(2, 5, 8)
QUICK = cc.MeasureOptions(min_rounds=2, max_rounds=2, network_runs=2, step=8)


def body(size: float = 1.0, width: int = 8) -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(width, 8, 1), nn.ReLU(), nn.Conv2d(8, width, 3, 1, 1))
    with torch.no_grad():
        made[2].weight.mul_(size)
        made[2].bias.mul_(size)  # type: ignore[union-attr]
    return made


class Stage(nn.Module):
    """The parent adds; `norm` stands before the second branch and a factor behind it; `wide` returns another shape."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), body(size), body()
        self.norm, self.gamma, self.drop = nn.BatchNorm2d(8), nn.Parameter(torch.rand(8, 1, 1)), nn.Dropout(0.1)
        self.wide, self.head = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)
        self.first.kind = "plain"  # what a parent may read

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.first(x)
        x = x + self.drop(self.gamma * self.second(self.norm(x)))
        return self.head(x + self.wide(x))


class Mixer(nn.Module):
    """Attention of one head over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        return self.out((weights if mask is None else weights * mask) @ v)


class Words(nn.Module):
    """A transformer whose own forward adds; the block `whole` adds for itself."""

    def __init__(self, *, masked: bool = False) -> None:
        super().__init__()
        self.one, self.attention = nn.LayerNorm(8), Mixer()
        self.two, self.mlp = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.whole, self.head, self.masked = Whole(), nn.Linear(8, 3), masked

    def forward(self, x: Tensor) -> Tensor:
        more = {"mask": None} if self.masked else {}
        x = x + self.attention(self.one(x), **more)
        x += self.mlp(self.two(x))
        return self.head(self.whole(x))


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Writing(nn.Module):
    """It changes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x[:, :2].mul_(0.5)
        return nn.functional.conv2d(x, self.weight)


class Adding(nn.Module):
    """Branches that are none: what `how` does with the body's result, or the body with what it is given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.body, self.head, self.how = nn.Conv2d(3, 8, 1), body(), nn.Conv2d(8, 4, 1), how
        if how == "in place":
            self.body = nn.Sequential(nn.ReLU(inplace=True), *body())
        if how == "in part":
            self.body = Writing()  # type: ignore[assignment]
        if how == "listed":
            self.body = nn.ModuleList(body())  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        if self.how == "twice":
            x = x + self.body(x)
            return self.head(x + self.body(x))
        if self.how == "gated":
            return self.head(x + self.body(x) * x)
        if self.how == "of another":
            return self.head(x + self.body(torch.relu(self.stem.weight.sum() + self.head(x)[:, :1] + x)))
        if self.how == "listed":
            y = x
            for layer in self.body:
                y = layer(y)
            return self.head(x + y)
        if self.how == "weights elsewhere":
            return self.head(x + self.body(x)) + self.body[0].weight.sum()  # type: ignore[index,union-attr,operator]
        y = self.body(x)
        return (self.head(x + y), y) if self.how == "read elsewhere" else self.head(x + y)


def found(net: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    return [(b.module, b.kind) for b in blocks_of(net, cc.analyze(net, x), ((x,), {})).values()]


def seeded(make: Any, **given: Any) -> Any:
    torch.manual_seed(0)
    return make(**given).eval()


def test_zero_is_zero_in_every_type() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        values = torch.tensor([0.0, -0.0, 1e-7, -3.0, torch.finfo(dtype).max, math.inf, -math.inf], dtype=dtype)
        made = zero_module()(values.requires_grad_())
        made.sum().backward()
        assert made.dtype == dtype
        assert torch.equal(made, torch.zeros_like(values))
        assert torch.equal(values.grad, torch.zeros_like(values))  # type: ignore[arg-type]


def test_branches_are_found_where_no_block_is() -> None:
    assert found(seeded(Stage), X) == [("first", "branch"), ("second", "branch")]
    assert found(seeded(Words), WORDS) == [("whole", "whole"), ("attention", "branch"), ("mlp", "branch")]
    assert found(seeded(Words, masked=True), WORDS) == [("whole", "whole"), ("mlp", "branch")]


@pytest.mark.parametrize(
    "how", ["twice", "gated", "of another", "listed", "weights elsewhere", "read elsewhere", "in place", "in part"]
)
def test_what_is_no_branch(how: str) -> None:
    assert found(seeded(Adding, how=how), X) == []
    assert found(seeded(Adding, how="plain"), X) == [("body", "branch")]


def test_the_innermost_ones_are_listed() -> None:
    net = seeded(Stage)
    net.first = nn.Sequential(body(), Inner(), body())
    assert found(net, X) == [("first.1", "whole"), ("second", "branch")]
    net.second = nn.Sequential(net.second)
    assert found(net, X) == [("first.1", "whole"), ("second.0", "branch")]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = body()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x)


def test_a_network_without_branches_is_what_zeros_make_of_it(tmp_path: Path) -> None:
    net = seeded(Stage)
    result = cc.drop_blocks(net, X, ["first", "second"])
    small: Any = result.model
    assert result.proof.passed
    assert result.proof.max_relative_error < 1e-9 < result.proof.signal
    assert (result.plan.dropped, result.plan.zeroed) == (("first", "second"), ("first", "second"))
    assert cc.Plan.from_dict(result.plan.to_dict()) == result.plan
    assert small.first.kind == "plain"
    base = torch.relu(net.stem(X))
    assert torch.equal(small(X), net.head(base + net.wide(base)))
    assert not blocks_of(small, cc.analyze(small, X), ((X,), {}))  # nothing is left to go
    cc.export(small, tmp_path / "model.onnx", X)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sorted(node.op_type for node in graph.node) == ["Add", "Conv", "Conv", "Conv", "Relu"]
    assert {tensor.name.split(".")[1] for tensor in graph.initializer} == {"stem", "wide", "head"}


def test_a_transformer_loses_branches_and_blocks(tmp_path: Path) -> None:
    net = seeded(Words)
    result = cc.prune(net, WORDS, keep=0.5, blocks=["attention", "whole"])
    assert result.proof.passed
    assert (result.plan.dropped, result.plan.zeroed) == (("attention", "whole"), ("attention",))
    cc.save(result, tmp_path / "out")
    loaded = cc.load(Words, tmp_path / "out")
    assert torch.equal(loaded(WORDS), result.model(WORDS))
    report = cc.export(result.model, tmp_path / "model.onnx", WORDS, dynamic_batch=True)
    assert report.max_relative_error < 1e-4
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("LayerNormalization") == 1
    assert not {"Softmax", "Where", "LessOrEqual", "Shrink"} & set(kinds)


def test_the_program_leaves_out_a_branch_that_adds_nothing() -> None:
    net, images = seeded(Stage, size=0.01), torch.rand(16, 3, 8, 8)
    asked: dict[str, Any] = {"macs": 0.5, "blocks": "auto", "calibration": images, "align": 4}
    result = cc.prune(net, X, **asked)
    assert (result.plan.dropped, result.plan.zeroed) == (("first",), ("first",))
    assert result.plan.macs_ratio <= 0.5
    assert result.compensation is not None
    assert not result.compensation.refused
    assert result.compensation.refitted
    again = cc.apply(net, result.plan)
    assert [t.shape for t in again.state_dict().values()] == [t.shape for t in result.model.state_dict().values()]
    assert "first" in cc.prune(net, X, exclude=["second.2"], **asked).plan.dropped
    assert "first" not in cc.prune(net, X, exclude=["first.2"], **asked).plan.dropped


def test_costs_are_those_of_the_file() -> None:
    net = seeded(Words)
    small = cc.drop_blocks(net, WORDS, ["attention", "mlp"]).model
    bare = nn.Sequential(net.whole, net.head).eval()
    costs = []
    for model in (small, bare):
        groups = cc.analyze(model, WORDS)
        costs.append(roofline(groups, "avx2", "fp32")(full_widths(groups.groups)))
    assert costs[0] == pytest.approx(costs[1])


def test_a_measured_cost_lacks_the_layers_of_what_is_left_out(tmp_path: Path) -> None:
    cost = cc.measure(seeded(Stage), X, table=tmp_path / "table.jsonl", options=QUICK)
    names = {layer.name for layer in cost.layers}
    assert {"first.0.weight", "first.2.weight", "second.0.weight", "second.2.weight"} < names
    left = {layer.name for layer in cost.without(["first"]).layers}
    assert names - left == {"first.0.weight", "first.2.weight"}


def test_branches_are_found_by_torch_export_too() -> None:
    net = seeded(Stage)
    groups = cc.analyze(net, X, tracer="export")
    result = cc.drop_blocks(net, X, ["first", "second"], groups=groups)
    assert result.plan.zeroed == ("first", "second")
    with torch.no_grad():
        torch.testing.assert_close(result.model(X), cc.drop_blocks(net, X, ["first", "second"]).model(X))


def test_a_report_says_what_was_left_out() -> None:
    net = seeded(Stage)
    result = cc.drop_blocks(net, X, ["first"])
    report = collect(net, result, {})
    assert report["dropped"] == ["first"]
    layers = {layer["name"]: layer["after"] for layer in report["layers"]}
    assert (layers["first.0"], layers["second.0"]) == ([0, 0], [8, 8])
    drawn = {node["name"]: node["after"] for node in report["graph"]["nodes"]}
    assert (drawn["first.0"], drawn["second.0"]) == (0, 8)


def test_a_checkpoint_needs_nothing_of_ours(tmp_path: Path) -> None:
    small = cc.drop_blocks(seeded(Stage), X, ["first", "second"]).model
    made_of = {text for _, text, _ in pickletools.genops(pickle.dumps(small)) if isinstance(text, str)}
    assert not [text for text in made_of if text.split(".")[0] == "channelcut"]
    torch.save(small.first, tmp_path / "branch.pt")
    code = (
        "import sys, torch; sys.modules['channelcut'] = None\n"
        f"m = torch.load({str(tmp_path / 'branch.pt')!r}, weights_only=False)\n"
        "print(type(m).__module__, m(torch.tensor([1.0, -2.0])).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["torch.nn.modules.activation", "[0.0,", "0.0]"]


@pytest.mark.parametrize("importance", ["taylor", "fisher", "group-fisher", "reconstruction", "l2"])
def test_what_fed_a_branch_alone_tells_nothing_of_channels(importance: str) -> None:
    """The norm before a branch that went has no gradient, and would stand for the channels that it scales."""
    small: Any = cc.drop_blocks(seeded(Stage), X, ["first", "second"]).model
    asked: dict[str, Any] = {"keep": 0.5, "calibration": torch.rand(8, 3, 8, 8), "importance": importance}
    result: Any = cc.prune(small, X, **asked)
    assert result.proof.passed
    assert result.model.stem.out_channels == 4
    with torch.no_grad():
        small.norm.weight[list(set(range(8)) - set(result.plan.kept["stem.weight"][0]))] = 1e3
    assert cc.prune(small, X, **asked).plan.kept == result.plan.kept


def graph(shapes: tuple[list[int], list[int]], lambd: float, output: str = "y") -> onnx.ModelProto:
    """y = relu(a) + shrink(b): zero for an infinite `lambd`."""
    a, b = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("ab", shapes, strict=True)
    )
    nodes = [
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Shrink", ["b"], ["z"], lambd=lambd, bias=0.0),
        helper.make_node("Add", ["r", "z"], ["s"]),
        helper.make_node("Neg", ["s"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", 3])]
    made = helper.make_graph(nodes, "g", [a, b], outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_sums_go_where_they_equal_an_operand() -> None:
    same = ([2, 3], [2, 3])
    cases: list[tuple[onnx.ModelProto, int, list[str]]] = [
        (graph(same, math.inf), 1, ["Relu", "Neg"]),
        (graph(same, math.inf, output="s"), 1, ["Relu"]),
        (graph(([2, 3], [1, 3]), math.inf), 1, ["Relu", "Neg"]),
        (graph(([1, 3], [2, 3]), math.inf), 0, ["Relu", "Shrink", "Add", "Neg"]),  # it makes rows
        (graph(same, 1e9), 0, ["Relu", "Shrink", "Add", "Neg"]),
    ]
    for model, count, kinds in cases:
        given = {
            v.name: np.ones([e.dim_value for e in v.type.tensor_type.shape.dim], np.float32) for v in model.graph.input
        }
        wanted = onnx.reference.ReferenceEvaluator(model).run(None, given)
        assert remove_zeros(model) == count
        assert [node.op_type for node in model.graph.node] == kinds
        onnx.checker.check_model(model)
        assert np.array_equal(onnx.reference.ReferenceEvaluator(model).run(None, given)[0], wanted[0])


@pytest.mark.parametrize("older", [False, True])
def test_the_file_computes_the_same_by_either_exporter(tmp_path: Path, *, older: bool) -> None:
    small: nn.Module = cc.drop_blocks(seeded(Stage), X, ["second"]).model
    options = ExportOptions(unrolled=older, simplifiers=())
    onnx_from_module(small, (X,), tmp_path / "model.onnx", options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert sorted(set(kinds)) == ["Add", "Conv", "Relu"]
    assert (kinds.count("Conv"), kinds.count("Add")) == (5, 2)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]
    assert np.allclose(found, small(X).detach(), atol=1e-6)


def test_the_graph_alone_tells_branches() -> None:
    assert [b.module for b in residual_blocks(cc.analyze(seeded(Stage), X).graph, ["second"])] == ["second"]
