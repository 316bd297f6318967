"""The engine benchmarks: a real subset, and the GPU command's control flow on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from benchmarks import engines, gpu, gpu_files, gpu_plans
from benchmarks.honesty import network
from channelcut import gauge
from channelcut.bench.layers.clock import MeasureOptions
from channelcut.bench.measure import BenchOptions
from channelcut.core.errors import UserError
from channelcut.onnx_out.files import all_tensors, load_onnx
from tests.test_engine import convnet


def test_engines_of_one_model_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("ultralytics")
    out = tmp_path / "engines.json"
    data = engines.run(out, ["yolov8n"], ("sm86", "sm120"), 64, 0.5)
    (row,) = data["rows"]
    assert row["macs_left"] == pytest.approx(0.5, abs=0.05)
    for both in row["engines"].values():
        assert 0 < both["pruned"]["size_mib"] < both["original"]["size_mib"]
    assert "yolov8n" in out.with_suffix(".md").read_text()
    monkeypatch.setattr(engines, "row", lambda *_: pytest.fail("measured again"))
    assert len(engines.run(out, ["yolov8n"], ("sm86", "sm120"), 64, 0.5)["rows"]) == 1


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for cut in (None, gpu.CUTS[0]):
        for name in ("yolov8n", "resnet50"):
            plain = convnet(gpu.file_of(folder, name, cut), batch="n")
            gpu_files._lower(plain, gpu.file_of(folder, name, cut, "fp16"), (1, 3, 16, 16))
    return folder


def test_gpu_command_on_a_stand_in(prepared: Path, tmp_path: Path) -> None:
    out, backends = tmp_path / "gpu.json", ["torch_cuda", "onnxruntime"]
    (prepared / "resnet50.original.onnx").unlink()
    assert gpu.run(prepared, out, backends, 0.2, 0.0, stand_in=True) == 10, "no time, nothing measured"
    assert gpu.run(prepared, out, backends, 0.2, 1e4, stand_in=True) == 0
    rows = json.loads(out.read_text())["rows"]
    every = {(b, p, n) for b in backends for p in gpu.PRECISIONS for n in gpu.BATCHES}
    assert {(r["backend"], r["precision"], r["batch"]) for r in rows if r["model"] == "yolov8n"} == every
    assert {(r["backend"], r["precision"]) for r in rows if r["model"] == "resnet50"} == {("onnxruntime", "fp16")}
    assert all(r["stand_in"] and r["measurement"]["ratio"] > 0 for r in rows)
    assert "no GPU" in out.with_suffix(".md").read_text()
    before = out.read_bytes()
    assert gpu.run(prepared, out, backends, 0.2, 1e4, stand_in=True) == 0 and out.read_bytes() == before


def test_quick_keeps_its_limit(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one backend take long, of another hardly any time: no row starts that would end after the limit."""
    now, started = [0.0], []

    def row(folder: Path, case: dict[str, Any], seconds: float, *, stand_in: bool) -> dict[str, Any]:
        started.append((case["backend"], now[0]))
        now[0] += 90.0 if case["backend"] == "tensorrt" else 8.0
        return case | {"stand_in": stand_in, "error": "not measured here"}

    monkeypatch.setattr(gpu, "measure_case", row)
    out, backends = tmp_path / "gpu.json", ["tensorrt", "torch_cuda"]

    def quick() -> int:
        return gpu.run(prepared, out, backends, 1, gpu.QUICK_S, stand_in=True, clock=lambda: now[0])

    remain = quick()
    assert now[0] <= gpu.QUICK_S and 0 < remain < 16
    assert len([s for s in started if s[0] == "torch_cuda"]) == 8, "the short rows went on where a long one did not fit"
    for _ in range(5):
        remain, start = quick(), now[0]
        assert now[0] - start <= gpu.QUICK_S
    assert remain == 0 and len(started) == len({json.dumps(c, sort_keys=True) for c in gpu.cases(prepared, backends)})


def test_packed_in_small_parts_and_drawn_again(prepared: Path, tmp_path: Path) -> None:
    parts = gpu_files.pack(prepared, tmp_path / "parts", part_bytes=1700)
    assert len(parts) > 1 and all(part.stat().st_size <= 1700 for part in parts)
    again = gpu_files.unpack(tmp_path / "parts", tmp_path / "one")
    assert sorted(p.name for p in again) == sorted(p.name for p in prepared.glob("*.onnx"))
    gpu_files.unpack(tmp_path / "parts", tmp_path / "two")
    for path in again:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), "a seed is a seed"
        before, after = load_onnx(prepared / path.name), load_onnx(path)
        assert [n.SerializeToString() for n in before.graph.node] == [n.SerializeToString() for n in after.graph.node]
        for old, new in zip(all_tensors(before), all_tensors(after), strict=True):
            assert (old.name, old.data_type, list(old.dims)) == (new.name, new.data_type, list(new.dims))
            assert len(old.raw_data) == len(new.raw_data)
    parts[0].write_bytes(parts[0].read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be unpacked"):
        gpu_files.unpack(tmp_path / "parts", tmp_path / "three")
    parts[0].unlink()
    with pytest.raises(UserError, match="every part that it names"):
        gpu_files.unpack(tmp_path / "parts", tmp_path / "three")
    with pytest.raises(UserError, match="without its weights"):
        gpu_files.pack(prepared, tmp_path / "tiny", part_bytes=100)
    with pytest.raises(UserError, match=r"holds no \.onnx files"):
        gpu_files.pack(tmp_path, tmp_path / "none")


def test_large_weights_leave_the_pack_and_come_back_alike(tmp_path: Path) -> None:
    path = network(tmp_path / "wide.onnx", 64)
    whole = load_onnx(path)
    weights = {t.name: numpy_helper.to_array(t) for t in all_tensors(whole) if len(t.raw_data) >= 4096}
    packed = gpu_files.light(load_onnx(path)).SerializeToString()
    assert weights and len(packed) < path.stat().st_size / 10
    drawn = gpu_files.heavy(onnx.load_model_from_string(packed))
    for tensor in all_tensors(drawn):
        if tensor.name in weights:
            values, old = numpy_helper.to_array(tensor), weights[tensor.name]
            assert values.shape == old.shape and values.dtype == old.dtype and not np.array_equal(values, old)
            assert values.std() == pytest.approx(old.std(), rel=0.1)
    assert "channelcut.random" not in {p.key for p in drawn.metadata_props}


def test_prepare_writes_both_precisions_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 4, 1)
    monkeypatch.setattr(gpu_files, "built", lambda _: nn.Sequential(*layers).eval())
    gpu.prepare(tmp_path, ["nanodet_m"], [gpu.CUTS[0]], 64)
    files = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    sides = ("original", "macs0.5.align8")
    assert set(files) == {f"nanodet_m.{s}{p}.onnx" for s in sides for p in ("", ".fp16")}
    (tmp_path / "nanodet_m.original.fp16.onnx").unlink()
    gpu.prepare(tmp_path, ["nanodet_m"], [gpu.CUTS[0]], 64)
    again = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert [n for n in files if again[n] != files[n]] == ["nanodet_m.original.fp16.onnx"]


def test_tables_and_plans_on_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers timed, plans by the table, cut, timed and corrected: all on the CPU."""
    monkeypatch.setattr(gauge, "BENCH", BenchOptions(time_limit_s=0.5))

    def tiny(name: str) -> tuple[nn.Module, tuple[int, ...]]:
        # Nearly all its time is that of one layer between groups, so that half of it is in reach of any processor.
        layers = nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 1)
        return nn.Sequential(*layers).eval(), (3, 40, 40)

    quick = MeasureOptions(min_rounds=2, max_rounds=2, network_runs=2, step=8)
    out, where = tmp_path / "gpu_plans.json", gpu_plans.Where(tmp_path / "tables", "onnxruntime", "fp32", quick)
    assert gpu_plans.run(out, where, 0.0, names=["tiny"], batches=[2], build=tiny) == 1, "no time, nothing measured"
    assert gpu_plans.run(out, where, 120.0, names=["tiny"], batches=[2], build=tiny) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["target"] for row in rows] == list(gpu_plans.TARGETS)
    for row in rows:
        assert "error" not in row, row["error"]
        assert all(0 < trial["predicted"] < 1 and 0 < trial["ratio"] < 2 for trial in row["trials"])
        assert 0 < row["kept_importance"] < 1
    assert "no GPU" in out.with_suffix(".md").read_text()
    assert [path.suffix for path in where.folder.iterdir()].count(".jsonl") == 1
    before = out.read_bytes()
    assert gpu_plans.run(out, where, 120.0, names=["tiny"], batches=[2], build=tiny) == 0 and out.read_bytes() == before
