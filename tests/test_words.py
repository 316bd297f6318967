"""What the command line says: spellings that are understood, progress in log files, tables, sizes that would work."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import channelcut as cc
from channelcut.cli import console, main, parser
from channelcut.cli.analyze import print_analysis
from channelcut.cli.console import Bars, Log, Terminal, at_dots
from channelcut.cli.env import lines
from channelcut.core.progress import Stopwatch
from channelcut.report.explain import explain, sentences

HERE = Path(__file__).parent
MODEL = f"{HERE / 'networks.py'}:residual"
BUILD = ["build", "m.onnx", "--out", "o"]
COMPRESS = ["compress", "a:b", "--out", "o", "--keep", "0.5"]


@pytest.mark.parametrize(
    ("argv", "flag", "value"),
    [
        *(([*BUILD, "--capability", text], "capability", "sm89") for text in ("sm89", "SM_89", "8.9", "89", "cc8.9")),
        ([*BUILD, "--capability", "rtx4090"], "capability", "sm89"),
        ([*BUILD, "--capability", "NVIDIA GeForce RTX 4070 Ti SUPER"], "capability", "sm89"),
        ([*BUILD, "--capability", "RTX 3090,12.0"], "capability", "sm86,sm120"),
        ([*COMPRESS, "--capability", "sm_86,rtx5090"], "capability", ("sm86", "sm120")),
        (["bench", "a", "b", "--capability", "h100"], "capability", "sm90"),
        ([*BUILD, "--backend", "tensorrt-rtx"], "backend", "tensorrt_rtx"),
        ([*BUILD, "--backend", "TensorRT RTX"], "backend", "tensorrt_rtx"),
        ([*COMPRESS, "--backend", "TensorRT"], "backend", "tensorrt"),
        (["profile", "o", "--backend", "tensorrt-rtx"], "backend", "tensorrt_rtx"),
        (["bench", "a", "b", "--backend", "torch-cuda"], "backend", "torch_cuda"),
        (["compress", "a:b", "--out", "o", "--macs", "50%"], "macs", 0.5),
        (["compress", "a:b", "--out", "o", "--params", "12.5%"], "params", 0.125),
        (["compress", "a:b", "--out", "o", "--keep", "a.*=80%"], "keep", [("a.*", 0.8)]),
        ([*COMPRESS, "--min-keep", "20%"], "min_keep", 0.2),
    ],
)
def test_spellings_that_are_understood(argv: list[str], flag: str, value: object) -> None:
    assert getattr(parser().parse_args(argv), flag) == value


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([*BUILD, "--capability", "rtx409"], "'rtx409' is no compute capability. Did you mean rtx4090 (sm89)?"),
        ([*BUILD, "--capability", "fast"], "'fast' is no compute capability. Expected such as sm89"),
        (
            [*BUILD, "--backend", "tensorflow"],
            "is none of onnxruntime, openvino, tensorrt, tensorrt_rtx, torch_cuda. Did",
        ),
        (["bench", "a", "b", "--backend", "onnx"], "Did you mean onnxruntime?"),
        (["analyse", "x"], "invalid choice: 'analyse' is none of analyze, compress"),
        (["analyse", "x"], "Did you mean analyze? `channelcut --help` lists the flags"),
        (["convert", "m.onnx", "--out", "o", "--precision", "fp15"], "none of fp16, bf16, int8. Did you mean fp16?"),
        (["compress", "a:b", "--out", "o", "--macs", "150%"], "'150%' is no budget"),
        (["compress", "a:b", "--out", "o", "--keep", "0%"], "'0%' is no share"),
        (["bench", "a", "b", "--precision", "0.1"], "--precision 0.1 is not known here"),
    ],
)
def test_what_is_wrong_is_one_line_with_a_pointer(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("channelcut: ") and said.count("\n") == 1
    assert text in said and "--help` lists the flags and shows examples." in said


def test_one_idea_has_one_flag() -> None:
    """A flag that several commands have means one kind of thing, read by one function."""
    kinds: dict[str, set[Any]] = {}
    for action in parser()._actions:
        for command in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            for option in command._actions:
                for name in option.option_strings:
                    kinds.setdefault(name, set()).add(getattr(option.type, "__name__", option.type))
    several = {name: found for name, found in kinds.items() if len(found) > 1}
    # Lists where several are made: precisions and capabilities of `compress`, ranges of `build`, files of `convert`,
    # budgets of `sweep`.
    assert set(several) <= {"--precision", "--capability", "--batch", "--size", "--out", "--backend", "--latency"}
    for gone in ("--resolution", "--budget", "--multiple"):
        assert gone not in kinds


# -- progress --


def test_a_log_file_hears_as_it_happens(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(0, 1000, 4))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with Bars() as bars:
        assert isinstance(bars._shown, Log)
        bars("couple", 0, 1)
        assert capsys.readouterr().err == "  couple ...\n"
        bars("couple", 1, 1)
        assert capsys.readouterr().err == "  couple: done, 4.0 s\n"
        for done in range(9):
            bars("recalibrate", done, 8)
        bars("recalibrate", 1, 1)  # the stage says that it is done once more
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "  recalibrate ...",
        "  recalibrate: 3 of 8, 12 s",
        "  recalibrate: 6 of 8, 24 s",
        "  recalibrate: done, 32.0 s",
    ]
    assert "\x1b" not in said and "\r" not in said


def test_a_stage_that_runs_again_has_its_own_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Bars() as bars:
        watch = Stopwatch(Stopwatch(bars).progress)
        for seconds in (2.0, 3.0):
            with watch.stage("time"):
                for done in range(1, 4):  # it counts twice, and goes on after it has counted to the end
                    bars("time", done, 3)
                bars("time", 0, 2)
                bars("time", 2, 2)
                now[0] += seconds
            bars("time", 1, 1)
            now[0] += 100
        with pytest.raises(ValueError, match="no"), watch.stage("time"):
            raise ValueError("no")
        now[0] += 50
        with watch.stage("time"):
            now[0] += 1
        for _ in range(2):  # without a stage around it
            bars("build", 0, 1)
            now[0] += 4
            bars("build", 1, 1)
    once = ["  time ...", "  time: done, 2.0 s", "  time ...", "  time: done, 3.0 s", "  time ...", "  time ..."]
    assert capsys.readouterr().err.splitlines() == [
        *once, "  time: done, 1.0 s", *["  build ...", "  build: done, 4.0 s"] * 2
    ]  # fmt: skip


def test_what_is_noted_of_a_stage_is_in_its_lines_and_beside_its_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(float(second) for second in range(0, 1000, 4))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with Bars() as bars:
        counted = Stopwatch(bars)
        with counted.stage("measure"):
            for left in range(5, 0, -1):
                counted.note("measure", f"{left} min left")
                counted.progress("measure", 6 - left, 6)
    said = capsys.readouterr().err.splitlines()
    assert said == ["  measure ...", "  measure: 3 of 6, 12 s, 3 min left", "  measure: done, 24.0 s"]

    screen = io.StringIO()
    shown = Terminal(Console(file=screen, force_terminal=True, width=80))
    bars._shown = shown
    with shown.progress, counted.stage("measure"):
        counted.progress("measure", 1, 6)
        counted.note("measure", "loss 0.1234 [of 4], 12 min left")
        shown.progress.refresh()
        last = screen.getvalue().split("\r")[-1]
        assert "1/6" in last and "loss 0.1234 [of 4], 12 min left" in last and "\n" not in last
    assert "12 min" not in screen.getvalue().split("\r")[-1]


def test_a_bar_of_a_stage_that_runs_again_is_timed_anew() -> None:
    now = [0.0]
    shown = Terminal(Console(file=io.StringIO(), force_terminal=True))
    shown.progress.get_time = lambda: now[0]  # type: ignore[method-assign]
    for seconds in (5.0, 2.0):
        shown("build", 0, 1)
        now[0] += seconds
        shown("build", 1, 1)
        assert shown.progress.tasks[0].finished_time == seconds
        now[0] += 100


def test_an_error_leaves_no_bar_that_still_turns() -> None:
    screen = io.StringIO()
    shown = Terminal(Console(file=screen, force_terminal=True, width=80))
    shown.progress.start()
    shown("load", 1, 1)
    shown("couple", 0, 1)
    shown.stop(failed=True)
    last = screen.getvalue().split("\r")[-1]
    assert "load" in last and "couple" not in last


def test_long_stages_count(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[tuple[int, int]]] = {}
    monkeypatch.setattr(
        Bars, "__call__", lambda _, stage, done, total: seen.setdefault(stage, set()).add((done, total))
    )
    flags = ["--keep", "0.5", "--align", "1", "--no-engine", "--no-bench", "--precision", "fp16"]
    assert main(["compress", MODEL, "--input", "2x3x16x16", *flags, "--out", str(tmp_path / "out")]) == 0
    assert {(1, 6), (3, 6), (4, 6), (6, 6)} <= seen["export"]
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "m.onnx")]) == 0
    assert {(1, 3), (2, 3), (3, 3)} <= seen["export"]
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert max(total for _, total in seen["verify"]) > 1


# -- tables --


def test_names_break_after_dots_alone() -> None:
    name = "model.22.m.0.1.attn.qkv.conv.weight"
    assert at_dots(name, 80) == name
    assert at_dots(name, 14).split("\n") == ["model.22.m.0.", "1.attn.qkv.", "conv.weight"]
    assert at_dots("a_very_long_name", 4) == "a_very_long_name"


def test_a_table_at_80_columns_keeps_names_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["analyze", MODEL, "--input", "2x3x16x16", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    long = "backbone.stages.2.blocks.11.attention.projection.conv.weight"
    data["groups"][0] |= {"name": long, "params": 123456, "macs": 1.5e9}
    print_analysis(data)
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if re.search(r"backbone|stages|attention|projection|conv\.w", line)]
    parts = [line.split()[0] for line in table]
    assert "".join(parts) == long and all(part.endswith((".", "weight")) for part in parts)
    assert all(len(line) <= 80 for line in shown.splitlines() if "%" in line and "group" not in line)


# -- explain, env --


def test_a_module_is_explained_a_line_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--keep", "0.5", "--align", "1", "--no-engine", "--no-bench", "--quiet", "--exclude", "head"]
    assert main(["compress", MODEL, "--input", "2x3x16x16", *flags, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    report["slots"] = [{**slot, "tensor": f"net.{slot['tensor']}"} for slot in report["slots"]]
    said = sentences(explain(report, "net"))
    layers = [line.partition(":")[0] for line in said]
    assert layers[:-1] == ["net.stem.0", "net.a.0", "net.b.0", "net.head"] and "Name one of these layers" in said[-1]
    assert said[1] == "net.a.0: 12 of 24 output channels kept, group 1"
    assert said[3].startswith("net.head: 4 of 4 output channels kept, 4 must stay: network output")
    assert len(sentences(explain(report, "net.a.0"))) > 4  # one layer is explained in full


def test_env_for_people_and_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("processor") and "libraries" in text and "{" not in text
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert dict(lines(found))["backends"].startswith("onnxruntime")
    assert main(["env", "--quiet"]) == 0 and capsys.readouterr().out == ""


# -- sizes --


class Pyramid(nn.Module):
    """Features of half, a quarter, ... of the size, which are enlarged and joined."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(depth))
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = low = self.stem(x)
        for down in self.downs:
            low = down(low).relu()
        return self.head(torch.cat([nn.functional.interpolate(low, scale_factor=2 ** len(self.downs)), high], 1))


@pytest.mark.parametrize(("depth", "size"), [(5, "1x3x64x128"), (3, "1x3x56x104"), (1, "1x3x52x102")])
def test_a_size_that_is_no_multiple_of_the_stride(depth: int, size: str) -> None:
    model = Pyramid(depth).eval()
    with pytest.raises(cc.UserError, match=rf"runs on {size}: height and width have to be multiples of {2**depth} "):
        cc.analyze(model, torch.rand(1, 3, 51, 101))
    extents = [int(extent) for extent in size.split("x")]
    assert cc.analyze(model, torch.rand(extents)).groups


def test_a_size_that_is_not_to_blame_is_not_blamed() -> None:
    for x in (torch.rand(1, 4, 51, 101), torch.rand(3, 51, 101, 1)):
        with pytest.raises(cc.UserError, match="own forward fails on the example inputs") as error:
            cc.analyze(Pyramid(2).eval(), x)
        assert "multiples" not in str(error.value)
