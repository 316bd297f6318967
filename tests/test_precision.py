"""Precision in the ONNX: what is lowered, what stays float32 by measurement, and what a user can get wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import channelcut
from channelcut.cli import main
from channelcut.compress import compress
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.specs import InputSpec
from channelcut.engine.protocol import EngineOptions
from channelcut.onnx_out.runtime import session_from_file
from channelcut.options import CompressOptions, PruneOptions
from channelcut.precision.cast import castable, prepared, simulated
from channelcut.precision.convert import PrecisionOptions, convert_precision
from channelcut.precision.feeds import feeds_from_images
from channelcut.precision.judge import judged, output_error
from channelcut.precision.judge import run as run_model
from channelcut.precision.quantize import METHODS, ranges
from channelcut.sources import Source

SIZE = 32


def network(path: Path, overflow: bool = False) -> Path:
    """Write three convolutions and a resize; with `overflow`, a branch whose square passes fp16's 65504."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((generator.standard_normal((8, c, 3, 3)) / 6).astype(np.float32), f"w{i}")
        for i, c in enumerate((3, 8, 8))
    ]
    constants = {"big": 1e3, "small": 1e-6}
    weights += [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()]
    weights.append(numpy_helper.from_array(np.asarray([1, 1, 2, 2], np.float32), "scales"))
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="second", pads=[1] * 4),
        helper.make_node("Resize", ["c", "", "scales"], ["d"], name="resize"),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="third"),
    ]
    if overflow:
        nodes += [
            helper.make_node("Mul", ["e", "big"], ["f"], name="up"),
            helper.make_node("Mul", ["f", "f"], ["g"], name="square"),
            helper.make_node("Mul", ["g", "small"], ["y"], name="down"),
        ]
    else:
        nodes.append(helper.make_node("Sigmoid", ["e"], ["y"], name="last"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 2 * SIZE - 2, 2 * SIZE - 2])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def pictures(folder: Path, count: int = 10, broken: int = 2) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for i in range(broken):
        (folder / f"broken{i}.png").write_bytes(b"\x89PNG but no more")
    return folder


def images() -> Any:
    return np.random.default_rng(1).random((8, 3, SIZE, SIZE)).astype(np.float32)


def run(path: Path, image: Any) -> Any:
    return session_from_file(path).run(None, {"image": image[None]})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_file_runs_within_the_error_that_it_reports(tmp_path: Path, precision: str) -> None:
    original, out = network(tmp_path / "m.onnx"), tmp_path / "low.onnx"
    report = convert_precision(original, out, precision, images())
    assert 0 < report.error <= report.budget and report.kept == ()
    measured = output_error([run(original, i) for i in images()[::2]], [run(out, i) for i in images()[::2]])
    assert 0 < measured <= 2 * report.error
    model = onnx.load(str(out))
    assert [o.type.tensor_type.elem_type for o in model.graph.output] == [TensorProto.FLOAT]
    stored = {t.data_type for t in model.graph.initializer if len(t.dims) == 4}
    assert stored == {TensorProto.FLOAT16 if precision == "fp16" else TensorProto.INT8}
    again = tmp_path / "again.onnx"
    convert_precision(original, again, precision, images())
    assert again.read_bytes() == out.read_bytes()


def test_bf16_is_typed_and_its_simulation_rounds(tmp_path: Path) -> None:
    original, out = network(tmp_path / "m.onnx"), tmp_path / "bf16.onnx"
    report = convert_precision(original, out, "bf16")
    assert 1e-4 < report.error <= report.budget
    model = onnx.load(str(out))
    onnx.checker.check_model(model, full_check=True)
    assert {t.data_type for t in model.graph.initializer if len(t.dims) == 4} == {TensorProto.BFLOAT16}


def test_what_overflows_stays_in_float32_and_the_rest_does_not(tmp_path: Path) -> None:
    out = tmp_path / "low.onnx"
    report = convert_precision(network(tmp_path / "m.onnx", overflow=True), out, "fp16", images())
    assert report.unrestricted_error == np.inf
    assert "square" in report.kept and not {"first", "second"} & set(report.kept)
    assert report.error <= report.budget
    assert np.isfinite(run(out, images()[0])[0]).all()
    types = {n.name: n for n in onnx.load(str(out)).graph.node}
    assert types["first"].output[0].endswith(".fp16") and types["square"].output[0] == "g"


def test_int8_keeps_layers_until_the_budget_is_met(tmp_path: Path) -> None:
    original = network(tmp_path / "m.onnx")
    free = convert_precision(original, tmp_path / "free.onnx", "int8", images())
    tight = PrecisionOptions(budget=free.error * 0.8)
    report = convert_precision(original, tmp_path / "tight.onnx", "int8", images(), tight)
    assert report.kept and report.error <= free.error * 0.8
    assert report.lowered + len(report.kept) == 3


def test_the_simulation_of_nothing_is_the_model(tmp_path: Path) -> None:
    model = prepared(onnx.load(str(network(tmp_path / "m.onnx"))), "fp16")
    assert [n.op_type for n in simulated(model, "fp16", []).graph.node] == [n.op_type for n in model.graph.node]


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    convert_precision(network(tmp_path / "m.onnx"), tmp_path / "low.onnx", "int8", images())
    said = channelcut.onnx_metadata(tmp_path / "low.onnx")
    assert said["precision"] == "int8" and said["calibration"] == "percentile over 8 images"
    assert said["version"] == channelcut.__version__
    assert str(tmp_path) not in "".join(said.values())
    assert channelcut.onnx_metadata(network(tmp_path / "plain.onnx")) == {}


def test_the_command_counts_broken_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = network(tmp_path / "m.onnx"), pictures(tmp_path / "data"), tmp_path / "low.onnx"
    assert main(["convert", str(model), "--precision", "int8", "--data", str(data), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["broken_images"] == ["broken0.png", "broken1.png"] and said["precision"] == "int8"
    assert said["rest"] == "fp16" and said["compared"] == "the outputs"
    flags = ["--rest", "fp32", "--force", "--data", str(data), "--out", str(out)]
    assert main(["convert", str(model), "--precision", "int8", *flags]) == 0
    assert "3 nodes lowered, 0 kept in fp32" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", str(model), "--precision", "fp16", "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_too_few_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = network(tmp_path / "m.onnx"), pictures(tmp_path / "data", count=3), tmp_path / "low.onnx"
    assert main(["convert", str(model), "--precision", "int8", "--data", str(data), "--out", str(out)]) == 2
    assert "at least 8, got 3" in capsys.readouterr().err
    assert not out.exists()


def test_a_data_set_of_ultralytics_calibrates_a_file_of_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ultralytics")
    from ultralytics_data import tiny_data

    model, data = network(tmp_path / "m.onnx"), tiny_data(tmp_path / "data", "detect", images=8)
    argv = ["convert", str(model), "--precision", "int8", "--data", data, "--out", str(tmp_path / "low.onnx"), "--json"]
    assert main(argv) == 2
    assert "does not say that it is of a network of theirs" in " ".join(capsys.readouterr().err.split())
    made = onnx.load(model)
    onnx.helper.set_model_props(made, {"task": "detect"})
    onnx.save(made, model)
    assert main(argv) == 0
    assert channelcut.onnx_metadata(tmp_path / "low.onnx")["calibration"] == "percentile over 8 images"


def test_impossible_budgets_and_bad_files(tmp_path: Path) -> None:
    model, out = network(tmp_path / "m.onnx"), tmp_path / "low.onnx"
    with pytest.raises(BudgetError, match="No node can be lowered within an output error of 1e-12"):
        convert_precision(model, out, "fp16", options=PrecisionOptions(budget=1e-12))
    with pytest.raises(UserError, match="no precision 'fp4'"):
        convert_precision(model, out, "fp4")
    with pytest.raises(UserError, match="needs a budget above 0"):
        PrecisionOptions(budget=-1)
    with pytest.raises(UserError, match="no calibration method 'magic'"):
        convert_precision(model, out, "int8", images(), PrecisionOptions(method="magic"))
    with pytest.raises(UserError, match="expected a batch of 1"):
        convert_precision(model, out, "fp16", images()[:, :, :8])
    (tmp_path / "text.onnx").write_text("no model at all")
    with pytest.raises(UserError, match=r"text\.onnx"):
        convert_precision(tmp_path / "text.onnx", out, "fp16")
    assert not out.exists()


def test_a_model_without_a_node_to_cast(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["s"]), helper.make_node("Shape", ["s"], ["y"])],
        "none",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )
    graph.node[0].op_type = "Abs"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match=r"No node of 'm\.onnx' can compute in fp16"):
        convert_precision(tmp_path / "m.onnx", tmp_path / "low.onnx", "fp16")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    from channelcut.engine import tensorrt_rtx

    convert_precision(network(tmp_path / "m.onnx"), tmp_path / "low.onnx", precision, images())
    tensorrt_rtx.build(tmp_path / "low.onnx", tmp_path / "low.engine", EngineOptions(capability="sm89"))
    assert (tmp_path / "low.engine").stat().st_size > 0


def test_compress_writes_each_precision_and_builds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    data, out = pictures(tmp_path / "data", count=9), tmp_path / "out"
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))\n"
    )
    command = ["compress", f"{tmp_path / 'net.py'}:make", "--input", "1x3x32x32", "--keep", "0.5", "--out", str(out)]
    flags = ["--precision", "fp16,int8", "--data", str(data), "--no-bench", "--json"]
    assert main([*command, "--precision", "int8", "--no-bench"]) == 2
    assert "Give --data a folder" in capsys.readouterr().err and not out.exists()
    assert main([*command, *flags]) == 0
    written = {p.name for p in out.iterdir()}
    assert {f"{s}.{p}.onnx" for s in ("model", "original") for p in ("fp16", "int8")} <= written
    assert {"model.fp16.sm89.engine", "model.int8.sm89.engine"} <= written
    said = channelcut.onnx_metadata(out / "model.int8.onnx")
    assert said["precision"] == "int8" and len(said["plan"]) == 16
    assert "plan" not in channelcut.onnx_metadata(out / "original.onnx")


def test_compress_takes_calibration_images_as_a_tensor(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    options = CompressOptions(
        PruneOptions(keep=0.5, calibration=torch.rand(8, 3, 16, 16)),
        capabilities=(), measure=False, precisions=("int8",),
    )  # fmt: skip
    report = compress(Source("net", lambda: (net, torch.rand(1, 3, 16, 16))), tmp_path / "out", options)
    assert (tmp_path / "out" / "model.int8.onnx").is_file()
    assert not any("Nothing was restored" in note for note in report["notes"])


def detector(path: Path) -> Path:
    """Write a detector in small: convolutions, scores and boxes of 64 anchors, a top-k of 8 by score."""
    generator = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 4, 4), "w1": (8, 8, 1, 1), "ws": (1, 8, 1, 1), "wb": (4, 8, 1, 1)}
    weights = [
        numpy_helper.from_array((generator.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    integers = {"k": [8], "scores": [1, 64], "boxes": [1, 4, 64], "row": [1, 1, 8], "four": [1, 4, 8]}
    weights += [numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in integers.items()]
    weights.append(numpy_helper.from_array(np.linspace(0, 3, 256, dtype=np.float32).reshape(1, 4, 64), "grid"))
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], name="stem", strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="neck"),
        helper.make_node("Conv", ["c", "ws"], ["s"], name="score"),
        helper.make_node("Reshape", ["s", "scores"], ["flat"], name="flatten"),
        helper.make_node("Sigmoid", ["flat"], ["p"], name="sigmoid"),
        helper.make_node("Conv", ["c", "wb"], ["t"], name="box"),
        helper.make_node("Reshape", ["t", "boxes"], ["u"], name="unfold"),
        helper.make_node("Add", ["u", "grid"], ["v"], name="decode"),
        helper.make_node("TopK", ["p", "k"], ["best", "which"], name="top", axis=1),
        helper.make_node("Reshape", ["which", "row"], ["place"], name="place"),
        helper.make_node("Expand", ["place", "four"], ["places"], name="expand"),
        helper.make_node("GatherElements", ["v", "places"], ["chosen"], name="gather", axis=2),
        helper.make_node("Exp", ["chosen"], ["y"], name="grow"),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8]),
            helper.make_tensor_value_info("best", TensorProto.FLOAT, [1, 8]),
        ],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_top_k_is_judged_by_what_reaches_it(tmp_path: Path, precision: str) -> None:
    """Near ties swap rows, so that the outputs differ by far more than any value does."""
    original, out = detector(tmp_path / "m.onnx"), tmp_path / "low.onnx"
    seen = judged(prepared(onnx.load(str(original)), precision))
    assert {v.name for v in seen.values} == {"p", "v"}
    assert seen.unseen == {"top", "place", "expand", "gather", "grow"}
    # On a flat image every score is within a rounding of the others: the order is the precision's own.
    flat = 1 + images() * 1e-3
    report = convert_precision(original, out, precision, flat)
    assert report.error <= report.budget and report.kept == () and report.compared == "the values before the selection"
    model = onnx.load(str(out))
    assert {n.name for n in model.graph.node} > seen.unseen
    types = {n.name: n.input[0] for n in model.graph.node}
    assert types["top"] == "p" and types["gather"] == "v" and types["grow"] == "chosen"
    source = prepared(onnx.load(str(original)), precision)
    lowered = (
        model if precision == "int8" else simulated(source, precision, set(castable(source, precision)) - seen.unseen)
    )
    feeds = [{"image": i[None]} for i in flat[::2]]
    assert output_error(run_model(source, feeds), run_model(lowered, feeds)) > 10 * report.error


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_int8_among_fp16(tmp_path: Path, rest: str) -> None:
    """Sensitive layers and everything between int8 layers are fp16, Q/DQ and their scales included."""
    original, out = network(tmp_path / "m.onnx"), tmp_path / "low.onnx"
    free = convert_precision(original, out, "int8", images(), PrecisionOptions(rest=rest))
    # The image is quantized as it is: a cast before it would only add work. The other cast is of the output.
    assert [n.input[0] for n in onnx.load(str(out)).graph.node if n.op_type == "Cast"] == ["y.fp16"] * (rest == "fp16")
    options = PrecisionOptions(budget=free.error * 0.8, rest=rest)
    report = convert_precision(original, out, "int8", images(), options)
    assert report.kept and report.rest == rest and report.error <= report.budget
    model = onnx.load(str(out))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    types |= {v.name: TensorProto.FLOAT for v in (*model.graph.input, *model.graph.output)}
    wanted = TensorProto.FLOAT16 if rest == "fp16" else TensorProto.FLOAT
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {types[name] for name in (*node.input, *node.output)} == {wanted}, node.name
        if node.op_type == "DequantizeLinear":
            assert types[node.input[1]] == types[node.output[0]] == wanted
        if node.op_type == "QuantizeLinear":
            assert (
                types[node.input[0]]
                == types[node.input[1]]
                == (TensorProto.FLOAT if node.input[0] == "image" else wanted)
            )
    measured = output_error([run(original, i) for i in images()[::2]], [run(out, i) for i in images()[::2]])
    assert 0 < measured <= 1.2 * report.error


def test_what_overflows_stays_float32_beside_int8(tmp_path: Path) -> None:
    report = convert_precision(network(tmp_path / "m.onnx", overflow=True), tmp_path / "low.onnx", "int8", images())
    assert report.rest == "fp16" and "square" in report.rest_kept and "first" not in report.rest_kept
    assert np.isfinite(run(tmp_path / "low.onnx", images()[0])[0]).all()


def test_small_weights_survive_scales_in_fp16(tmp_path: Path) -> None:
    """A scale below fp16's normal numbers is rounded first and the weights are quantized by what it became."""
    original = network(tmp_path / "m.onnx")
    model = onnx.load(str(original))
    for weight in model.graph.initializer:
        if weight.name == "w1":
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e-4), "w1"))
        if weight.name == "w2":
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e4), "w2"))
    onnx.save(model, str(original))
    report = convert_precision(original, tmp_path / "low.onnx", "int8", images(), PrecisionOptions(budget=10))
    assert report.lowered == 3
    full = convert_precision(
        original, tmp_path / "full.onnx", "int8", images(), PrecisionOptions(budget=10, rest="fp32")
    )
    assert report.error < 3 * full.error


@pytest.mark.parametrize("opset", [17, 20, 23])
def test_tensorrt_rtx_builds_int8_among_fp16(tmp_path: Path, opset: int) -> None:
    pytest.importorskip("tensorrt_rtx")
    from channelcut.engine import tensorrt_rtx

    original, out = network(tmp_path / "m.onnx"), tmp_path / "low.onnx"
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(original)), opset), str(original))
    free = convert_precision(original, out, "int8", images())
    assert free.rest == "fp16" and free.rest_kept == ()
    report = convert_precision(original, out, "int8", images(), PrecisionOptions(budget=free.error * 0.8))
    assert report.kept
    tensorrt_rtx.build(out, tmp_path / "low.engine", EngineOptions(capability="sm89"))
    assert (tmp_path / "low.engine").stat().st_size > 0


def test_compress_counts_and_reads_images_once_and_before_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from channelcut import compress as module

    few, many = pictures(tmp_path / "few", count=3), pictures(tmp_path / "many", count=9)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()

    shape = (InputSpec((1, 3, 16, 16)),)

    def options(data: Path) -> CompressOptions:
        return CompressOptions(
            PruneOptions(keep=0.5, calibration=data), capabilities=(), measure=False,
            precisions=("fp16", "int8"),
        )  # fmt: skip

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("pruned before the images were counted")

    with monkeypatch.context() as patch:
        patch.setattr(module, "pruned", never)
        with pytest.raises(UserError, match="at least 8, got 3"):
            compress(Source("net", lambda: net, shape), tmp_path / "out", options(few))
    assert not (tmp_path / "out").exists()
    opened: list[str] = []
    plain = Image.open

    def counted(file: Any, *rest: Any, **named: Any) -> Any:
        opened.append(str(file))
        return plain(file, *rest, **named)

    monkeypatch.setattr(Image, "open", counted)
    compress(Source("net", lambda: net, shape), tmp_path / "out", options(many))
    assert len(opened) == len(set(opened)) >= 9


def test_without_onnxruntime_the_pip_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    original, out = network(tmp_path / "m.onnx"), tmp_path / "low.onnx"
    for precision in ("fp16", "int8"):
        flags = ["--data", str(pictures(tmp_path / precision))]
        assert main(["convert", str(original), "--precision", precision, "--out", str(out), *flags]) == 2
        assert "Run: pip install 'channelcut" in capsys.readouterr().err
    assert not out.exists()


def test_a_tensor_that_hardly_varies_is_no_traceback(tmp_path: Path) -> None:
    flat = 1 + images() * np.float32(1e-5)
    with pytest.raises(UserError, match="Use --method minmax"):
        convert_precision(network(tmp_path / "m.onnx"), tmp_path / "low.onnx", "int8", flat)
    convert_precision(
        network(tmp_path / "m.onnx"), tmp_path / "low.onnx", "int8", flat, PrecisionOptions(method="minmax", budget=1)
    )


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_int8_of_other_layers_keeps_their_axes(tmp_path: Path, rest: str) -> None:
    """Scales lie along another axis of a transposed convolution's, a Gemm's and a MatMul's weights."""
    generator = np.random.default_rng(0)
    shapes = {"wt": (3, 6, 2, 2), "wg": (10, 6 * 16), "wm": (10, 7)}
    # Every output channel has its own size: scales along a wrong axis, or none, would lose the small ones.
    sizes = {"wt": 4.0 ** -np.arange(6).reshape(1, 6, 1, 1), "wg": 2.0 ** -np.arange(10).reshape(10, 1), "wm": 1.0}
    values = {n: (generator.standard_normal(s) * sizes[n]).astype(np.float32) for n, s in shapes.items()}
    weights = [numpy_helper.from_array(v, n) for n, v in values.items()]
    weights.append(numpy_helper.from_array(np.asarray([1, 96], np.int64), "flat"))
    nodes = [
        helper.make_node("ConvTranspose", ["image", "wt"], ["a"], name="up", strides=[2, 2]),
        helper.make_node("AveragePool", ["a"], ["p"], name="pool", kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["p", "flat"], ["r"], name="flatten"),
        helper.make_node("Gemm", ["r", "wg"], ["g"], name="gemm", transB=1),
        helper.make_node("MatMul", ["g", "wm"], ["y"], name="matmul"),
    ]
    graph = helper.make_graph(
        nodes,
        "others",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("y", [1, 7]), ("a", None), ("g", None))],
        weights,
    )
    original, out = tmp_path / "m.onnx", tmp_path / "low.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(original))
    report = convert_precision(original, out, "int8", images(), PrecisionOptions(rest=rest))
    assert report.lowered == 3 and report.kept == ()
    for i in images()[::2]:
        wanted, got = run(original, i)[1], run(out, i)[1]
        each = [np.linalg.norm(g - w) / np.linalg.norm(w) for w, g in zip(wanted[0], got[0], strict=True)]
        assert max(each) < 0.03, each


def test_an_opset_that_cannot_be_raised_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Nope", ["image", "scales"], ["a"], name="up"),
            helper.make_node("Conv", ["a", "w"], ["y"], name="conv"),
        ],
        "old",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray([1, 1, 2, 2], np.float32), "scales"),
            numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(tmp_path / "m.onnx")
    )
    with pytest.raises(UserError, match="needs ONNX opset 19; the model has 13 and cannot be raised"):
        convert_precision(tmp_path / "m.onnx", tmp_path / "low.onnx", "int8", images())


def test_an_arg_max_is_judged_by_its_logits(tmp_path: Path) -> None:
    """A class map has no error of its own: without the logits anything would pass."""
    model = onnx.load(str(network(tmp_path / "m.onnx", overflow=True)))
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["classes"], name="classes", axis=1))
    model.graph.ClearField("output")
    model.graph.output.append(helper.make_tensor_value_info("classes", TensorProto.INT64, None))
    onnx.save(model, str(tmp_path / "m.onnx"))
    report = convert_precision(tmp_path / "m.onnx", tmp_path / "low.onnx", "fp16", images())
    assert "square" in report.kept and report.unrestricted_error == np.inf
    assert [o.name for o in onnx.load(str(tmp_path / "low.onnx")).graph.output] == ["classes"]
    model.graph.node[-1].CopyFrom(helper.make_node("Cast", ["y"], ["classes"], name="classes", to=TensorProto.INT64))
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match="this model has no float32 output"):
        convert_precision(tmp_path / "m.onnx", tmp_path / "low.onnx", "fp16", images())


def test_calibration_methods_are_three(tmp_path: Path) -> None:
    """One far value: minmax keeps all of the range, the others cut it, each its own way."""
    far = np.random.default_rng(0).standard_normal((64, 3, SIZE, SIZE)).astype(np.float32)
    far[0, 0, 0, 0] = 40.0
    source = prepared(onnx.load(str(network(tmp_path / "m.onnx"))), "int8")
    feeds = feeds_from_images(source, far)
    found = {m: ranges(source, feeds, m, lambda *_: None).data["image"].range_value[1] for m in METHODS}
    assert found["minmax"] == 40.0 and 3 < found["percentile"] < 30 and 3 < found["entropy"] < 30
    assert found["percentile"] != found["entropy"]
