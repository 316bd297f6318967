"""A sweep makes its points once, goes on where it was ended, and says what could not be made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import channelcut as cc
from channelcut.bench.measure import BenchOptions
from channelcut.cli import main
from channelcut.cli.parsing import shares
from channelcut.core.checked import read_json, write_json
from channelcut.core.crew import Died
from channelcut.core.deployed import Deploy
from channelcut.core.described import differences
from channelcut.core.measurement import Latency, Measurement
from channelcut.core.specs import InputSpec
from channelcut.cost import macs_cost
from channelcut.options import CompressOptions, PruneOptions
from channelcut.recovery.distil.options import UNTOLD
from channelcut.report.front import front_chart, front_notes, front_rows, metric_of, render_front
from channelcut.sources import Source, open_source
from channelcut.sweep import SweepOptions, _name, _said, _timed, sweep

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1)
    return nn.Sequential(*layers).eval(), torch.ones(1, 3, 16, 16)

def evaluate(model):
    return {"widths": float(model[0].out_channels)}
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "nets.py").write_text(FACTORY)
    return open_source(f"{tmp_path / 'nets.py'}:build", None, trust=False, inputs=())


def options(source: Source, *targets: float) -> SweepOptions:
    """Widths by what they multiply, so that nothing depends on how fast this machine is."""
    model, example = source.open()
    prune = PruneOptions(cost=macs_cost(cc.analyze(model, example)))
    bench = BenchOptions(time_limit_s=0.2, warmup_s=0.0, min_rounds=2)
    return SweepOptions(CompressOptions(prune, capabilities=(), bench=bench), targets)


def test_points_are_made_once_beside_smaller_networks(source: Source, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(FACTORY.replace("32", "8"))
    (tmp_path / "tall.py").write_text(FACTORY.replace("(3, 32", "(4, 32").replace("(1, 3", "(1, 4"))
    beside = tuple(
        open_source(f"{tmp_path / name}:build", None, trust=False, inputs=()) for name in ("small.py", "tall.py")
    )
    out, asked = tmp_path / "front", replace(options(source, 0.5, 0.001), beside=beside)
    found = sweep(source, out, asked)
    original, cut, refused, small, tall = found["points"]
    assert (original["kind"], cut["name"], refused["name"]) == ("original", "latency-0.500", "latency-0.001")
    assert "cannot be met" in refused["refused"]
    assert cut["metrics"]["widths"] < original["metrics"]["widths"] == 32
    assert cut["macs"] == pytest.approx(0.5, abs=0.05)
    assert cut["macs"] < cut["kept_importance"] < 1 == original["kept_importance"]
    assert 0 < cut["low"] <= cut["ratio"] <= cut["high"]
    assert small["metrics"] == {"widths": 8.0}
    assert small["ratio"] > 0
    assert "refused" in tall
    assert json.loads((out / "sweep.json").read_text())["points"] == found["points"]
    page = (out / "sweep.html").read_text()
    assert "latency-0.500" in page
    assert "<circle" in page
    written = (out / "latency-0.500" / "report.json").stat().st_mtime_ns
    again = sweep(source, out, asked)
    assert (out / "latency-0.500" / "report.json").stat().st_mtime_ns == written
    assert sorted(p["name"] for p in again["points"]) == sorted(p["name"] for p in found["points"])
    other = replace(asked, compress=replace(asked.compress, prune=replace(asked.compress.prune, min_keep=0.2)))
    with pytest.raises(cc.UserError, match=r"differs in options.prune.min_keep \(0.1 there, 0.2 here\)"):
        sweep(source, out, other)
    with pytest.raises(cc.UserError, match=r"differs in inputs \(\[\] there, \['1x3x24x24'\] here\)"):
        sweep(replace(source, inputs=(InputSpec((1, 3, 24, 24)),)), out, asked)


def test_milliseconds_are_shares_of_one_original(source: Source) -> None:
    """What was measured at another hour, on a busier machine, is not put beside it as it came."""
    sides = Latency("original", (9.0, 9.0)), Latency("pruned", (6.0, 6.0))
    found = Measurement(*sides, 2 / 3, 0.6, 0.7)
    for whole, ms in ((3.0, 2.0), (None, 6.0)):
        cost = SimpleNamespace(full_ms=whole) if whole else None
        begun: Any = SimpleNamespace(options=SimpleNamespace(prune=SimpleNamespace(cost=cost)))
        assert _timed(found, begun)["ms"] == pytest.approx(ms)


PRUNE = {
    "keep": {"*": 0.9}, "macs": 0.5, "params": 0.5, "latency_ms": 3.0, "cost": len, "exclude": ("a",),
    "min_channels": 2, "min_keep": 0.2, "align": 8, "importance": "l1", "calibration": "images",
    "preprocessing": cc.Preprocessing("crop"), "loss": "library", "detections": len, "rescale": "never",
    "restore": "none", "passes": 2, "drop_unused": True, "blocks": "auto", "deploy": Deploy(nms=False),
    "tracer": "export", "grouped": "offsets",
    "prunable_outputs": ("1.*",), "entries": ("forward_train",), "prove": "each",
}  # fmt: skip
COMPRESS = {
    "capabilities": ("sm80",), "backend": "tensorrt", "precisions": ("int8",), "mixed": True, "max_error": 0.1,
    "profile": True, "evaluate": False, "bench": BenchOptions(threads=2), "recover": 3, "rounds": 2, "sparsify": 1,
    "time_on": "openvino", "target": "orin-nano", "target_precision": "int8", "images": {"fit": "crop"},
}  # fmt: skip
RECOVERY = {
    "batch": 8, "at_once": 4, "learning_rate": 1e-4, "warmup": 0.2, "weight_decay": 0.0, "ema": 0.0,
    "batch_norm": "frozen", "precision": "fp32", "augment": ("flip",), "output": 0.5, "features": 0.5, "task": 0.0,
    "places": 2, "held_back": 0.2, "patience": 3, "preprocessing": cc.Preprocessing("crop"), "init": "scratch",
    "rewind": {"a": torch.ones(2)}, "seed": 1,
}  # fmt: skip
SAME = {"prune": {"latency"}, "compress": {"prune", "recovery", "force", "measure", "table"}, "recovery": {*UNTOLD}}
CHANGES = [("prune", *p) for p in PRUNE.items()] + [("compress", *p) for p in COMPRESS.items()]
CHANGES += [("recovery", *p) for p in RECOVERY.items()]


def changed(part: str, name: str, value: Any) -> dict[str, Any]:
    """What a sweep says with one option changed."""
    prune, recovery, more = PruneOptions(), cc.RecoverOptions(), dict[str, Any]()
    if part == "prune":
        prune = replace(prune, **{name: value})
    elif part == "recovery":
        both: dict[str, Any] = {name: value} | ({"init": "rewind"} if name == "rewind" else {})
        recovery = replace(recovery, **both)
    else:
        more = {name: value}
    return _said(SweepOptions(CompressOptions(prune, recovery=recovery, **more), (0.5,)))


def test_every_option_is_told_apart_or_known_to_change_no_point() -> None:
    for part, kind, listed in (
        ("prune", PruneOptions, PRUNE), ("compress", CompressOptions, COMPRESS),
        ("recovery", cc.RecoverOptions, RECOVERY),
    ):  # fmt: skip
        assert {each.name for each in fields(kind)} == {*listed} | SAME[part], part
    assert changed("prune", "latency", 0.3) == changed("compress", "force", True) == changed("recovery", "workers", 9)


@pytest.mark.parametrize(("part", "name", "value"), CHANGES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_sweep_with_another_option_is_another(part: str, name: str, value: Any) -> None:
    plain = changed("compress", "force", False)
    told = changed(part, name, value)
    assert told == json.loads(json.dumps(told)) == changed(part, name, value)
    found = differences(plain, told)
    assert found and all(name in text or name == "rewind" for text in found)


class Mortals:
    """A crew in this process, of which the first that is given something dies."""

    size, replaced = 2, 0

    def __init__(self, make: Callable[[], Any], *_: object, address: str | None) -> None:
        self.make, self.does, self.address = make, dict[int, Any](), address

    def __enter__(self) -> Mortals:
        return self

    def __exit__(self, *_: object) -> None:
        assert Mortals.replaced == 1

    def submit(self, worker: int, lot: Sequence[float]) -> tuple[int, tuple[float, ...]]:
        return worker, tuple(lot)

    def first(self, answers: Sequence[Any]) -> Any:
        return answers[0]

    def rows(self, answer: tuple[int, tuple[float, ...]]) -> dict[float, Any]:
        if not Mortals.replaced:
            raise Died("killed")
        does = self.does.setdefault(answer[0], self.does.get(answer[0]) or self.make())
        return does(answer[1])

    def replace(self, worker: int) -> None:
        Mortals.replaced += 1


def test_what_a_dead_worker_had_is_made_by_another(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("channelcut.sweep.RayCrew", Mortals)
    found = sweep(source, tmp_path / "front", replace(options(source, 0.6, 0.001), workers=2))
    original, cut, refused = found["points"]
    assert cut["macs"] == pytest.approx(0.6, abs=0.05)
    assert original["metrics"]["widths"] == 32 > cut["metrics"]["widths"]
    assert "cannot be met" in refused["refused"]
    assert (tmp_path / "front" / "latency-0.600" / "report.json").is_file()


def test_points_through_ray_are_those_of_one_process(source: Source, tmp_path: Path) -> None:
    """Of which the first worker is killed."""
    pytest.importorskip("ray")
    marker = tmp_path / "marker"
    dies = f"""
    import os, pathlib
    marker = pathlib.Path({str(marker)!r})
    if marker.exists() and marker.read_text() != str(os.getpid()):
        marker.unlink()
        os._exit(1)
"""
    (tmp_path / "nets.py").write_text(FACTORY.replace("(model):\n", f"(model):\n{dies}"))
    asked = options(source, 0.6)
    alone = sweep(source, tmp_path / "alone", asked)
    marker.write_text(str(os.getpid()))
    known = [row["name"] for row in alone["points"]]
    found = sweep(source, tmp_path / "many", replace(asked, workers=2))
    assert not marker.exists()
    assert [row["name"] for row in found["points"]] == known
    for one, other in zip(alone["points"], found["points"], strict=True):
        assert {k: one[k] for k in ("macs", "kept_importance", "metrics") if k in one} == {
            k: other[k] for k in ("macs", "kept_importance", "metrics") if k in other
        }


def test_the_front_is_drawn_and_listed() -> None:
    points = [
        {"name": "original", "kind": "original", "ratio": 1.0, "ms": 4.0, "metrics": {"map50": 0.6, "map": 0.4}},
        {"name": "latency-0.500", "kind": "cut", "target": 0.5, "ratio": 0.51, "low": 0.5, "high": 0.52, "ms": 2.0,
         "macs": 0.45, "kept_importance": 0.8, "metrics": {"map50": 0.5, "map": 0.3}},
        {"name": "latency-0.100", "kind": "cut", "target": 0.1, "refused": "no"},
    ]  # fmt: skip
    assert metric_of(points) == "map"
    heads, rows = front_rows(points)
    assert heads[-1] == "mAP50-95"
    assert [row[0] for row in rows] == ["original", "latency-0.500", "latency-0.100"]
    assert rows[1][2:] == ("0.510", "0.500 to 0.520", "2.00", "0.450", "0.800", "0.300")
    assert rows[2][2:] == ("refused", "", "", "", "", "")
    assert front_notes(points) == [("latency-0.100", "no")]
    page = render_front({"model": "nets", "points": points})
    assert page.index("</table>") < page.index("<strong>latency-0.100: </strong>no")
    assert str(front_chart(points)).count("<circle") == 2
    assert front_chart(points[:1]) is None
    unevaluated = [point | {"metrics": {}, "kept_importance": 0.9} for point in points]
    assert "Kept importance over" in str(front_chart(unevaluated))


def test_why_a_point_was_refused_stands_below_the_table(
    source: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "The budget [0.1] cannot be met: " + "of all that there is a layer keeps its least, " * 4
    points = [
        {"name": "original", "kind": "original", "ratio": 1.0, "ms": 4.0},
        {"name": "latency-0.100", "kind": "cut", "target": 0.1, "refused": why},
    ]
    monkeypatch.setattr("channelcut.sweep.sweep", lambda *_: {"points": points})
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["sweep", source.name, "--latency", "0.1", "--out", "front"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert ["latency-0.100", "cut", "refused"] in [line.split() for line in shown]
    assert f"latency-0.100: {why}" in shown


def test_points_that_are_near_have_folders_of_their_own(source: Source, tmp_path: Path) -> None:
    assert [_name(t, ()) for t in (0.7, 1, 0.58, 0.7001, 0.385714, 1e-20)] == [
        "latency-0.700", "latency-1.000", "latency-0.580", "latency-0.7001", "latency-0.385714", "latency-1e-20"
    ]  # fmt: skip
    out, asked = tmp_path / "front", options(source, 0.5004)
    sweep(source, out, asked)
    before = out / "latency-0.500"  # as such a point was called where three decimals were all
    (out / "latency-0.5004").rename(before)
    content = read_json(out / "sweep.json", "", "")
    content["points"][1] |= {"name": before.name, "folder": before.name}
    write_json(out / "sweep.json", content)
    written = (before / "report.json").stat().st_mtime_ns
    found = sweep(source, out, replace(asked, targets=(0.5, 0.5004, 0.6)))
    assert (before / "report.json").stat().st_mtime_ns == written
    names = {point["target"]: point["folder"] for point in found["points"][1:]}
    assert names == {0.6: "latency-0.600", 0.5004: "latency-0.500", 0.5: "latency-0.5000"}
    for target, name in names.items():
        if name != before.name:
            assert read_json(out / name / "report.json", "", "")["options"]["latency"] == target


def test_budgets_are_read_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shares("0.3:0.9:4") == (0.9, 0.7, 0.5, 0.3)
    assert shares("0.5,70%") == (0.7, 0.5)
    assert main(["sweep", "torchvision:resnet18", "--latency", "0.9:2:3", "--out", str(tmp_path / "o")]) == 2
    assert "is no share" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    with pytest.raises(cc.UserError, match="make no sweep"):
        SweepOptions(CompressOptions(PruneOptions()), ())
    with pytest.raises(cc.UserError, match=r"name 0.7 more than once"):
        SweepOptions(CompressOptions(PruneOptions()), shares("0.7,0.5,70%"))
