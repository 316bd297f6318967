"""Files whose layers differ in precision: their errors, their times, and the loop that times them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import stack as network
from torch import Tensor, nn

import channelcut as cc
from channelcut.allocation import Budget
from channelcut.bench.layers.lone import in_int8, lone_model
from channelcut.bench.layers.onnxruntime import OnnxRuntimeClock
from channelcut.choosing import ranked
from channelcut.cli import main
from channelcut.closing import closed
from channelcut.core.measurement import Latency, Measurement
from channelcut.core.progress import Stopwatch
from channelcut.cost.kinds import Entry, LayerKind, Widths
from channelcut.cost.mixed import MixedCost
from channelcut.cost.roofline import roofline
from channelcut.onnx_out.runtime import session_from_model
from channelcut.precision.mixed import convert_mixed, sensitivities
from channelcut.ranking import Criterion

EXAMPLE = torch.rand(1, 3, 12, 12)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "model.onnx"
    cc.export(network(), path, EXAMPLE)
    return path


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).random((8, 3, 12, 12), np.float32)


@pytest.fixture(scope="module")
def cost(images: Any) -> MixedCost:
    model = network()
    groups = cc.analyze(model, EXAMPLE)
    columns = {name: roofline(groups, "orin-nano", name) for name in ("fp32", "fp16", "int8")}
    return cc.mixed_cost(model, EXAMPLE, columns, images, groups=groups, max_error=0.05)


def types(path: Path) -> list[int]:
    """What each convolution of a file reads from: int8 (3), fp16 (10) or float32 (1)."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    made = {o: node for node in model.graph.node for o in node.output}
    known = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    reads = [node.input[0] for node in convs]
    return [3 if name in made and made[name].op_type == "DequantizeLinear" else known[name] for name in reads]


def test_each_layer_is_in_the_precision_that_was_chosen(file: Path, images: Any, tmp_path: Path) -> None:
    found = convert_mixed(file, tmp_path / "mixed.onnx", {1: "int8", 2: "fp16"}, images)
    assert (found.layers, found.refused) == ({1: "int8", 2: "fp16"}, ())
    assert types(found.path) == [1, 3, 10, 1]
    alone = sensitivities(file, ["fp16", "int8"], images)
    together = np.hypot(alone[1]["int8"], alone[2]["fp16"])
    assert found.error == pytest.approx(together, rel=0.5)
    wanted, got = (
        session_from_model(onnx.load(path)).run(None, {"input": images[:1]})[0] for path in (file, found.path)
    )
    assert 0 < np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 3 * found.error


def test_a_residual_is_rounded_for_a_layer_in_int8_alone(images: Any, tmp_path: Path) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            value = torch.relu(self.stem(x))
            return self.last(torch.relu(value + self.inner(value)))

    torch.manual_seed(0)
    cc.export(Residual().eval(), tmp_path / "model.onnx", EXAMPLE)
    convert_mixed(tmp_path / "model.onnx", tmp_path / "mixed.onnx", {2: "int8"}, images)
    nodes = onnx.load(tmp_path / "mixed.onnx").graph.node
    made = {output: node.op_type for node in nodes for output in node.output}
    (add,) = [node for node in nodes if node.op_type == "Add"]
    assert "DequantizeLinear" not in [made[name] for name in add.input]


def test_what_passes_the_error_stays(file: Path, images: Any, tmp_path: Path) -> None:
    alone = [errors["int8"] for errors in sensitivities(file, ["int8"], images)]
    options = cc.PrecisionOptions(budget=1.2 * float(np.median(alone)))
    found = convert_mixed(file, tmp_path / "mixed.onnx", dict.fromkeys(range(4), "int8"), images, options)
    assert found.refused
    assert found.layers
    assert found.error <= found.budget < found.asked_error
    with pytest.raises(cc.UserError, match="has 4 layers, and a precision is asked for layer 4"):
        convert_mixed(file, tmp_path / "mixed.onnx", {4: "int8"}, images)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_lone_layer_in_int8(op: str) -> None:
    kernel = (("kernel_shape", (3, 3)), ("strides", (1, 1)))
    kind = (
        LayerKind(op, (1,), (8, 8), kernel, ("Relu",)) if "Conv" in op else LayerKind("Gemm", (2, 3), (), (), ("Relu",))
    )
    if op == "Gemm":
        kind = replace(kind, lead=(2,))
    entry = Entry(kind, Widths(16, 24))
    plain, low = lone_model(entry), in_int8(lone_model(entry))
    x = np.random.default_rng(0).random(
        [d.dim_value for d in plain.graph.input[0].type.tensor_type.shape.dim], np.float32
    )
    wanted, got = (session_from_model(model).run(None, {"x": x})[0] for model in (plain, low))
    assert wanted.shape == got.shape
    assert not np.array_equal(wanted, got)
    (weight,) = [w for w in low.graph.initializer if w.name == "weight.int8"]
    assert weight.data_type == onnx.TensorProto.INT8
    clock = OnnxRuntimeClock(1, "int8")
    assert clock.target().precision == "int8"
    assert clock.prepared(entry)() > 0


def test_errors_of_layers_decide(cost: MixedCost) -> None:
    assert cost.order == ("0", "2", "4", "5")
    assert all(errors["fp16"] < errors["int8"] for errors in cost.errors.values())
    model = network()
    groups = cc.analyze(model, EXAMPLE)
    free = cc.plan(model, groups, latency=0.3, cost=replace(cost, max_error=10.0)).options["precision"]
    strict = cc.plan(model, groups, latency=0.3, cost=replace(cost, max_error=0.004)).options["precision"]
    assert "int8" in free["layers"].values()
    assert strict["expected_error"] <= 0.004
    assert strict["layers"] != free["layers"]


def test_what_lost_no_channel_is_not_restored() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 5, 1)).eval()
    calibration = 5 + torch.rand(8, 3, 12, 12)
    result = cc.prune(model, EXAMPLE, macs=1.0, calibration=calibration, importance="l2")
    assert result.recalibration is None
    found = result.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


def test_the_loop_times_the_file_in_its_precisions(cost: MixedCost, tmp_path: Path) -> None:
    model = network()
    groups = cc.analyze(model, EXAMPLE)
    timed: list[list[int]] = []

    def gauge(smaller: nn.Module, lower: Callable[[Path, Path], object]) -> Measurement:
        plain, low = tmp_path / "plain.onnx", tmp_path / "low.onnx"
        cc.export(smaller, plain, EXAMPLE, allow_unproven=True)
        lower(plain, low)
        timed.append(types(low))
        sides = Latency("original", (1.0, 1.0)), Latency("pruned", (0.2, 0.2))
        return Measurement(*sides, 0.2, 0.199, 0.201)

    scored = ranked(model, groups, None, Criterion(), (), Stopwatch()).timed(cost)
    plan, _ = closed(scored, Budget(latency=0.2), gauge, Stopwatch())
    (trial,) = plan.options["trials"]
    chosen = plan.options["precision"]["layers"]
    assert trial["lowered"] == len(chosen) > 0
    assert 0 < trial["error"] <= cost.max_error
    assert trial["predicted"] <= 0.2 + 1e-9
    codes = {"int8": 3, "fp16": 10}
    assert timed == [[codes.get(chosen.get(key, ""), 1) for key in cost.order]]


def test_compress_chooses_widths_and_precisions(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 5, 1))\n\n\n"
        "def batches():\n    return [torch.rand(8, 3, 12, 12)]\n"
    )
    command = ["compress", f"{tmp_path / 'net.py'}:build", "--input", "1x3x12x12", "--no-engine", "--no-bench"]
    command += ["--importance", "l2", "--restore", "none", "--quiet"]
    out = tmp_path / "out"
    asked = ["--latency", "0.25", "--target", "orin-nano", "--precision", "auto", "--max-error", "0.05"]
    assert main([*command, *asked, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    (written,) = report["precision"]
    codes = {"int8": 3, "fp16": 10}
    assert types(out / "model.mixed.onnx") == [codes.get(written["layers"].get(key, ""), 1) for key in ("0", "2", "3")]
    assert written["lowered"] > 0
    assert 0 < written["error"] <= written["budget"] == 0.05
    assert report["options"]["precision"]["layers"]
    assert "model.mixed.onnx" in (out / "report.html").read_text()


def test_auto_needs_a_budget_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef build():\n    return nn.Conv2d(3, 8, 3)\n")
    command = [
        "compress",
        f"{tmp_path / 'net.py'}:build",
        "--input",
        "1x3x12x12",
        "--macs",
        "0.5",
        "--precision",
        "auto",
        "--no-engine",
    ]
    assert main(command) == 2
    assert "Expected --latency or --latency-ms beside it" in " ".join(capsys.readouterr().err.split())
