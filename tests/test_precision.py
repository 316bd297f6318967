"""Precision in the ONNX: what is lowered, what stays float32 by measurement, and what a user can get wrong."""

from __future__ import annotations

import json
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
from channelcut.adapters import Source
from channelcut.cli import main
from channelcut.compress import CompressOptions, compress
from channelcut.core.errors import BudgetError, UserError
from channelcut.engine.protocol import EngineOptions
from channelcut.export.runtime import session_from_file
from channelcut.precision.cast import prepared, simulated
from channelcut.precision.convert import PrecisionOptions, convert_precision
from channelcut.precision.judge import output_error

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
    said = channelcut.metadata(tmp_path / "low.onnx")
    assert said["precision"] == "int8" and said["calibration"] == "percentile over 8 images"
    assert said["version"] == channelcut.__version__
    assert str(tmp_path) not in "".join(said.values())
    assert channelcut.metadata(network(tmp_path / "plain.onnx")) == {}


def test_the_command_counts_broken_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = network(tmp_path / "m.onnx"), pictures(tmp_path / "data"), tmp_path / "low.onnx"
    assert main(["convert", str(model), "--precision", "int8", "--data", str(data), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["broken_images"] == ["broken0.png", "broken1.png"] and said["precision"] == "int8"
    assert main(["convert", str(model), "--precision", "fp16", "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_too_few_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = network(tmp_path / "m.onnx"), pictures(tmp_path / "data", count=3), tmp_path / "low.onnx"
    assert main(["convert", str(model), "--precision", "int8", "--data", str(data), "--out", str(out)]) == 2
    assert "at least 8, got 3" in capsys.readouterr().err
    assert not out.exists()


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
    said = channelcut.metadata(out / "model.int8.onnx")
    assert said["precision"] == "int8" and len(said["plan"]) == 16
    assert "plan" not in channelcut.metadata(out / "original.onnx")


def test_compress_takes_calibration_images_as_a_tensor(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    options = CompressOptions(
        (1, 3, 16, 16), {"keep": 0.5}, {"calibration": torch.rand(8, 3, 16, 16)},
        capabilities=(), measure=False, precisions=("int8",),
    )  # fmt: skip
    report = compress(Source("net", lambda: net), tmp_path / "out", options)
    assert (tmp_path / "out" / "model.int8.onnx").is_file()
    assert not any("not recalibrated" in note for note in report["notes"])
