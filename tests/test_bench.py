"""The measurement must find a difference that is there, and none that is not."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from channelcut.bench.environment import cpu_model, environment
from channelcut.bench.measure import BenchOptions, measure
from channelcut.bench.onnx import measure_onnx
from channelcut.bench.statistics import ratio_of_medians
from channelcut.core.errors import UserError
from channelcut.core.measurement import Latency, Measurement

QUICK = BenchOptions(warmup_s=0.05, min_rounds=20, time_limit_s=2.0, target_half_width=0.02)


def busy(microseconds: float) -> Callable[[], None]:
    """Return a callable that keeps the processor busy for that long."""

    def work() -> None:
        end = time.perf_counter() + microseconds / 1e6
        while time.perf_counter() < end:
            pass

    return work


def convnet(path: Path, width: int = 16, batch: int | str = 1, name: str = "image", side: int | str = 32) -> Path:
    """Write two convolutions, 3 to `width` to 8 channels."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(s).astype(np.float32) for s in ((width, 3, 3, 3), (8, width, 3, 3))]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [name, "w0"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w1"], ["y"]),
        ],
        "convnet",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


# -- statistics --


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    trials, covered, widths = 150, 0, []
    for trial in range(trials):
        drift = generator.uniform(1, 2, (60, 1))  # the machine's pace, shared by both sides of a round
        base = drift * generator.lognormal(0, 0.05, (60, 2))
        candidate = 0.8 * drift * generator.lognormal(0, 0.05, (60, 2))
        interval = ratio_of_medians(base, candidate, resamples=400, seed=trial)
        covered += interval.contains(0.8)
        widths.append(interval.half_width)
    assert 0.88 <= covered / trials <= 1.0
    assert np.mean(widths) < 0.16


def test_pairing_takes_the_common_drift_out() -> None:
    generator = np.random.default_rng(3)
    drift = generator.uniform(1, 3, (80, 1))
    base, candidate = drift * np.ones((80, 2)), 0.9 * drift * np.ones((80, 2))
    paired = ratio_of_medians(base, candidate)
    shuffled = ratio_of_medians(base, generator.permutation(candidate))
    assert paired.half_width < 1e-9 and paired.estimate == pytest.approx(0.9)
    assert shuffled.half_width > 0.05


def test_interval_is_deterministic_and_narrows() -> None:
    generator = np.random.default_rng(0)
    base, candidate = generator.lognormal(0, 0.1, (2, 400))
    wide, narrow = ratio_of_medians(base[:40], candidate[:40]), ratio_of_medians(base, candidate)
    assert narrow == ratio_of_medians(base, candidate) and narrow.half_width < wide.half_width
    assert narrow.low <= narrow.estimate <= narrow.high
    assert not ratio_of_medians(base, base * 1.5).contains(1)


@pytest.mark.parametrize(
    ("base", "candidate", "message"),
    [
        ([], [], "must have shape"),
        ([1.0], [1.0, 2.0], "equal rounds"),
        ([1.0, 0.0], [1.0, 1.0], "above 0"),
        ([1.0, np.nan], [1.0, 1.0], "finite"),
    ],
)
def test_interval_refuses_bad_samples(base: list[float], candidate: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratio_of_medians(base, candidate)


# -- the data types --


def test_latency_figures() -> None:
    latency = Latency("x", tuple(float(t) for t in range(1, 102)), items_per_call=4)
    assert latency.median_ms == latency.p50_ms == latency.mean_ms == 51
    assert (latency.p90_ms, latency.p95_ms, latency.p99_ms) == (91, 96, 100)
    assert latency.throughput == pytest.approx(4000 / 51)
    assert latency.cv == pytest.approx(np.std(latency.samples_ms, ddof=1) / 51)
    assert latency.percentile_ms(37) == pytest.approx(float(np.percentile(latency.samples_ms, 37)))
    assert Latency("one", (2.0,)).cv == 0
    for bad in ((), (0.0,), (float("nan"),)):
        with pytest.raises(ValueError, match="at least one sample"):
            Latency("x", bad)


def test_measurement_verdicts_and_json(tmp_path: Path) -> None:
    sides = Latency("baseline", (2.0, 2.2)), Latency("candidate", (1.0, 1.1), 8)
    measurement = Measurement(*sides, 0.5, 0.48, 0.55, {"cpu": "x", "threads": 1}, ("noisy",))
    assert measurement.faster and not measurement.slower and measurement.speedup == 2
    assert measurement.speedup_low == pytest.approx(1 / 0.55) and measurement.speedup_high == pytest.approx(1 / 0.48)
    unsure = replace(measurement, ratio=0.98, ratio_low=0.95, ratio_high=1.0)
    assert not unsure.faster and not unsure.slower
    assert replace(measurement, ratio=1.2, ratio_low=1.1, ratio_high=1.3).slower
    assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement
    with pytest.raises(UserError, match="its format is None"):
        Measurement.from_dict({})
    damaged = measurement.to_dict()
    del damaged["candidate"]
    with pytest.raises(UserError, match=r"damaged \(KeyError: 'candidate'\)"):
        Measurement.from_dict(damaged)
    with pytest.raises(ValueError, match="not an interval"):
        replace(measurement, ratio_low=0.6)


# -- measuring --


def test_a_callable_against_itself_is_no_faster() -> None:
    """Contains 1, in one of three tries: each may miss 1 in 20 times by design, more on a machine that others use."""
    work = busy(600)
    tries = [measure(work, work, QUICK)]
    while not tries[-1].ratio_low <= 1 <= tries[-1].ratio_high and len(tries) < 3:
        tries.append(measure(work, work, QUICK))
    assert tries[-1].ratio_low <= 1 <= tries[-1].ratio_high, [t.ratio for t in tries]


def test_a_delay_is_found_in_both_directions() -> None:
    slower = measure(busy(600), busy(720), QUICK)
    assert slower.ratio == slower.candidate.median_ms / slower.baseline.median_ms
    assert slower.slower and not slower.faster and slower.ratio == pytest.approx(1.2, abs=0.1)
    faster = measure(busy(720), busy(600), QUICK)
    assert faster.faster and faster.speedup == pytest.approx(1.2, abs=0.1)


def test_rounds_are_interleaved_and_counted() -> None:
    calls: list[str] = []
    progress: list[tuple[int, int]] = []
    pause = busy(50)

    def side(name: str) -> Callable[[], None]:
        def work() -> None:
            calls.append(name)
            pause()

        return work

    options = BenchOptions(warmup_s=0, min_rounds=4, max_rounds=4, target_half_width=1e-9, min_sample_ms=0.001)
    collecting = gc.isenabled()
    found = measure(side("a"), side("b"), options, lambda done, total: progress.append((done, total)))
    assert "".join(calls) == "ab" + "abbabaab" * 2
    assert gc.isenabled() == collecting
    assert len(found.baseline.samples_ms) == len(found.candidate.samples_ms) == 8, "every raw time is kept"
    assert [done for done, _ in progress] == [1, 2, 3, 4, 4] and progress[-1] == (4, 4)
    assert any("the time or round limit came first" in w for w in found.warnings)


def test_stops_at_the_target_and_at_the_time_limit() -> None:
    easy = measure(busy(500), busy(500), replace(QUICK, target_half_width=0.5))
    assert len(easy.baseline.samples_ms) == 2 * QUICK.min_rounds
    assert not any("limit came first" in w for w in easy.warnings)
    start = time.perf_counter()
    limited = measure(busy(2000), busy(2000), replace(QUICK, target_half_width=1e-9, time_limit_s=0.3, min_rounds=2))
    assert time.perf_counter() - start < 3 and len(limited.baseline.samples_ms) < 2 * QUICK.max_rounds
    assert any("time or round limit" in w for w in limited.warnings)


def test_noise_is_reported() -> None:
    generator = np.random.default_rng(0)

    def noisy() -> None:
        busy(float(generator.uniform(200, 2000)))()

    found = measure(busy(600), noisy, replace(QUICK, time_limit_s=0.5, min_sample_ms=0.01))
    assert any("times of the candidate vary by" in w for w in found.warnings), found.warnings


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="at least 2"):
        BenchOptions(min_rounds=1)
    with pytest.raises(UserError, match="threads, batch and resamples"):
        BenchOptions(threads=0)


def test_environment_names_the_machine_but_not_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    found = environment(threads=3)
    assert found["threads"] == 3 and found["cpu"] == cpu_model() and found["cores"] >= 1 and found["device"] == "cpu"
    assert {"torch", "onnxruntime", "numpy"} <= set(found["libraries"])
    text = json.dumps(found)
    assert platform.node() not in text and str(Path.home()) not in text and str(Path.cwd()) not in text


# -- ONNX --


def test_pruned_onnx_is_faster(tmp_path: Path) -> None:
    wide, narrow = convnet(tmp_path / "wide.onnx", 64), convnet(tmp_path / "narrow.onnx", 16)
    found = measure_onnx(wide, narrow, QUICK)
    assert found.faster and found.ratio < 0.7
    assert measure_onnx(narrow, wide, QUICK).slower
    assert found.environment["threads"] == 1 and found.baseline.items_per_call == 1


def test_two_copies_of_one_onnx_are_equal(tmp_path: Path) -> None:
    first, second = convnet(tmp_path / "a.onnx", 32), convnet(tmp_path / "b.onnx", 32)
    options = replace(QUICK, target_half_width=0.03)
    ratios = []
    for _ in range(3):
        found = measure_onnx(first, second, options)
        ratios.append((found.ratio_low, found.ratio_high))
        if found.ratio_low <= 1 <= found.ratio_high:
            return
    pytest.fail(f"none of three intervals contains 1: {ratios}")


def test_open_batch_is_filled(tmp_path: Path) -> None:
    path = convnet(tmp_path / "open.onnx", batch="n")
    found = measure_onnx(path, path, replace(QUICK, batch=3, time_limit_s=0.2))
    assert found.baseline.items_per_call == 3
    assert found.baseline.throughput == pytest.approx(3000 / found.baseline.median_ms)


def test_onnx_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    good = convnet(tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(good.read_bytes()[:300])
    with pytest.raises(UserError, match=r"bad\.onnx' is not an ONNX model, or is damaged .*; export the model again"):
        measure_onnx(good, tmp_path / "bad.onnx", QUICK)
    with pytest.raises(UserError, match=r"missing\.onnx': No such file"):
        measure_onnx(tmp_path / "missing.onnx", good, QUICK)
    with pytest.raises(UserError, match="have different inputs"):
        measure_onnx(good, convnet(tmp_path / "other.onnx", name="x"), QUICK)
    with pytest.raises(UserError, match="open axes besides the batch"):
        measure_onnx(convnet(tmp_path / "hw.onnx", side="s"), tmp_path / "hw.onnx", QUICK)
