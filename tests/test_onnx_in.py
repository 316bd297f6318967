"""A network that exists only as an ONNX file: imported, equal to ONNX Runtime, pruned, and written as ONNX again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnx_cases
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import channelcut as cc
from benchmarks.zoo import data
from benchmarks.zoo.registry import ENTRIES
from channelcut.cli import main
from channelcut.core.errors import UserError
from channelcut.core.specs import InputSpec
from channelcut.onnx_in import example_inputs_from_onnx, module_from_onnx
from channelcut.onnx_in.registry import OPERATORS
from channelcut.onnx_in.reshape import blocks
from channelcut.onnx_out.module import onnx_from_module
from channelcut.sources import open_source

ASSETS = data.assets_root()
needs_assets = pytest.mark.skipif(ASSETS is None, reason="no assets folder: set CHANNELCUT_ASSETS")
FILES = ("yolox_nano", "fastestdet")


def asset(name: str) -> Path:
    assert ASSETS is not None
    return ASSETS / "weights" / f"{name}.onnx"


def outputs(module: nn.Module, inputs: Any) -> list[np.ndarray]:
    with torch.no_grad():
        found = module(*inputs)
    return [t.detach().numpy() for t in (found if isinstance(found, tuple) else (found,))]


def runtime(path: Path, inputs: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: v.numpy() for i, v in zip(session.get_inputs(), inputs, strict=True)})


def assert_close(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float) -> None:
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        if mine.dtype.kind != "f":
            np.testing.assert_array_equal(mine, theirs)
        elif theirs.size:
            scale = max(float(np.nanmax(np.abs(np.where(np.isfinite(theirs), theirs, 0)))), 1e-6)
            np.testing.assert_allclose(mine / scale, theirs / scale, rtol=0, atol=tolerance)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("case", onnx_cases.CASES, ids=lambda c: c.name)
def test_an_operator_computes_what_onnx_runtime_computes(case: onnx_cases.Case, tmp_path: Path) -> None:
    path = saved(case.model(), tmp_path)
    inputs = [torch.from_numpy(np.asarray(a)) for a in case.feeds().values()]
    try:
        wanted = runtime(path, inputs)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        wanted = ReferenceEvaluator(str(path)).run(None, case.feeds())
    assert_close(outputs(module_from_onnx(path), inputs), wanted, 1e-5)


EXACT = (
    "Conv Gemm MatMul LayerNormalization BatchNormalization ReduceMean ReduceL2 Softmax Selu Erf PRelu Pow Sub".split()
)


@pytest.mark.parametrize("case", [c for c in onnx_cases.CASES if c.op in EXACT], ids=lambda c: c.name)
def test_in_float64_it_is_onnx_s_own_reference(case: onnx_cases.Case, tmp_path: Path) -> None:
    if case.opset < 13:
        pytest.skip("the reference implementation follows the later definition")
    if case.attributes.get("auto_pad"):
        pytest.skip("the reference implementation pads otherwise than ONNX Runtime")
    path = saved(case.model(double=True), tmp_path)
    feeds = case.feeds(double=True)
    wanted = ReferenceEvaluator(str(path)).run(None, feeds)
    found = outputs(module_from_onnx(path), [torch.from_numpy(np.asarray(a)) for a in feeds.values()])
    assert_close(found, [np.asarray(w) for w in wanted], 1e-7 if case.op in ("Erf", "Selu") else 1e-12)


def test_every_operator_of_the_table_has_a_case() -> None:
    assert set(OPERATORS) == {case.op for case in onnx_cases.CASES}


def exported(model: nn.Module, inputs: tuple[Any, ...], folder: Path) -> Path:
    path = folder / "original.onnx"
    onnx_from_module(model, inputs, path)
    return path


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a network; made once, because writing and checking it takes longer than what is tested."""

    @cache
    def made(name: str) -> Path:
        return exported(networks.build(name), (networks.example(),), tmp_path_factory.mktemp(name))

    return made


@pytest.fixture(scope="module")
def cut_of(file_of: Callable[[str], Path]) -> Callable[[str], cc.PruneResult]:
    """Half of a network's file; cut once."""

    @cache
    def made(name: str) -> cc.PruneResult:
        return cc.prune(module_from_onnx(file_of(name)), networks.example(), keep=0.5)

    return made


# New strides are written as lists of positions.
LISTED = {"ChannelsLast"}


@pytest.mark.parametrize("name", sorted(LISTED))
def test_channels_that_a_file_lists_by_position_are_pinned_with_the_reason(name: str, tmp_path: Path) -> None:
    module = module_from_onnx(exported(networks.build(name), (networks.example(),), tmp_path))
    with pytest.raises(cc.UserError, match="indexed by a tensor"):
        cc.prune(module, networks.example(), keep=0.5)


@pytest.mark.parametrize("name", sorted(set(networks.NETWORKS) - LISTED))
def test_networks_come_back_from_their_export(
    name: str, file_of: Callable[[str], Path], cut_of: Callable[[str], cc.PruneResult]
) -> None:
    x, path = networks.example(), file_of(name)
    assert_close(outputs(module_from_onnx(path), (x,)), runtime(path, (x,)), 1e-5)
    result = cut_of(name)
    assert result.proof.passed
    assert result.proof.max_relative_error <= 1e-9
    assert result.plan.params_ratio < 0.95


# A file has no attributes that could follow: slices of unequal width, writes in place, and heads whose extents stand
# in it as numbers, also where several share a key, are positions, and so are windows. Either number of a
# shuffle may follow its width: in ShuffledThirds it is the other one.
POSITIONS = {"SlicedBySelf", "InPlace", "NarrowHeads", "SharedKeys", "Patches", "ShuffledThirds"}


@pytest.mark.parametrize("name", sorted(set(networks.NETWORKS) - POSITIONS - LISTED))
def test_nothing_is_pinned_that_is_free_in_the_original(name: str, cut_of: Callable[[str], cc.PruneResult]) -> None:
    model, x = networks.build(name), networks.example()
    direct = cc.plan(model, cc.analyze(model, x), keep=0.5)
    assert cut_of(name).plan.after.macs <= direct.after.macs * 1.001


def ultralytics_export(name: str, folder: Path) -> tuple[nn.Module, Path]:
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed: pip install 'channelcut[ultralytics]'")
    torch.manual_seed(0)
    model = open_source(f"ultralytics:{name}.yaml").build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model, exported(model, (torch.rand(1, 3, 160, 160),), folder)


def check_whole_path(path: Path, folder: Path, ratio: float) -> None:
    """Equal, trainable, pruned, proven, written again, loaded again; inputs are pixels, as YOLOX takes them."""
    module, inputs = cc.from_onnx(path), tuple(t * 255 for t in cc.example_inputs_from_onnx(path))
    assert_close(outputs(module, inputs), runtime(path, inputs), 1e-4)
    result = cc.prune(module, inputs, keep=0.5)
    assert result.proof.passed
    assert result.proof.max_relative_error <= 1e-9
    assert result.proof.training == "passed"
    count = sum(p.numel() for p in result.model.parameters())
    assert count == result.plan.after.params < ratio * sum(p.numel() for p in module.parameters())
    report = onnx_from_module(result.model, inputs, folder / "pruned.onnx")
    before, after = (onnx.load(str(p)).graph for p in (path, folder / "pruned.onnx"))
    assert list(report.output_names) == [o.name for o in before.output] == [o.name for o in after.output]
    assert [i.name for i in before.input] == [i.name for i in after.input]
    assert_close(outputs(result.model, inputs), runtime(folder / "pruned.onnx", inputs), 1e-4)
    cc.save(result, folder / "result")
    again = cc.load(lambda: cc.from_onnx(path), folder / "result")
    assert_close(outputs(again, inputs), outputs(result.model, inputs), 0.0)


@pytest.mark.assets
@needs_assets
@pytest.mark.parametrize(("name", "ratio"), [("yolox_nano", 0.3), ("fastestdet", 0.35)])
def test_the_whole_path_on_published_files(name: str, ratio: float, tmp_path: Path) -> None:
    check_whole_path(asset(name), tmp_path, ratio)


@pytest.mark.parametrize(("name", "ratio"), [("yolo26n", 0.315), ("yolov8n", 0.33)])
def test_the_whole_path_on_current_yolos(name: str, ratio: float, tmp_path: Path) -> None:
    _, path = ultralytics_export(name, tmp_path)
    check_whole_path(path, tmp_path, ratio)


@pytest.mark.assets
@needs_assets
def test_fastestdet_loses_as_much_as_its_original() -> None:
    entry, path = ENTRIES["fastestdet"], asset("fastestdet")
    direct = cc.prune(entry.build().eval(), torch.rand(entry.input_shape), keep=0.5).plan
    imported = cc.prune(cc.from_onnx(path), cc.example_inputs_from_onnx(path), keep=0.5).plan
    assert (imported.before.macs, imported.after.macs) == (direct.before.macs, direct.after.macs)


def test_the_older_exporter_s_names_and_open_batch(tmp_path: Path) -> None:
    """Weights without names, nodes named by path, shapes computed from the input's."""
    path, x = tmp_path / "script.onnx", networks.example()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            networks.build("Shuffle"), (x,), str(path), dynamo=False, opset_version=13,
            dynamic_axes={"input": {0: "N"}}, input_names=["input"], output_names=["scores"],
        )  # fmt: skip
    module = cc.from_onnx(path)
    assert module.get_submodule("stem.0").out_channels == 16
    assert_close(outputs(module, (x,)), runtime(path, (x,)), 1e-5)
    result = cc.prune(module, x[:1], keep=0.5)
    report = onnx_from_module(result.model, (x[:1],), tmp_path / "pruned.onnx")
    assert (report.input_names, report.output_names) == (("input",), ("scores",))


@pytest.mark.assets
@needs_assets
def test_the_shuffled_halves_of_fastestdet_work_for_any_batch() -> None:
    module = module_from_onnx(asset("fastestdet"))
    x = torch.rand(2, 3, 352, 352)
    with torch.no_grad():
        torch.testing.assert_close(module(x)[1:], module(x[1:]), rtol=1e-4, atol=1e-5)


def test_layers_are_real_named_and_the_same_every_time(tmp_path: Path) -> None:
    path = exported(networks.build("Norms"), (networks.example(),), tmp_path)
    module, again = module_from_onnx(path), module_from_onnx(path)
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules() if not list(layer.children())}
    assert kinds["model.a"] == "Conv2d"
    assert kinds["model.ln"] == "LayerNorm"
    assert {"Linear", "GroupNorm", "PReLU"} <= set(kinds.values())
    state, other = module.state_dict(), again.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_layer_used_twice_and_a_shared_weight_stay_so(tmp_path: Path) -> None:
    weights = {"twice.weight": onnx_cases.f(3, 3, 1, 1), "bias": onnx_cases.f(3)}
    nodes = [
        helper.make_node("Conv", ["x", "twice.weight"], ["a"]),
        helper.make_node("Conv", ["a", "twice.weight"], ["b"]),
        helper.make_node("Conv", ["b", "twice.weight", "bias"], ["y"]),
    ]
    module = module_from_onnx(saved(graph_of(nodes, weights, [1, 3, 4, 4]), tmp_path))
    assert [n.target for n in module.graph.nodes if n.op == "call_module"] == ["twice", "twice", "twice_1"]
    assert module.twice.weight is module.twice_1.weight


@pytest.mark.parametrize("name", ["C2f", "Attention", "Norms", "Squeeze"])
def test_one_backward_step_gives_finite_gradients(name: str, tmp_path: Path) -> None:
    module = module_from_onnx(exported(networks.build(name), (networks.example(),), tmp_path)).train()
    module(torch.randn(4, 3, 16, 16)).pow(2).mean().backward()
    gradients = [p.grad for p in module.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, Any], dims: list[Any], opset: int = 17) -> Any:
    feed = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [feed], [helper.make_empty_tensor_value_info("y")], stored)
    return onnx_cases.make(graph, opset)


def test_slices_into_equal_parts_may_shrink(tmp_path: Path) -> None:
    """Both halves of the channels, cut by slices whose bounds are computed from the shape."""
    weights = {
        "w": onnx_cases.f(8, 3, 1, 1),
        "v": onnx_cases.f(2, 4, 1, 1),
        "two": np.int64([2]),
        "zero": np.int64([0]),
    }
    weights |= {"one": np.int64([1]), "end": np.int64([2**62])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["channels"]),
        helper.make_node("Div", ["channels", "two"], ["half"]),
        helper.make_node("Slice", ["c", "zero", "half", "one"], ["a"]),
        helper.make_node("Slice", ["c", "half", "end", "one"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("Conv", ["m", "v"], ["y"]),
    ]
    path = saved(graph_of(nodes, weights, [1, 3, 4, 4]), tmp_path)
    module = module_from_onnx(path)
    assert torch.chunk in {node.target for node in module.graph.nodes}
    inputs = example_inputs_from_onnx(path)
    assert_close(outputs(module, inputs), runtime(path, inputs), 1e-5)
    result = cc.prune(module, inputs, keep=0.5)
    assert result.model.get_submodule("Conv_0").out_channels == 4


def test_a_product_and_the_bias_after_it_are_one_layer(tmp_path: Path) -> None:
    weights = {"fc.weight": onnx_cases.f(4, 6), "fc.bias": onnx_cases.f(6), "other": onnx_cases.f(6, 3)}
    nodes = [
        helper.make_node("MatMul", ["x", "fc.weight"], ["p"]),
        helper.make_node("Add", ["fc.bias", "p"], ["h"]),
        helper.make_node("MatMul", ["h", "other"], ["q"]),
        helper.make_node("Add", ["q", "q"], ["y"]),
    ]
    path = saved(graph_of(nodes, weights, [2, 5, 4]), tmp_path)
    module, inputs = module_from_onnx(path), example_inputs_from_onnx(path)
    assert module.fc.bias.shape == (6,)
    assert [node.op for node in module.graph.nodes] == [
        "placeholder", "call_module", "call_module", "call_function", "output",
    ]  # fmt: skip
    assert_close(outputs(module, inputs), runtime(path, inputs), 1e-5)


def test_query_key_and_value_of_other_widths_lose_channels_within_their_heads(tmp_path: Path) -> None:
    weights = {"w": onnx_cases.f(64, 3, 1, 1), "v": onnx_cases.f(5, 32, 1, 1)}
    shapes = {"heads": np.int64([1, 2, 32, 16]), "widths": np.int64([8, 8, 16]), "image": np.int64([1, 32, 4, 4])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "heads"], ["h"]),
        helper.make_node("Split", ["h", "widths"], ["q", "k", "u"], axis=2),
        helper.make_node("Transpose", ["q"], ["qt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["qt", "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["u", "weights"], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "image"], ["m"]),
        helper.make_node("Conv", ["m", "v"], ["y"]),
    ]
    path = saved(graph_of(nodes, {**weights, **shapes}, [1, 3, 4, 4]), tmp_path)
    inputs = example_inputs_from_onnx(path)
    module = module_from_onnx(path)
    assert_close(outputs(module, inputs), runtime(path, inputs), 1e-5)
    result = cc.prune(module, inputs, keep=0.5)
    assert result.proof.max_relative_error <= 1e-9
    assert result.model.get_submodule("Conv_0").out_channels == 32
    assert result.model.get_submodule("Conv_8").in_channels == 16


def test_reshapes_name_no_axis_that_stays() -> None:
    assert blocks((1, 48, 4, 4), (1, 2, 24, 4, 4))[0].target() == (2, -1)
    assert blocks((2, 16, 4, 4), (2, 2, 8, 16))[0].target() == (2, -1)
    assert blocks((2, 16, 4, 4), (2, 4, 4, 16), inferred=2)[0].target() == (4, -1)
    assert blocks((1, 6, 1, 1), (6,))[0].target() == (-1,)
    assert blocks((0, 3), (3, 0)) is None
    assert blocks((), (1,)) is None


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    feed = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 4])
    stored = numpy_helper.from_array(np.float16([1, 2, 3, 4]), "w")
    graph = helper.make_graph([node], "g", [feed], [helper.make_empty_tensor_value_info("y")], [stored])
    module = module_from_onnx(saved(onnx_cases.make(graph, 17), tmp_path))
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_an_open_batch_is_one_and_other_axes_must_be_given(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    path = saved(graph_of(relu, {}, ["N", 3, 8, 8]), tmp_path)
    assert example_inputs_from_onnx(path)[0].shape == (1, 3, 8, 8)
    path = saved(graph_of(relu, {}, ["N", 3, "H", 8]), tmp_path)
    with pytest.raises(UserError, match=r"axis 2 of the input 'x' is open \(its shape is Nx3xHx8\).*--input 1x3x640x8"):
        module_from_onnx(path)
    assert example_inputs_from_onnx(path, (2, 3, 6, 8))[0].shape == (2, 3, 6, 8)
    assert example_inputs_from_onnx(path, {"x": (2, 3, 6, 8)})[0].shape == (2, 3, 6, 8)
    assert example_inputs_from_onnx(path, size=(4, 6))[0].shape == (1, 3, 4, 8)
    with pytest.raises(UserError, match=r"the input 'x' has 4 axes \(Nx3xHx8\), but 3x6x8 was given"):
        module_from_onnx(path, (3, 6, 8))
    with pytest.raises(UserError, match=r"has no input 'z'. Its inputs are: x"):
        module_from_onnx(path, {"z": (1,), "x": (1, 3, 6, 8)})


def test_an_unknown_operator_is_named_with_its_node_and_opset(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"], name="head/NonZero_7"),
        helper.make_node("Cast", ["n"], ["y"], to=1),
    ]
    path = saved(graph_of(nodes, {}, [2, 3]), tmp_path)
    with pytest.raises(UserError) as caught:
        module_from_onnx(path)
    text = str(caught.value)
    assert "the operator NonZero (node 'head/NonZero_7', output n, opset 17) cannot be imported" in text
    assert "without its post-processing" in text
    assert "\n" not in text


def test_an_operator_of_another_domain_is_refused_by_its_domain(tmp_path: Path) -> None:
    node = helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")
    feed = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([node], "g", [feed], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = saved(helper.make_model(graph, opset_imports=opsets), tmp_path)
    with pytest.raises(UserError, match=r"FusedConv .* of the domain 'com.microsoft' cannot be imported"):
        module_from_onnx(path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
            "in the mode 'linear' with the coordinates",
        ),
        ({"mode": "linear", "antialias": 1}, "makes an image smaller with antialias"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "crops or renormalises"),
    ],
)
def test_a_resize_that_torch_has_not_is_refused_by_name(attributes: Any, message: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Resize", ["x", "roi", "scales"], ["y"], **attributes)]
    constants = {"roi": np.float32([0] * 8), "scales": np.float32([1, 1, 0.5, 0.5])}
    with pytest.raises(UserError, match=f"the operator Resize .*{message}"):
        module_from_onnx(saved(graph_of(nodes, constants, [1, 2, 4, 4], 18), tmp_path))


def test_a_shape_that_follows_the_data_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["s"], to=7),
        helper.make_node("ConstantOfShape", ["s"], ["y"]),
    ]
    with pytest.raises(UserError, match=r"ConstantOfShape .* takes its input 0 \('s'\) from the data"):
        module_from_onnx(saved(graph_of(nodes, {}, [2]), tmp_path))


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(UserError, match="Cannot read the ONNX file"):
        module_from_onnx(path)
    path.write_bytes(b"\x08\x07\x12\xff\xff\xff not a model")
    with pytest.raises(UserError, match="is not an ONNX model, or is damaged"):
        module_from_onnx(path)


def test_operators_without_lowering_are_folded_where_all_is_constant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("OneHot", ["i", "depth", "values"], ["h"]),
        helper.make_node("Mul", ["x", "h"], ["y"]),
    ]
    constants = {"i": np.int64([2, 0]), "depth": np.int64(3), "values": np.float32([0, 1])}
    path = saved(graph_of(nodes, constants, [2, 3]), tmp_path)
    x = torch.rand(2, 3)
    assert_close(outputs(module_from_onnx(path), (x,)), runtime(path, (x,)), 0.0)


def test_the_command_line_takes_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(networks.build("C2f"), (torch.rand(1, 3, 16, 16),), tmp_path)
    assert main(["analyze", str(path), "--json"]) == 0
    out = tmp_path / "out"
    flags = ["--macs", "0.6", "--align", "1", "--no-engine", "--no-bench", "--quiet"]
    assert main(["compress", str(path), *flags, "--out", str(out)]) == 0
    smaller = open_source(str(out))
    assert [spec.shape for spec in smaller.inputs] == [(1, 3, 16, 16)]
    x = torch.rand(1, 3, 16, 16)
    assert_close(outputs(smaller.build(), (x,)), runtime(out / "model.onnx", (x,)), 1e-5)
    capsys.readouterr()


def test_a_file_with_several_inputs_is_opened(tmp_path: Path) -> None:
    feeds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("a", "b")]
    node = helper.make_node("Add", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "g", feeds, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])])
    path = saved(onnx_cases.make(graph, 17), tmp_path)
    model, x = open_source(str(path)).open()
    assert_close(outputs(model, x), runtime(path, x), 0.0)
    with pytest.raises(UserError, match=r"several have no name\. Give each by its name in the file"):
        open_source(str(path), inputs=(InputSpec((1, 3)), InputSpec((1, 3))))
    with pytest.raises(UserError, match=r"has no input .c.\. Its inputs are: a, b"):
        open_source(str(path), inputs=(InputSpec((1, 3), name="c"),))
