"""Sizes of a file's inputs: guessed where they are open, chosen anew where no operator holds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_cases
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from test_onnx_in import assert_close, outputs, runtime, saved
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.errors import UserError
from channelcut.onnx_in import example_inputs_from_onnx, module_from_onnx
from channelcut.onnx_out.module import onnx_from_module


def added(shapes: dict[str, list[Any]], folder: Path, kind: int = TensorProto.FLOAT) -> Path:
    """A file that gives each of its inputs back."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes]
    ends = [[value(f"{name}{end}", kind, shape) for name, shape in shapes.items()] for end in ("", "_out")]
    opset = [helper.make_opsetid("", 17)]
    return saved(helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opset, ir_version=8), folder)


@pytest.mark.parametrize(
    ("shape", "guess"),
    [
        (["n", 3, "h", "w"], (1, 3, 64, 96)),
        (["n", "c", "h", "w"], (1, 3, 64, 96)),
        (["n", "h", "w", 3], (1, 64, 96, 3)),
        ([2, 1, 32, "w"], (2, 1, 32, 96)),
        (["n", "t"], (1, 96)),
        (["n", 80, "t"], (1, 80, 96)),
        (["n", 80], (1, 80)),
    ],
    ids=str,
)
def test_open_axes_are_guessed_from_a_size(shape: list[Any], guess: Any, tmp_path: Path) -> None:
    (x,) = example_inputs_from_onnx(added({"x": shape}, tmp_path), size=(64, 96))
    assert x.shape == guess


def test_the_remedy_for_open_axes_can_be_pasted(tmp_path: Path) -> None:
    path = added({"image": ["n", 3, "h", "w"], "scale": [1, 2], "sound": ["n", "t"]}, tmp_path)
    with pytest.raises(UserError, match=r"axis 2 of the input 'image' is open \(its shape is nx3xhxw\)") as caught:
        module_from_onnx(path)
    text = str(caught.value)
    assert "--input image=1x3x640x640 --input scale=1x2 --input sound=1x640 on the command line" in text
    shapes = eval(re.search(r"input_shapes=({.*?})", text)[1])  # type: ignore[index]
    assert [tuple(x.shape) for x in example_inputs_from_onnx(path, shapes)] == [(1, 3, 640, 640), (1, 2), (1, 640)]
    with pytest.raises(UserError, match="axis 1 of the input 'sound' is open") as caught:
        module_from_onnx(path, {"image": (1, 3, 8, 8)})
    assert "--input image=1x3x8x8 --input scale=1x2" in str(caught.value)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"the input 'image' has no shape. Give .* --input image=1x3x640x640"):
        module_from_onnx(path)


class Detector(nn.Module):
    """Layers that work at any size: strided, pooled, enlarged by two, joined, flattened."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(24, 6, 1)
        self.gate = nn.Conv2d(24, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        f = torch.cat([F.interpolate(self.b(a).relu(), scale_factor=2.0), a], 1)
        f = f * self.gate(f.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(f).flatten(2).transpose(1, 2)


def reopened(path: Path, shape: list[Any], target: Path) -> Path:
    """The same file with other extents at its input, and none at its output: what ONNX Runtime makes of it."""
    model = onnx.load(path)
    for axis, extent in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        axis.dim_value = extent
    for value in [*model.graph.output]:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (1, 3, 32, 32), (3, 3, 32, 64)], ids=str)
def test_extents_that_no_operator_holds_may_be_chosen(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx_from_module(model := Detector().eval(), (torch.rand(1, 3, 32, 32),), path)
    file = onnx.load(path)
    stored = {i.name: numpy_helper.to_array(i) for i in file.graph.initializer}
    held = [n for n in file.graph.node if n.op_type == "Reshape" and -1 not in stored.get(n.input[1], [-1])]
    x = torch.rand(shape)
    if held and shape != (1, 3, 32, 32):
        with pytest.raises(UserError, match="the operator Reshape"):
            module_from_onnx(path, shape)
        for node in held:
            (size,) = [i for i in file.graph.initializer if i.name == node.input[1]]
            del node.attribute[:]  # allowzero
            size.CopyFrom(numpy_helper.from_array(np.int64([0, 0, -1]), size.name))
        onnx.save(file, path)
    module = module_from_onnx(path, shape)
    with torch.no_grad():
        assert_close(outputs(module, (x,)), [model(x).numpy()], 1e-5)
    assert_close(outputs(module, (x,)), runtime(reopened(path, [*shape], tmp_path / "o.onnx"), (x,)), 1e-5)
    assert cc.prune(module, x, keep=0.5).proof.passed


def held_by(node: onnx.NodeProto, folder: Path, **stored: Any) -> Path:
    constants = {"w": onnx_cases.f(8, 3, 1, 1), "none": np.float32([]), **stored}
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), node]
    ends = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])], [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()])
    graph.initializer.extend(numpy_helper.from_array(constants[k], k) for k in ("w", "none"))
    opset = [helper.make_opsetid("", 17)]
    return saved(helper.make_model(graph, opset_imports=opset, ir_version=8), folder)


HOLDERS: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "resize": (helper.make_node("Resize", ["c", "", "", "s"], ["y"]), {"s": np.int64([1, 8, 16, 16])}),
    "slice": (
        helper.make_node("Slice", ["c", "a", "e", "axes"], ["y"]),
        {"a": np.int64([1]), "e": np.int64([8]), "axes": np.int64([2])},
    ),
    "reshape": (helper.make_node("Reshape", ["c", "s"], ["y"]), {"s": np.int64([-1, 8, 64])}),
    "reshape without a free axis": (helper.make_node("Reshape", ["c", "s"], ["y"]), {"s": np.int64([1, 8, 64])}),
    "pool": (helper.make_node("AveragePool", ["c"], ["y"], kernel_shape=[8, 8]), {}),
    "grid": (helper.make_node("Add", ["c", "g"], ["y"]), {"g": np.ones((1, 1, 8, 8), np.float32)}),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_an_operator_that_holds_an_extent_is_named(name: str, tmp_path: Path) -> None:
    node, stored = HOLDERS[name]
    path = held_by(node, tmp_path, **stored)
    x = torch.rand(1, 3, 8, 8)
    assert_close(outputs(module_from_onnx(path), (x,)), runtime(path, (x,)), 1e-5)
    with pytest.raises(UserError, match=f"the operator {node.op_type} "):
        module_from_onnx(path, (1, 3, 16, 16))


def test_other_channels_are_refused_by_the_layer(tmp_path: Path) -> None:
    path = held_by(helper.make_node("Relu", ["c"], ["y"]), tmp_path)
    assert module_from_onnx(path, (2, 3, 4, 6))(torch.rand(2, 3, 4, 6)).shape == (2, 8, 4, 6)
    with pytest.raises(UserError, match=r"the operator Conv .* does not run on inputs of shapes"):
        module_from_onnx(path, (1, 4, 8, 8))
