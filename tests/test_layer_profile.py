"""TensorRT's layer times: the vendor's real profiler class, a stand-in context. None of it is a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.honesty import network
from channelcut.bench import profile_engine
from channelcut.bench.profile import layers_of
from channelcut.bench.profile_engine import layers_from_engine, profile_engines
from channelcut.cli import main
from channelcut.compress import slower_notes
from channelcut.core.errors import UserError
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.tensorrt_common import open_session
from channelcut.engine.tensorrt_runner import TensorRTRunner
from channelcut.report.html import render_html
from tests.test_engine import HostMemory, StandIn

rtx = pytest.importorskip("tensorrt_rtx")
HERE = Path(__file__).parent


class Profiled(StandIn):
    """Reports two layers a run, one of them in two pieces; the first runs are slow. `silent`: reports nothing."""

    profiler: Any = None
    enqueue_emits_profile = True
    silent = False

    def report_to_profiler(self) -> bool:
        if self.silent:
            return False
        ms = 9.0 if len(self.streams) <= 3 else 0.5 + 0.1 * (len(self.streams) % 3)
        for name, share in (("conv", 0.25), ("conv", 0.75), ("relu", 2.0)):
            self.profiler.report_layer_time(name, ms * share)
        return True


def test_layers_are_summed_within_a_run_and_the_median_is_taken() -> None:
    engine = Profiled(rtx)
    runner = TensorRTRunner(open_session(rtx, "TensorRT"), engine, HostMemory())
    found = runner.layer_times({"x": np.ones((2, 3), np.float32)}, runs=9)
    assert found == {"conv": pytest.approx(0.6), "relu": pytest.approx(1.2)}
    assert len(engine.streams) == 12, "three runs to warm up"
    assert engine.profiler is None and engine.enqueue_emits_profile is False
    assert isinstance(_profiler_of(Profiled(rtx)), rtx.IProfiler)


def _profiler_of(engine: Profiled) -> Any:
    seen = []
    original = type(engine).report_to_profiler

    def report(self: Profiled) -> bool:
        seen.append(self.profiler)
        return original(self)

    engine.report_to_profiler = report.__get__(engine)  # type: ignore[method-assign]
    TensorRTRunner(open_session(rtx, "TensorRT"), engine, HostMemory()).layer_times(
        {"x": np.ones((1, 3), np.float32)}, 1
    )
    return seen[0]


def test_a_library_that_reports_nothing_is_an_error_and_the_profiler_goes() -> None:
    engine = Profiled(rtx)
    engine.silent = True
    with pytest.raises(UserError, match="reports no layer times for this engine"):
        TensorRTRunner(open_session(rtx, "TensorRT"), engine, HostMemory()).layer_times(
            {"x": np.ones((1, 3), np.float32)}
        )
    assert engine.profiler is None


def test_engine_layers_are_traced_to_the_layers_of_the_file(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx", 32)
    nodes = [node for node, _ in layers_of(path)[0].items()]
    layer = layers_of(path)[0][nodes[0]]
    found = layers_from_engine(path, {f"{nodes[0]} + PWN(relu)": 0.5, "Reformatting CopyNode": 0.25})
    assert found[layer]["us"] == 500 and found[layer]["width"] == 32 and found[layer]["macs"] > 0
    assert found["Reformatting CopyNode"]["us"] == 250 and found["Reformatting CopyNode"]["macs"] == 0


def test_both_engines_in_turns_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = network(tmp_path / "a.onnx", 32), network(tmp_path / "b.onnx", 12)
    order: list[str] = []

    def load(engine: Path, options: EngineOptions) -> Any:
        path = Path(engine.read_text())
        node = next(iter(layers_of(path)[0]))

        def layer_times(inputs: Any, runs: int) -> dict[str, float]:
            order.append(path.name)
            return {node: 2.0 if path.name == "a.onnx" else 1.0}

        return SimpleNamespace(inputs={"x": ((1, 3, 64, 64), np.float32)}, layer_times=layer_times)

    backend = SimpleNamespace(build=lambda onnx, engine, options: engine.write_text(str(onnx)), load=load)
    monkeypatch.setattr(profile_engine, "require", lambda name: backend)
    found = profile_engines(*files, "tensorrt-rtx", EngineOptions(), runs=4)
    assert order == ["a.onnx", "b.onnx", "b.onnx", "a.onnx"]
    (row,) = found["layers"]
    assert row["saved_us"] == 1000 and row["lost_alignment"] and "memory_bound" not in row
    page = render_html({"profile": json.loads(json.dumps(found))})
    assert "Median times of tensorrt_rtx" in page and "moves a byte" not in page


def test_without_a_gpu_and_for_other_backends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from channelcut.engine.driver import cuda_problem

    with pytest.raises(UserError, match="Engines are built by tensorrt or tensorrt_rtx; 'openvino' builds none"):
        profile_engines(tmp_path / "a", tmp_path / "b", "openvino", EngineOptions())
    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    out = tmp_path / "out"
    argv = ["compress", f"{HERE / 'networks.py'}:residual", "--input", "1x3x16x16", "--macs", "0.6", "--no-bench"]
    assert main([*argv, "--no-engine", "--profile", "--json", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["profile"]["layers"] and report["seconds"]["profile"] > 0
    written = json.loads((out / "profile.json").read_text())
    assert written.pop("checksum")
    assert written == report["profile"]
    assert "Where the time goes" in (out / "report.html").read_text()
    assert main(["profile", str(out), "--backend", "tensorrt-rtx"]) == 2
    assert "this machine's GPU" in capsys.readouterr().err


def test_what_was_done_already_is_not_recommended() -> None:
    profile = {"profile": {"backend": "onnxruntime", "layers": []}}
    assert slower_notes({}, timed=False) == slower_notes({}, timed=True) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("channelcut.compress.slower_layers", lambda _: ["model.0 (1 → 2 µs)"])
        assert "--latency lets it choose" in slower_notes(profile, timed=False)[0]
        assert "--latency" not in slower_notes(profile, timed=True)[0]
