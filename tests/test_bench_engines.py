"""The benchmark of files: what surrounds the times, and that neither clock nor inputs fool it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.honesty import network
from channelcut.bench import measure as measuring
from channelcut.bench.engines import Comparison, measure_files, stage_times
from channelcut.bench.inputs import inputs_for
from channelcut.bench.measure import BenchOptions, measure
from channelcut.bench.pinning import pinned
from channelcut.cli import main
from channelcut.core.errors import UserError
from channelcut.core.measurement import Measurement
from channelcut.engine.onnxruntime import load
from channelcut.engine.protocol import EngineOptions

QUICK = BenchOptions(warmup_s=0.02, min_rounds=4, max_rounds=8, time_limit_s=1.0)


class Clock:
    """A clock that work moves: drift and noise as on a busy machine, and nobody waits."""

    def __init__(self, seed: int) -> None:
        self.now, self.generator = 0.0, np.random.default_rng(seed)

    def perf_counter(self) -> float:
        return self.now

    thread_time = process_time = perf_counter

    def work(self, milliseconds: float) -> Callable[[], None]:
        def call() -> None:
            drift = 1 + 0.3 * np.sin(self.now / 3)  # a neighbour that comes and goes
            noise = 1 + 0.03 * abs(self.generator.standard_normal())
            self.now += milliseconds / 1000 * drift * noise

        return call


def simulated(monkeypatch: pytest.MonkeyPatch, seed: int, factor: float) -> Measurement:
    clock = Clock(seed)
    monkeypatch.setattr(measuring, "time", clock)
    options = BenchOptions(warmup_s=0.1, max_rounds=120, time_limit_s=60, target_half_width=0.004, resamples=400)
    return measure(clock.work(5.0), clock.work(5.0 * factor), options)


def test_equals_are_equal_and_five_per_cent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [simulated(monkeypatch, seed, 1.0) for seed in range(20)]
    assert sum(m.ratio_low <= 1 <= m.ratio_high for m in same) >= 16  # 19 of 20 on average
    assert all(simulated(monkeypatch, seed, 1.05).slower for seed in range(20))


def test_the_same_pair_twice_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [simulated(monkeypatch, seed, 0.7) for seed in range(10)]
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert max(first.ratio_low, second.ratio_low) <= min(first.ratio_high, second.ratio_high)


def test_inputs_are_never_zeros(tmp_path: Path) -> None:
    made, batch = inputs_for(load(network(tmp_path / "a.onnx", 8)), 1, seed=0)
    assert batch == 1
    image = made["image"]
    assert np.count_nonzero(image) > 0.99 * image.size
    assert image.std() > 0.05 and image.min() >= 0 and image.max() <= 1
    assert len(np.unique(image)) > 0.5 * image.size


def test_what_surrounds_the_times(tmp_path: Path) -> None:
    first, second = network(tmp_path / "a.onnx", 16), network(tmp_path / "b.onnx", 8)
    core = sorted(os.sched_getaffinity(0))[-1]
    before = os.sched_getaffinity(0)
    found = measure_files(Comparison(first, second, wait="spin", pin=(core,)), QUICK)
    assert os.sched_getaffinity(0) == before
    details = found.details
    assert details["pinned_cores"] == [core]
    assert details["file_bytes"] == {"baseline": first.stat().st_size, "candidate": second.stat().st_size}
    assert details["stages"]["baseline"]["compute"]["median_ms"] > 0
    assert details["memory"]["baseline"]["peak_rss_mib"] > details["memory"]["baseline"]["before_load_mib"] > 1
    assert found.environment["cores_usable"] == 1
    again = Measurement.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert json.loads(json.dumps(found.to_dict()))["baseline"]["statistics"]["p99_ms"] == found.baseline.p99_ms


def test_stages_are_timed_apart() -> None:
    calls: list[str] = []

    def runner(name: str) -> Any:
        def stages(_inputs: Any) -> Any:
            return SimpleNamespace(
                upload=lambda: calls.append(f"{name}-up"),
                compute=lambda: calls.append(f"{name}-run"),
                download=lambda: calls.append(f"{name}-down"),
            )

        return SimpleNamespace(stages=stages)

    found = stage_times((runner("a"), runner("b")), {})
    assert list(found["candidate"]) == ["upload", "compute", "download"]
    assert calls[:6] == ["b-up", "b-run", "b-down", "a-up", "a-run", "a-down"]
    assert calls[6:8] == ["a-up", "a-run"]


def test_cores_come_back_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), pinned((min(before),)):
        assert os.sched_getaffinity(0) == {min(before)}
        raise RuntimeError
    assert os.sched_getaffinity(0) == before
    with pytest.raises(UserError, match="Core 99999"), pinned((99999,)):
        pass


def test_the_command_times_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = network(tmp_path / "a.onnx", 16), network(tmp_path / "b.onnx", 8)
    flags = ["--time-limit", "0.5", "--warm-up", "0.05", "--no-memory", "--json"]
    assert main(["bench", str(first), str(second), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["details"]["backend"] == "onnxruntime"
    assert main(["bench", str(first), str(tmp_path / "none.onnx")]) == 2
    assert main(["bench", str(first), str(second), "--pin", "x"]) == 2
    assert main(["bench", str(first), str(second), "--backend", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_unknown_wait_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="spin or block"):
        replace(Comparison(tmp_path, tmp_path), wait="nap")


def test_an_open_size_is_given_and_cuda_is_passed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 8, 3).eval()\n")
    file = tmp_path / "open.onnx"
    model = ["export", f"{tmp_path / 'net.py'}:make", "--input", "1x3x32x32", "--dynamic-size", "--quiet"]
    assert main([*model, "--out", str(file)]) == 0
    flags = ["bench", str(file), str(file), "--time-limit", "0.3", "--warm-up", "0.02", "--json"]
    assert main(flags) == 2 and "--size 640x640" in capsys.readouterr().err
    assert main([*flags, "--size", "40"]) == 2 and "no height and width" in capsys.readouterr().err
    assert main([*flags, "--size", "40x72"]) == 0
    details = json.loads(capsys.readouterr().out)["details"]
    assert details["memory"]["candidate"]["peak_rss_mib"] > 0, "the process of its own knows the size too"
    seen = []
    monkeypatch.setattr("channelcut.bench.engines.EngineOptions", lambda **kw: seen.append(kw) or EngineOptions(**kw))
    assert main([*flags, "--size", "40x72", "--cuda", "pycuda", "--no-memory"]) == 0
    assert {kw.get("cuda") for kw in seen} == {"pycuda"}
