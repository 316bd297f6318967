"""The engine benchmarks: a real subset, and the GPU command's control flow on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import engines, gpu
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


def test_gpu_command_on_a_stand_in(tmp_path: Path) -> None:
    convnet(tmp_path / "yolov8n.original.onnx", batch="n")
    convnet(tmp_path / "yolov8n.macs0.5.align8.onnx", batch="n")
    out = tmp_path / "gpu.json"
    assert gpu.run(tmp_path, out, ["torch_cuda"], 0.2, 0.0, stand_in=True) == 4, "no time, nothing measured"
    assert gpu.run(tmp_path, out, ["torch_cuda"], 0.2, 60.0, stand_in=True) == 0
    rows = json.loads(out.read_text())["rows"]
    assert {(r["precision"], r["batch"]) for r in rows} == {(p, b) for p in gpu.PRECISIONS for b in gpu.BATCHES}
    assert all(r["stand_in"] and r["measurement"]["ratio"] > 0 for r in rows)
    assert "no GPU" in out.with_suffix(".md").read_text()
    before = out.read_bytes()
    assert gpu.run(tmp_path, out, ["torch_cuda"], 0.2, 60.0, stand_in=True) == 0 and out.read_bytes() == before
