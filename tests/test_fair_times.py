"""Speed that is the cut's: subnormal weights are no weights, and a clock that others slow down gives no verdict."""

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
from onnx import numpy_helper
from report_data import make_report, terminal
from torch import nn

from channelcut.bench import measure as measuring
from channelcut.bench.engines import Comparison, measure_files
from channelcut.bench.measure import BenchOptions, measure
from channelcut.cli.bench import print_measurement
from channelcut.compress import compress
from channelcut.core.measurement import Latency, Measurement, Ratio
from channelcut.onnx_out import simplify
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.module import onnx_from_module
from channelcut.onnx_out.subnormal import flush_subnormals, subnormal_weights
from channelcut.options import CompressOptions, PruneOptions
from channelcut.report import render_html
from channelcut.sources import Source

QUICK = BenchOptions(warmup_s=0.02, min_rounds=6, max_rounds=12, time_limit_s=1.0)


def subnormal(kind: str) -> nn.Module:
    """A network, half of whose middle layer is subnormal: as is, by a fold into the norm after it, or transposed."""
    torch.manual_seed(0)
    if kind == "deconv":
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 4, 1))
        with torch.no_grad():
            net[2].weight[8:] = 3e-40  # type: ignore[index]
        return net.eval()
    middle = nn.Conv2d(16, 16, 1)
    norm = nn.BatchNorm2d(16) if kind == "fold" else nn.Identity()
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), middle, norm, nn.ReLU(), nn.Conv2d(16, 4, 1))
    with torch.no_grad():
        middle.weight[8:] = 1e-30 if kind == "fold" else 1e-41 * torch.randn(8, 16, 1, 1).sign()
        middle.bias[8:] = 0  # type: ignore[index]
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight[8:] = 1e-10
    return net.eval()


@pytest.mark.parametrize("kind", ["plain", "fold", "deconv"])
def test_subnormal_weights_are_written_as_zero_and_that_is_said(tmp_path: Path, kind: str) -> None:
    net, x = subnormal(kind), torch.rand(1, 3, 12, 12)
    report = onnx_from_module(net, (x,), tmp_path / "m.onnx")
    assert report.flushed in (64, 128, 256)
    assert subnormal_weights(load_onnx(tmp_path / "m.onnx"))[0] == 0
    (said,) = [text for text in report.warnings if "subnormal" in text]
    assert said.startswith(f"{report.flushed:,} weights are subnormal (below 1.2e-38) and were written as zero")


def test_what_a_simplifier_folds_is_flushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folding(model: onnx.ModelProto) -> onnx.ModelProto:
        for tensor in model.graph.initializer:
            if tuple(tensor.dims) == (4, 3, 1, 1):
                tensor.CopyFrom(numpy_helper.from_array(np.full((4, 3, 1, 1), 1e-40, np.float32), tensor.name))
        return model

    monkeypatch.setitem(simplify.SIMPLIFIERS, "onnxsim", folding)
    net = nn.Conv2d(3, 4, 1)
    nn.init.constant_(net.weight, 1e-30)
    report = onnx_from_module(net, (torch.rand(1, 3, 4, 4),), tmp_path / "m.onnx")
    assert report.simplifier == "onnxsim" and report.flushed == 12
    assert subnormal_weights(load_onnx(tmp_path / "m.onnx"))[0] == 0


def test_ordinary_weights_are_not_touched(tmp_path: Path) -> None:
    net = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        net.weight[0] = 1.2e-38  # the least normal number is 1.1755e-38
        net.weight[1] = 0
    report = onnx_from_module(net, (torch.rand(1, 3, 4, 4),), tmp_path / "m.onnx")
    assert report.flushed == 0 and not any("subnormal" in text for text in report.warnings)
    arrays = [numpy_helper.to_array(t) for t in load_onnx(tmp_path / "m.onnx").graph.initializer]
    assert any(a.shape == (4, 3, 1, 1) and (a[0] == np.float32(1.2e-38)).all() for a in arrays)


@pytest.mark.parametrize(
    ("dtype", "value", "count"),
    [(np.float32, 1e-40, 1), (np.float64, 1e-310, 1), (np.float64, 1e-40, 0), (np.float16, 1e-6, 0)],
)
def test_what_is_subnormal_is_a_matter_of_the_type(dtype: Any, value: float, count: int) -> None:
    array = np.array([[1.0, value], [0.0, -2.0]], dtype)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), onnx.helper.make_node("Add", ["y", "b"], ["z"])]
    given = [numpy_helper.from_array(array, name) for name in ("w", "b")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], given))
    assert subnormal_weights(model)[0] == count
    assert flush_subnormals(model) == count
    found = numpy_helper.to_array(model.graph.initializer[0])
    assert model.graph.initializer[0].name == "w" and found.dtype == dtype
    assert (found == (array if not count else [[1, 0], [0, -2]])).all()
    assert (numpy_helper.to_array(model.graph.initializer[1]) == array).all(), "an addend may matter, as in log(x + b)"


def test_both_files_of_a_result_are_flushed(tmp_path: Path) -> None:
    net = subnormal("plain")
    options = CompressOptions(PruneOptions(keep=0.75), capabilities=(), measure=False)
    report = compress(Source("subnormal", lambda: (net, torch.rand(1, 3, 12, 12))), tmp_path / "out", options)
    for name in ("original.onnx", "model.onnx"):
        assert subnormal_weights(load_onnx(tmp_path / "out" / name))[0] == 0
        assert any(note.startswith(f"{name}: ") and "subnormal" in note for note in report["notes"])
    assert bool((net[2].weight.abs() < 1e-38).any()), "the model itself is not touched"  # type: ignore[union-attr, operator]


def test_files_of_others_with_subnormal_weights_are_timed_with_a_warning(tmp_path: Path) -> None:
    onnx_from_module(subnormal("plain"), (torch.rand(1, 3, 12, 12),), tmp_path / "good.onnx")
    model = load_onnx(tmp_path / "good.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.where(values == 0, np.float32(1e-41), values), tensor.name))
    onnx.save(model, str(tmp_path / "bad.onnx"))
    found = measure_files(Comparison(tmp_path / "bad.onnx", tmp_path / "good.onnx", stages=False, memory=False), QUICK)
    said = [text for text in found.warnings if "subnormal" in text]
    assert len(said) == 1 and "weights of the baseline are subnormal" in said[0]


# -- wall time and thread time --


class BusyMachine:
    """Clocks on which work takes processor time of the calling thread, or of others, and waits in between."""

    def __init__(self) -> None:
        self.wall = self.thread = self.process = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.thread

    def process_time(self) -> float:
        return self.process

    def work(self, own: float, waits: float = 0.0, others: float = 0.0) -> Callable[[], None]:
        """A call of so many ms: computed by the caller, waited for, computed by other threads meanwhile."""
        generator = np.random.default_rng(0)

        def call() -> None:
            noise = 1 + 0.01 * generator.random()
            self.thread += own * noise / 1000
            self.process += (own + others) * noise / 1000
            self.wall += (own + waits) * noise / 1000

        return call


def timed(monkeypatch: pytest.MonkeyPatch, *sides: tuple[float, ...], **options: Any) -> Measurement:
    clock = BusyMachine()
    monkeypatch.setattr(measuring, "time", clock)
    return measure(clock.work(*sides[0]), clock.work(*sides[1]), replace(QUICK, **options))


def test_where_others_slow_one_side_down_there_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = timed(monkeypatch, (10.0, 20.0), (7.3, 0.5))  # 3.8 times as fast by the clock, 1.37 times in truth
    assert found.ratio == pytest.approx(0.26, abs=0.01) and found.thread is not None
    assert found.thread.estimate == pytest.approx(0.73, abs=0.01)
    assert found.disturbed and not found.faster and not found.slower
    assert any("something else was running" in text for text in found.warnings)
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    print_measurement(found)
    assert "no verdict" in capsys.readouterr().out
    report = make_report()
    report["measurement"] = found.to_dict()
    for said in (render_html(report), " ".join(terminal(report).split())):
        assert "Undecided: candidate takes 0.2" in said and "processor time of the thread" in said
        assert "Faster:" not in said


@pytest.mark.parametrize(
    ("sides", "options"),
    [
        (((10.0, 0.1), (7.3, 0.1)), {}),  # a quiet machine
        (((10.0, 10.0), (7.3, 7.3)), {}),  # a busy one that slows both alike
    ],
)
def test_where_both_clocks_agree_there_is_one(
    monkeypatch: pytest.MonkeyPatch, sides: tuple[tuple[float, ...], ...], options: dict[str, Any]
) -> None:
    found = timed(monkeypatch, *sides, **options)
    assert found.faster and not found.disturbed and found.thread is not None
    assert len(found.baseline.thread_ms) == len(found.baseline.samples_ms)


@pytest.mark.parametrize(
    ("sides", "options"),
    [
        (((10.0, 20.0), (7.3, 0.5)), {"threads": 2}),  # several threads: the caller's time is a part of it
        (((10.0, 20.0), (7.3, 0.5)), {"device": "gpu"}),
        (((10.0, 20.0, 5.0), (7.3, 0.5, 5.0)), {}),  # somebody else's threads compute
        (((0.1, 20.0), (0.1, 10.0)), {}),  # a caller that waits
    ],
)
def test_thread_time_is_asked_only_where_the_caller_does_the_work(
    monkeypatch: pytest.MonkeyPatch, sides: tuple[tuple[float, ...], ...], options: dict[str, Any]
) -> None:
    found = timed(monkeypatch, *sides, **options)
    assert found.thread is None and found.faster and found.baseline.thread_ms == ()


def test_onnx_runtime_with_one_thread_computes_in_the_caller(tmp_path: Path) -> None:
    onnx_from_module(subnormal("plain"), (torch.rand(1, 3, 12, 12),), tmp_path / "m.onnx")
    found = measure_files(Comparison(tmp_path / "m.onnx", tmp_path / "m.onnx", stages=False, memory=False), QUICK)
    assert found.thread is not None and found.thread.low <= 1.05 and found.thread.high >= 0.95


def test_a_small_difference_of_the_clocks_is_none() -> None:
    sides = Latency("baseline", (2.0,)), Latency("candidate", (1.0,))
    measured = Measurement(*sides, 0.5, 0.499, 0.501, thread=Ratio(0.504, 0.503, 0.505))
    assert measured.faster and not measured.disturbed
    assert replace(measured, thread=Ratio(0.52, 0.519, 0.521)).disturbed
