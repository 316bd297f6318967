"""Files with branches whose condition follows from shapes, and with recurrent layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_cases
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_onnx_in import assert_close, outputs, runtime, saved
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.errors import UserError
from channelcut.onnx_in import example_inputs_from_onnx, module_from_onnx
from channelcut.onnx_out.module import onnx_from_module

OUT = helper.make_empty_tensor_value_info


def node(kind: str, inputs: str, outs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outs.split(), **attributes)


def branch(name: str, nodes: list[onnx.NodeProto], result: str, **stored: Any) -> onnx.GraphProto:
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    return helper.make_graph(nodes, name, [], [OUT(result)], constants)


HEAD = [
    node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
    node("Relu", "a", "b"),
    node("Conv", "b v", "f"),
    node("Shape", "f", "s"),
    node("Gather", "s two", "rows"),
    node("Equal", "rows one", "small"),
]
SQUEEZE = branch("then", [node("GlobalAveragePool", "f", "p"), node("Squeeze", "p axes", "t")], "t")
IDENTITY = branch("else", [node("Identity", "f", "e")], "e")


def network(nodes: list[onnx.NodeProto], folder: Path, shape: list[Any], extra: Any = None) -> Path:
    constants = {
        "w": onnx_cases.f(16, 3, 3, 3), "v": onnx_cases.f(5, 16, 1, 1), "axes": np.array([2]), "two": np.array(2),
        "one": np.array(1), **(extra or {}),
    }  # fmt: skip
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    feed = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([*HEAD, *nodes], "g", [feed], [result], stored)
    return saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder)


def check(path: Path, shape: tuple[int, ...]) -> torch.fx.GraphModule:
    """The module computes what the runtime does, and its first convolution loses half of its channels."""
    module, inputs = module_from_onnx(path, shape), example_inputs_from_onnx(path, shape)
    assert_close(outputs(module, inputs), runtime(path, inputs), 1e-5)
    result = cc.prune(module, inputs, keep=0.5)
    assert result.proof.passed and result.model.get_submodule("Conv_0").out_channels == 8
    return module


@pytest.mark.parametrize(("shape", "taken"), [((1, 3, 1, 1), True), ((1, 3, 8, 8), False)], ids=str)
def test_the_branch_that_is_taken_at_this_size_is_imported(shape: Any, taken: bool, tmp_path: Path) -> None:
    choice = node("If", "small", "y", then_branch=SQUEEZE, else_branch=IDENTITY)
    module = check(network([choice], tmp_path, ["n", 3, "h", "w"]), shape)
    assert (torch.squeeze in {n.target for n in module.graph.nodes}) == taken


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 1, 8), (2, 3, 8, 8)], ids=str)
def test_branches_inside_branches(shape: Any, tmp_path: Path) -> None:
    """The inner ones have layers and constants of their own, and read values of all graphs around them."""
    wide = branch(
        "wide",
        [node("Mul", "p half", "q"), node("Conv", "b u", "t"), node("Add", "t q", "r")],
        "r",
        half=np.float32(0.5),
        u=onnx_cases.f(5, 16, 1, 1),
    )
    narrow = branch("narrow", [node("Neg", "p", "r")], "r")
    inner = branch(
        "then",
        [
            node("Sigmoid", "f", "p"),
            node("Gather", "s three", "columns"),
            node("Greater", "columns one", "c"),
            node("If", "c", "i", then_branch=wide, else_branch=narrow),
        ],
        "i",
    )
    nodes = [node("If", "small", "z", then_branch=inner, else_branch=IDENTITY), node("Add", "z f", "y")]
    check(network(nodes, tmp_path, ["n", 3, "h", "w"], {"three": np.array(3)}), shape)


def test_two_branches_with_the_same_names_inside(tmp_path: Path) -> None:
    def choice(out: str, source: str) -> onnx.NodeProto:
        fused = [node("MatMul", f"{source} m", "t"), node("Add", "t k", "e")]
        other = branch("else", fused, "e", m=onnx_cases.f(8, 8), k=onnx_cases.f(8))
        return node("If", "small", out, then_branch=branch("then", [node("Neg", source, "e")], "e"), else_branch=other)

    check(network([choice("z", "f"), choice("y", "z")], tmp_path, [1, 3, 8, 8]), (1, 3, 8, 8))


def test_a_product_that_a_branch_reads_too_keeps_its_own_value(tmp_path: Path) -> None:
    """What stands in a branch is a reader: the product before the addition is not only the layer's."""
    shown = branch("then", [node("Neg", "t", "r")], "r")
    nodes = [
        node("MatMul", "f m", "t"),
        node("Add", "t k", "z"),
        node("Not", "small", "large"),
        node("If", "large", "i", then_branch=shown, else_branch=IDENTITY),
        node("Add", "i z", "y"),
    ]
    path = network(nodes, tmp_path, [1, 3, 8, 8], {"m": onnx_cases.f(8, 8), "k": onnx_cases.f(8)})
    check(path, (1, 3, 8, 8))


def test_a_condition_of_the_data_is_refused_in_words(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMax", "f", "top", keepdims=0),
        node("Greater", "top limit", "c"),
        node("If", "c", "y", then_branch=SQUEEZE, else_branch=IDENTITY),
    ]
    path = network(nodes, tmp_path, [1, 3, 8, 8], {"limit": np.float32(0)})
    with pytest.raises(UserError, match=r"the operator If .* decides by 'c', a value of the data; a condition that"):
        module_from_onnx(path)


def test_a_loop_is_refused_in_words(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "go", "more"), node("Add", "v f", "r")],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), OUT("v")],
        [OUT("more"), OUT("r")],
    )
    nodes = [node("Loop", "count yes start", "y", body=body)]
    extra = {"count": np.array(3), "yes": np.array(True), "start": np.float32(0)}
    path = network(nodes, tmp_path, [1, 3, 8, 8], extra)
    with pytest.raises(UserError, match=r"the operator Loop .* holds a graph of its own") as caught:
        module_from_onnx(path)
    assert "rt_inits" not in str(caught.value)


class Reader(nn.Module):
    """A line of text: convolutions, a recurrent layer along the width, and a score for every column."""

    def __init__(self, kind: str, batch_first: bool = True, bidirectional: bool = True, layers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 12, 3, 2, 1)
        options: dict[str, Any] = {"batch_first": batch_first, "bidirectional": bidirectional, "num_layers": layers}
        self.read = getattr(nn, kind)(12, 10, **options)
        self.head, self.batch_first = nn.Linear(20 if bidirectional else 10, 7), batch_first

    def forward(self, x: Tensor) -> Tensor:
        f = self.b(self.a(x).relu()).relu().mean(2)
        y: Tensor = self.read(f.transpose(1, 2) if self.batch_first else f.permute(2, 0, 1))[0]
        return self.head(y)


READERS = {
    "lstm": ("LSTM", True, True, 1),
    "gru": ("GRU", True, True, 1),
    "rnn": ("RNN", False, False, 1),
    "one way": ("LSTM", False, False, 1),
    "two layers": ("LSTM", True, True, 2),
    "two layers of gru": ("GRU", False, False, 2),
}


@pytest.mark.parametrize("exporter", ["of today", "older"])
@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_text_is_imported_cut_and_written_again(name: str, exporter: str, tmp_path: Path) -> None:
    model, x, path = Reader(*READERS[name]).eval(), torch.rand(1, 3, 16, 32), tmp_path / "model.onnx"
    if exporter == "older":
        pytest.importorskip("onnxscript")
        torch.onnx.export(model, (x,), str(path), dynamo=False, opset_version=17)
    else:
        onnx_from_module(model, (x,), path)
    module = module_from_onnx(path)
    if (name, exporter) != ("rnn", "of today"):  # which writes out every moment
        assert READERS[name][0] in {type(layer).__name__ for layer in module.modules()}
    assert_close(outputs(module, (x,)), runtime(path, (x,)), 1e-5)
    result = cc.prune(module, (x,), keep=0.5)
    assert result.proof.passed and result.proof.max_relative_error <= 1e-9
    assert result.plan.after.macs <= cc.prune(model, x, keep=0.5).plan.after.macs * 1.001
    onnx_from_module(result.model, (x,), tmp_path / "small.onnx")
    with torch.no_grad():
        wanted = result.model(x).numpy()
    assert_close(runtime(tmp_path / "small.onnx", (x,)), [wanted], 1e-4)


def recurrent(folder: Path, kind: str = "LSTM", **attributes: Any) -> Path:
    (case,) = [c for c in onnx_cases.CASES if c.op == kind and c.label == "forward"]
    case = onnx_cases.Case(
        kind, "x", case.inputs, case.constants, {**case.attributes, **attributes}, case.outputs, case.opset
    )
    return saved(case.model(), folder)


def test_the_batch_may_come_first(tmp_path: Path) -> None:
    """ONNX Runtime has no such kernel: compared with the layer whose batch comes second."""
    plain = module_from_onnx(recurrent(tmp_path))
    (case,) = [c for c in onnx_cases.CASES if c.op == "LSTM" and c.label == "forward"]
    feeds = {0: np.ascontiguousarray(case.inputs[0].transpose(1, 0, 2))}
    first = onnx_cases.Case("LSTM", "x", feeds, case.constants, {**case.attributes, "layout": 1}, 3)
    model = first.model()
    turned = module_from_onnx(saved(model, tmp_path))
    x = torch.from_numpy(case.inputs[0])
    y, h, c = plain(x)
    other = turned(x.transpose(0, 1))
    torch.testing.assert_close(other[0], y.permute(2, 0, 1, 3))
    torch.testing.assert_close(other[1:], (h.transpose(0, 1), c.transpose(0, 1)))


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("GRU", {"linear_before_reset": 0}, "resets the state before its linear layer .* reset_after=True"),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "has the functions HardSigmoid, Tanh, Tanh"),
        ("LSTM", {"clip": 3.0}, "clips its gates"),
        ("LSTM", {"input_forget": 1}, "couples them"),
        ("RNN", {"direction": "sideways"}, "has the direction 'sideways'"),
    ],
)
def test_what_torch_s_layers_do_not_compute_is_refused(
    kind: str, attributes: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"the operator {kind} .*{message}"):
        module_from_onnx(recurrent(tmp_path, kind, **attributes))
