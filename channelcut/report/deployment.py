"""The page's account of deployment: the parity chain, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from channelcut.report.charts import box, label, svg
from channelcut.report.markup import Html, Section, fold, table, tag
from channelcut.report.numbers import significant
from channelcut.report.overview import section
from channelcut.report.reader import Part

_BARS = 24


def parity(report: Part) -> Section | None:
    """Every form of the model against the one before it, as `channelcut verify` found it."""
    found = report.part("parity")
    stages = found.parts("stages")
    if not stages:
        return None
    rows = []
    for stage in stages:
        step = stage.part("step")
        share = step.number("boxes")
        rows.append(
            (
                stage.text("stage"),
                stage.text("compared_with"),
                *(significant(step.number(k)) for k in ("max_abs", "mean_abs", "max_relative")),
                "" if step.number("cosine") is None else f"{step.number('cosine'):.6f}",
                "" if share is None else f"{100 * share:.1f} %",
                f"{stage.text('status')} {stage.text('reason')}".strip(),
                stage.text("verdict"),
            )
        )
    broken = found.text("first_broken")
    verdict = f"The first stage that breaks is {broken}." if broken else "No stage that was run breaks its tolerance."
    heads = ("Stage", "Compared with", "Max", "Mean", "Relative", "Cosine", "Boxes", "Verdict", "Judged by")
    listed = table(heads, rows, f"Parity on {found.text('inputs')}", (2, 3, 4, 5, 6))
    return section("parity", "Parity, from torch to the engine", tag("p", verdict), listed)


def profile(report: Part) -> Section | None:
    """The time of every layer before and after: bars, and a table."""
    found = report.part("profile")
    if not found.parts("layers"):
        return None
    heads, rows = profile_rows(found.data)
    lead = f"Median times of {found.text('backend') or 'ONNX Runtime'}'s profiler. "
    balance = found.part("balance").number("flops_per_byte")
    if balance is not None:
        lead += (
            f"This machine computes {significant(balance)} floating-point operations in the time in which it moves a "
            "byte: a layer of lower intensity waits for memory."
        )
    return section(
        "profile",
        "Where the time goes",
        tag("p", lead),
        _bars(found.data),
        fold("The same as a table", table(heads, rows, "Layers by time", range(2, 7)), opened=False, class_="aside"),
    )


def profile_rows(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and text rows, the slowest layer of the original first."""
    rows: list[tuple[str, ...]] = []
    for layer in found["layers"]:
        old, new = layer["before"], layer["after"]
        said = [
            word
            for key, word in (("memory_bound", "memory-bound"), ("lost_alignment", "alignment lost"))
            if layer.get(key)
        ]
        rows.append(
            (
                layer["name"],
                layer["op"],
                "" if old is None else f"{old['us']:.0f}",
                "" if new is None else f"{new['us']:.0f}",
                f"{layer['saved_us']:.0f}" if "saved_us" in layer else "",
                f"{new['intensity']:.1f}" if new and new["macs"] else "",
                "" if not (old and new and new["width"]) else f"{old['width']} → {new['width']}",
                ", ".join(said),
            )
        )
    return ("Layer", "Op", "Before µs", "After µs", "Saved", "FLOP/byte", "Width", ""), rows


def _bars(found: Mapping[str, Any]) -> Html:
    """The slowest layers, the original's time behind the pruned one's."""
    layers = [layer for layer in found["layers"] if layer["before"]][:_BARS]
    largest = max([1e-9, *(max(r["before"]["us"], r["after"]["us"] if r["after"] else 0) for r in layers)])
    drawn = []
    for place, layer in enumerate(layers):
        top, old = place * 18.0, layer["before"]["us"]
        new = layer["after"]["us"] if layer["after"] else 0.0
        drawn += [
            label(254, top + 13, layer["name"][-36:], "name end"),
            box(260, top + 3, 360 * old / largest, 12, "removed"),
            box(260, top + 3, 360 * new / largest, 12, "after"),
            label(266 + 360 * max(old, new) / largest, top + 13, f"{old:.0f} → {new:.0f} µs", "value"),
        ]
    total = found["total_us"]
    says = f"Time by layer, before and after; in all {total['before']:.0f} and {total['after']:.0f} microseconds."
    return svg(760, 18 * len(layers) + 4, says, *drawn)
