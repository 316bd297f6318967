"""Where the time goes: events are attributed to layers, layers are paired, and what is said about them is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.honesty import network
from channelcut.bench.profile import layers_from_events, machine_balance, paired, profile_pair, slower_layers
from channelcut.cli import main

HERE = Path(__file__).parent


def event(name: str, op: str, dur: int, shapes: tuple[list[int], list[int], list[int]]) -> dict[str, object]:
    image, weight, out = shapes
    arguments = {
        "op_name": op,
        "input_type_shape": [{"float": image}, {"float": weight}],
        "output_type_shape": [{"float": out}],
        "activation_size": "100",
        "parameter_size": "20",
        "output_size": "80",
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": arguments}


def test_events_become_layers() -> None:
    shapes = ([1, 3, 8, 8], [16, 3, 3, 3], [1, 16, 4, 4])
    events = [event("y_nchwc", "Conv", dur, shapes) for dur in (900, 10, 12, 14)]
    events += [event("mul_1", "Mul", 5, shapes), event("mul_2", "Mul", 6, shapes)]
    found = layers_from_events(events, {"y": "stem.conv"}, skip=1)
    assert found["stem.conv"]["us"] == 12
    assert found["stem.conv"]["macs"] == 16 * 16 * 27
    assert found["stem.conv"]["intensity"] == pytest.approx(2 * 16 * 16 * 27 / 200)
    assert found["stem.conv"]["width"] == 16
    assert found["all Mul"]["us"] == 11 and found["all Mul"]["macs"] == 0


def test_lost_alignment_and_gain_are_seen(tmp_path: Path) -> None:
    found = profile_pair(network(tmp_path / "a.onnx", 32), network(tmp_path / "b.onnx", 12), runs=6)
    convolutions = [row for row in found["layers"] if row["op"] in ("Conv", "FusedConv")]
    assert len(convolutions) == 6
    assert all(row["lost_alignment"] for row in convolutions)
    assert all(row["before"]["width"] == 32 and row["after"]["width"] == 12 for row in convolutions)
    assert sum(row["before"]["macs"] for row in convolutions) == 64 * 64 * 9 * (3 * 32 + 5 * 32 * 32)
    limit = found["balance"]["flops_per_byte"]
    assert all(row["memory_bound"] == (row["after"]["intensity"] < limit) for row in convolutions)


def test_layers_that_got_slower_are_named() -> None:
    def side(**us: float) -> dict[str, dict[str, object]]:
        facts = {"op": "Conv", "macs": 1, "bytes": 1, "intensity": 2.0}
        return {name: {**facts, "us": time, "width": 8 if time > 20 else 16} for name, time in us.items()}

    found = paired(side(stem=12, neck=500, noise=10, head=15), side(stem=32, neck=400, noise=11, head=40), None, 8)
    assert slower_layers(found) == ["head (15 → 40 µs, 16 → 8 channels)", "stem (12 → 32 µs, 16 → 8 channels)"]
    assert slower_layers(found, most=1) == ["head (15 → 40 µs, 16 → 8 channels)"]


def test_the_balance_is_measured() -> None:
    found = machine_balance()
    assert found["flops_per_s"] > 1e8 and found["bytes_per_s"] > 1e7
    assert found["flops_per_byte"] == pytest.approx(found["flops_per_s"] / found["bytes_per_s"])


def test_the_command_fills_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    model = f"{HERE / 'networks.py'}:residual"
    argv = ["compress", model, "--input", "1x3x16x16", "--macs", "0.6", "--no-bench", "--no-engine", "--quiet"]
    assert main([*argv, "--out", str(out)]) == 0
    assert main(["profile", str(out), "--runs", "4"]) == 0
    assert "Where the time goes" in capsys.readouterr().out
    assert main(["verify", str(out), "--quiet"]) == 0
    assert main(["report", str(out), "--quiet"]) == 0
    page = (out / "report.html").read_text()
    assert "Where the time goes" in page and "Parity, from torch to the engine" in page
    names = {row["name"] for row in json.loads((out / "profile.json").read_text())["layers"]}
    assert any("conv" in name or "stem" in name or "." in name for name in names)
    pytest.importorskip("openvino", reason="the package openvino is not installed")
    assert main(["profile", str(out), "--runs", "4", "--backend", "openvino", "--quiet"]) == 0
    again = json.loads((out / "profile.json").read_text())
    weighted = {row["name"] for row in again["layers"] if row["before"] and row["before"]["macs"]}
    assert again["backend"] == "openvino" and again["balance"] is None
    assert weighted and weighted <= names
    assert main(["profile", str(tmp_path)]) == 2
