"""The terminal report: golden text, and text that stays text on any terminal."""

from __future__ import annotations

import pytest
from report_data import make_report, terminal

from channelcut.report import render_html

TERMINAL = """\
Model     demo:tiny; 1x3x64x64; macs 0.5, align 8, importance l2, floor 0.1
Weights   tuned.pt
Groups    2 groups, 128 removable channels, 72 of them kept
Pinned    hard-coded width (2 places); network output (1 place)
Proof     passed: 144 comparisons, largest relative error 3e-14, tolerance 1e-9, signal 4.40; training step:
          step passed
Recovery  batch norm of 41 layers recalibrated on 127 images
ONNX      original.onnx: 398 nodes, relative error 2e-6; refused: original.onnx was refused once
ONNX      pruned.onnx: 397 nodes, relative error 2e-6; refused: pruned.onnx was refused once
Engine    model.sm89.engine: tensorrt_rtx 1.7 sm89, 3.21 MiB, built in 0.630 s
Time      3.40 s in all
Note      a note of the run
Cut       50.0 % fewer MACs and 40.7 % fewer parameters.
Caution   clocks are not fixed
Latency   Faster: pruned is 1.64 times as fast as original (95 % interval 1.59 to 1.67).

                              before      after    change
 ────────────────────────────────────────────────────────
 MACs                         3.04 G     1.52 G   -50.0 %
 Parameters                   2.57 M     1.53 M   -40.7 %
 Channels in groups              128         72   -43.8 %
 Latency, median             40.0 ms    24.0 ms   -40.0 %
 Latency, 95th percentile    40.0 ms    24.0 ms   -40.0 %
 ONNX file                  9.76 MiB   5.85 MiB   -40.1 %
"""


def test_terminal_text() -> None:
    report = make_report()
    for side, time in (("baseline", 40.0), ("candidate", 24.0)):
        report["measurement"][side]["samples_ms"] = [time] * 20
    lines = [line.rstrip() for line in terminal(report).splitlines()]
    assert "\n".join(lines).rstrip() == TERMINAL.rstrip()


def test_every_plan_that_was_timed_is_told() -> None:
    report = make_report()
    assert "plans" not in render_html(report)
    trial = {"asked": 0.5, "predicted": 0.499, "ratio": 0.61, "low": 0.6, "high": 0.62, "align": 8, "macs": 0.4}
    report["options"] = {"latency": 0.5, "trials": [trial, {**trial, "asked": 0.41, "ratio": 0.502}]}
    printed, page = terminal(report, width=200), render_html(report)
    assert "demo:tiny; 1x3x64x64; latency 0.5 " in printed
    assert "for 0.500: predicted 0.499, measured 0.610 (0.600 to 0.620), multiples of 8, MACs 0.400" in printed
    assert "for 0.410: predicted 0.499, measured 0.502" in printed
    assert 'id="plans"' in page
    assert "0.502" in page


def test_modules_that_went_as_wholes_are_named() -> None:
    report = make_report()
    assert "Left out" not in terminal(report)
    assert "Left out" not in render_html(report)
    report["dropped"] = [f"layer1.{i}" for i in range(10)]
    words = (
        "10 whole modules: layer1.0, layer1.1, layer1.2, layer1.3, layer1.4, layer1.5, layer1.6, layer1.7 and 2 more"
    )
    assert f"Left out  {words}" in terminal(report, width=200)
    assert words in render_html(report)


def test_terminal_shows_markup_and_control_characters_as_text() -> None:
    report = make_report()
    report["model"] = "[red]m[/red]\x1b[2J"
    report["notes"] = ["[/nonsense]", "[link=x]y[/link]"]
    printed = terminal(report)
    assert "[red]m[/red]\\x1b[2J" in printed and "[/nonsense]" in printed and "[link=x]y[/link]" in printed
    assert "\x1b" not in printed


def test_terminal_without_unicode() -> None:
    report = make_report()
    report["notes"] = ["naïve → ±"]
    printed = terminal(report, encoding="ascii")
    assert "na\\xefve \\u2192 \\xb1" in printed and "3.04 G" in printed


@pytest.mark.parametrize("width", [40, 60, 200])
def test_terminal_keeps_every_figure_at_any_width(width: int) -> None:
    report = make_report()
    printed = terminal(report, width=width)
    assert max(len(line) for line in printed.splitlines()) <= width
    for figure in ("3.04 G", "1.52 G", "-50.0 %", "5.85 MiB"):
        assert figure in printed
