"""What is written computes what the module computes: on black images, with quiet outputs, whatever these are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.errors import UserError
from channelcut.onnx_out.comparison import relative_error
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.inputs import Trial, extremes
from channelcut.onnx_out.module import ExportOptions, onnx_from_module
from channelcut.onnx_out.names import rename
from channelcut.onnx_out.parity import ParityCheck, run_onnx
from channelcut.onnx_out.rewriting import accept_rewrite

torch.set_num_threads(1)
IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """A convolution without bias, of which a black image makes zeros, and a function of it."""

    def __init__(self, function: Callable[[Tensor], Any], bias: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.conv = function, nn.Conv2d(3, 8, 3, 1, 1, bias=bias is not None)
        if bias is not None:
            nn.init.constant_(self.conv.bias, bias)
        self.register_buffer("tiny", torch.tensor(1e-11))

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


EPSILONS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda f: (f.square() + 1e-10).log(),
    "log of a denormal": lambda f: (f.square() + 1e-40).log(),
    "subtracted": lambda f: (f.square() - (-1e-9)).log(),
    "norm": lambda f: f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10),
    "rsqrt": lambda f: f * torch.rsqrt(f.square().mean(1, keepdim=True) + 1e-12),
    "double": lambda f: 1 / (torch.tensor(1e-9, dtype=torch.float64) + f.square()),
    "rms norm": lambda f: F.rms_norm(f, (16,), eps=1e-12),
    "deviation": lambda f: f / (f.std((2, 3), keepdim=True) + 1e-9),
    "near one": lambda f: (f * (1 + 4e-6) - f) * 1e6,
    "log of a sigmoid": lambda f: F.logsigmoid(f * 60),
    "log of a sum of exponentials": lambda f: torch.logaddexp(f * 200, -f * 200),
    "log of a sum of powers": lambda f: torch.logaddexp2(f * 200, f),
}


@pytest.mark.parametrize("simplifiers", [("onnxsim",), ("onnxslim",)], ids=str)
@pytest.mark.parametrize("name", EPSILONS)
def test_small_constants_stay_where_they_matter(name: str, simplifiers: tuple[str, ...], tmp_path: Path) -> None:
    module, path = Head(EPSILONS[name]).eval(), tmp_path / "m.onnx"
    report = onnx_from_module(module, (IMAGE,), path, ExportOptions(simplifiers=simplifiers))
    assert report.refusals == () and {"zeros", "half zeros", "one constant", "large values"} <= {*report.compared_on}
    half = IMAGE.clone()
    half[..., 8:] = 0
    for image in (torch.zeros_like(IMAGE), half, torch.full_like(IMAGE, 0.5), IMAGE * 255):
        with torch.no_grad():
            wanted = module(image)
        (found,) = run_onnx(load_onnx(path), [image.numpy()])
        assert wanted.isfinite().all() and np.isfinite(found).all()
        if name != "near one":
            assert relative_error(wanted, found) < 5e-3


def test_a_buffer_is_a_constant_too(tmp_path: Path) -> None:
    class Buffered(Head):
        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x).square() + self.tiny).log()

    onnx_from_module(Buffered(lambda f: f).eval(), (IMAGE,), tmp_path / "m.onnx")
    (found,) = run_onnx(load_onnx(tmp_path / "m.onnx"), [np.zeros(IMAGE.shape, np.float32)])
    assert np.allclose(found, np.log(1e-11))


def without_additions(model: onnx.ModelProto) -> onnx.ModelProto:
    """What a simplifier does that takes 1e-10 for 0."""
    for node in model.graph.node:
        if node.op_type == "Add":
            del node.input[1:]
            node.op_type = "Identity"
    return model


@pytest.mark.parametrize("name", ["log", "norm", "rsqrt"])
def test_a_lost_constant_is_seen_on_zeros_alone(name: str, tmp_path: Path) -> None:
    module, path = Head(EPSILONS[name]).eval(), tmp_path / "m.onnx"
    onnx_from_module(module, (IMAGE,), path)
    check = ParityCheck(module, [Trial("the example", (IMAGE,)), *extremes((IMAGE,))])
    accepted = accept_rewrite(load_onnx(path), [("planted", without_additions)], check)
    assert accepted.name == "none"
    assert "is not finite at 2048 of 2048 places where the module is finite, on zeros" in accepted.refusals[0]
    loud = ParityCheck(module, [Trial("the example", (IMAGE,))])
    assert name == "log" or not loud(without_additions(load_onnx(path))).refused, "or this test shows nothing"


def heat(f: Tensor) -> tuple[Tensor, Tensor]:
    return f[:, :1].sigmoid(), f[:, 1:]


QUIET: dict[str, tuple[Callable[[Tensor], Any], float]] = {
    "heat map": (heat, -8.5),
    "heat map near nothing": (heat, -16.0),
    "peaks": (lambda f: f.sigmoid() * (F.max_pool2d(f.sigmoid(), 3, 1, 1) == f.sigmoid()), -11.0),
    "product": (lambda f: f[:, :4].sigmoid() * f[:, 4:].sigmoid(), -7.0),
    "softmax": (lambda f: torch.cat([f, f[:, :1] + 15], 1).softmax(1)[:, :8], 0.0),
    "tanh": (lambda f: 1 - (f + 14).tanh(), -6.0),
    "relu": (lambda f: f.relu(), -50.0),
    "silu": (F.silu, -14.0),
    "gelu": (F.gelu, -6.0),
    "elu": (lambda f: F.elu(f * 1e-5), 0.0),
    "log1p": (lambda f: (f.square() * 1e-6).log1p(), 0.0),
    "transposed": (lambda f: {"scores": f.flatten(2).transpose(1, 2).sigmoid(), "boxes": f * 640}, -12.0),
    "pieces": (lambda f: torch.cat([f.flatten(2) * 1e-3, (f.flatten(2) - 10).sigmoid()], 1), 0.0),
}


@pytest.mark.parametrize("name", QUIET)
def test_a_quiet_output_is_no_difference(name: str, tmp_path: Path) -> None:
    function, bias = QUIET[name]
    report = onnx_from_module(Head(function, bias).eval(), (IMAGE,), tmp_path / "m.onnx")
    assert report.simplifier == "onnxsim" and report.refusals == ()


def scaled(factor: float) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        kernel = next(i for i in model.graph.initializer if len(i.dims) == 4)
        array = numpy_helper.to_array(kernel).copy()
        array[0] *= factor
        kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))
        return model

    return rewrite


@pytest.mark.parametrize("bias", [-8.5, -16.0])
def test_a_wrong_quiet_output_is_refused_where_it_speaks(bias: float, tmp_path: Path) -> None:
    module, path = Head(heat, bias).eval(), tmp_path / "m.onnx"
    onnx_from_module(module, (IMAGE,), path)
    check = ParityCheck(module, [Trial("the example", (IMAGE,)), *extremes((IMAGE,))])
    assert "output 'output_0' differs by" in check(scaled(1.01)(load_onnx(path))).refused
    assert not check(load_onnx(path)).refused


def test_one_output_s_rounding_excuses_no_other(tmp_path: Path) -> None:
    module, path = Head(lambda f: (f + 1e5 - 1e5, f[:, :1] * 1.0)).eval(), tmp_path / "m.onnx"
    onnx_from_module(module, (IMAGE,), path)
    check = ParityCheck(module, [Trial("the example", (IMAGE,))])
    assert "output 'output_1' differs by" in check(scaled(1.002)(load_onnx(path))).refused


def test_near_equal_classes_and_ties_are_no_difference(tmp_path: Path) -> None:
    class Classes(Head):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            f = self.conv(F.pad(x, (8, 8, 8, 8), mode="replicate"))
            return f.argmax(1), f.flatten(2).argmax(2)  # of an even image, many places tie

    report = onnx_from_module(Classes(lambda f: f).eval(), (IMAGE,), tmp_path / "m.onnx")
    assert report.refusals == ()


def test_what_the_module_cannot_do_on_zeros_is_not_asked_of_the_file(tmp_path: Path) -> None:
    class Picky(Head):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling() and not bool(x.abs().sum() > 0):
                raise ValueError("black")
            return self.conv(x).abs().log() / x.mean()

    report = onnx_from_module(Picky(lambda f: f).eval(), (IMAGE,), tmp_path / "m.onnx")
    assert "zeros" not in report.compared_on and "half zeros" in report.compared_on


def test_real_inputs_are_compared_too(tmp_path: Path) -> None:
    samples = [(torch.rand(1, 3, 16, 16),), (torch.rand(1, 3, 16, 16),)]
    report = onnx_from_module(Head(heat, 0.0).eval(), (IMAGE,), tmp_path / "m.onnx", samples=samples)
    assert report.compared_on[:4] == ("the example", "random values", "sample 1", "sample 2")


def test_extremes_change_signals_alone() -> None:
    image, scale, mask, pixels = torch.rand(1, 3, 8, 8), torch.rand(1, 2), torch.ones(1, 3, 8, 8) > 0, torch.ones(1, 4)
    trials = {t.name: t.inputs for t in extremes((image, scale, mask))}
    assert not trials["zeros"][0].any() and torch.equal(trials["zeros"][1], scale) and trials["zeros"][2] is mask
    half = trials["half zeros"][0]
    assert torch.equal(half[..., :4], image[..., :4]) and not half[..., 4:].any()
    assert float(trials["large values"][0].max()) > 200 and float(trials["large negative values"][0].min()) < -200
    assert trials["one constant"][0].unique().numel() == 1 and float(trials["one constant"][0].max()) > 0
    (large,) = [t.inputs[0] for t in extremes((pixels.to(torch.uint8),)) if t.name == "large values"]
    assert large.dtype == torch.uint8 and large.min() == 255
    assert extremes((torch.ones((), dtype=torch.float32),)) == [] and extremes((torch.ones(3).long(),)) == []


def keras(output: str, folder: Path) -> Path:
    """Two convolutions and a transposition, with an output of that name."""
    random = np.random.RandomState(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Transpose", ["c"], [output], perm=[0, 2, 3, 1]),
    ]
    weights = [
        numpy_helper.from_array(random.randn(*shape).astype("f4") * 0.1, name)
        for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (4, 16, 1, 1)))
    ]
    value = helper.make_tensor_value_info
    ends = value("x", TensorProto.FLOAT, [1, 3, 16, 16]), value(output, TensorProto.FLOAT, [1, 14, 14, 4])
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7), folder / "k.onnx")
    return folder / "k.onnx"


NAMES = ["y", "conv2d", "conv2d_1", "relu", "permute", "c.weight", "model.c.weight", "a b/c:0", "val_0", "x_1"]


@pytest.mark.parametrize("name", NAMES)
def test_an_output_may_have_any_name(name: str, tmp_path: Path) -> None:
    path = keras(name, tmp_path)
    x = cc.example_inputs_from_onnx(path)
    report = onnx_from_module(cc.from_onnx(path), x, tmp_path / "again.onnx")
    assert report.output_names == (name,) and report.input_names == ("x",)
    model = load_onnx(tmp_path / "again.onnx")
    assert [output.name for output in model.graph.output] == [name]
    onnx.checker.check_model(model, full_check=True)
    wanted, found = (run_onnx(m, [x[0].numpy()])[0] for m in (load_onnx(path), model))
    assert np.allclose(wanted, found, atol=1e-6)


class Named(nn.Module):
    """Outputs that are the input, a weight, each other, and names that the exporter, the input and weights have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        f = self.conv(image).relu()
        return {
            "image": f, "conv2d": f, "relu": image, "model.conv.weight": self.conv.weight, "conv": self.conv.bias,
            "a b": f + 1, "a_b": f + 1, "channelcut_topk_0": f.topk(2, 1).indices, "channelcut_topk_0_indices": f * 2,
        }  # fmt: skip


@pytest.mark.parametrize("simplifiers", [("onnxsim",), ()], ids=str)
def test_outputs_that_are_named_like_something_else(simplifiers: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, path = Named().eval(), tmp_path / "m.onnx"
    report = onnx_from_module(module, (IMAGE,), path, ExportOptions(simplifiers=simplifiers))
    assert report.refusals == () and report.output_names == (
        "image_1", "conv2d", "relu", "model.conv.weight", "conv", "a_b", "a_b_1", "channelcut_topk_0",
        "channelcut_topk_0_indices",
    )  # fmt: skip
    onnx.checker.check_model(load_onnx(path), full_check=True)
    for wanted, found in zip(module(IMAGE).values(), run_onnx(load_onnx(path), [IMAGE.numpy()]), strict=True):
        assert relative_error(wanted, found) < 1e-6


def test_names_inside_branches_follow() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["v"], ["out"])], "b", [], [helper.make_empty_tensor_value_info("out")]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["v"]),
        helper.make_node("If", ["c"], ["r"], then_branch=inner, else_branch=inner),
    ]
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, [2]), value("c", TensorProto.BOOL, [])], [value("r", TensorProto.FLOAT, [2])]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 17)])
    rename(model, ["v", "out"], ["x"])
    onnx.checker.check_model(model)
    (found,) = run_onnx(model, [np.array([1, -1], np.float32), np.array(True)])
    assert found.tolist() == [-1, 0] and [i.name for i in model.graph.input] == ["v", "out"]


def test_a_forward_that_draws_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not compute what the module computes"):
        onnx_from_module(Head(lambda f: f + torch.rand_like(f)).eval(), (IMAGE,), tmp_path / "m.onnx")
