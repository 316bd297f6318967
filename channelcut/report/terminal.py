"""The report in a terminal: a few lines, the verdict, and the before/after table last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from channelcut.report.accuracy import accuracy_rows, accuracy_words
from channelcut.report.facts import (
    channels_of,
    compensated,
    deployed_words,
    error_words,
    headline_of,
    images_words,
    left_out,
    measurement_of,
    onnx_error,
    options_of,
    places_by_reason,
    planned_words,
    proof_word,
    recovered,
    rescaled,
    rows_of,
    verdict_of,
    worst_layers,
)
from channelcut.report.markup import printable
from channelcut.report.numbers import count, plural, significant, unit
from channelcut.report.precisions import precision_lines
from channelcut.report.reader import Part, read
from channelcut.report.trials import trial_lines

_STYLES = {"faster": "green", "not faster": "red", "passed": "green", "failed": "red"}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the report (the content of report.json): what was run, proven and written, the verdict, before/after last.

    Parts that are missing or null are left out. Raises `UserError` where the report is damaged or of another format.
    """
    content = read(report)
    measurement = measurement_of(content)
    verdict = verdict_of(measurement)
    lines = [*_lines(content), ("Cut", headline_of(content), "")]
    if measurement is not None:
        lines += [("Caution", text, "yellow") for text in measurement.warnings]
    lines.append(("Latency", verdict.sentence, _STYLES.get(verdict.word, "yellow") if measurement is not None else ""))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text, style in lines:
        grid.add_row(Text(name, style="bold"), _shown(text, console, style))
    console.print(grid)
    for table in (_accuracy(content, console), _before_after(content, console)):
        if table is not None:
            console.print(table)


def _lines(report: Part) -> list[tuple[str, str, str]]:
    """(name, text, style) of what there is to say, without the verdict."""
    described = [report.text("model"), ", ".join(report.texts("input")), options_of(report)]
    found = [("Model", "; ".join(text for text in described if text), "")]
    if report.text("weights"):
        found.append(("Weights", report.text("weights"), ""))
    if words := deployed_words(report):
        found.append(("Deployed", words, ""))
    if words := images_words(report):
        found.append(("Images", words, ""))
    groups = report.parts("groups")
    if groups:
        total, kept = channels_of(report)
        said = "" if kept is None else f", {count(kept)} of them kept"
        found.append(("Groups", f"{plural(len(groups), 'group')}, {count(total)} removable channels{said}", ""))
    if words := planned_words(report):
        found.append(("Planned", words, ""))
    if words := left_out(report):
        found.append(("Left out", words, ""))
    pins = places_by_reason(report)
    if pins:
        found.append(("Pinned", "; ".join(f"{reason} ({plural(n, 'place')})" for reason, n in pins), ""))
    proof = report.part("proof")
    if proof:
        found.append(("Proof", _proof(proof), _STYLES[proof_word(proof)]))
        found += [("", text, "red") for text in proof.texts("failures")]
    found += [("Plan", text, "") for text in trial_lines(report)]
    found += [("Precision", text, "") for text in precision_lines(report)]
    found += [("Recovery", text, "") for text in _recovery(report)]
    found += [("ONNX", text, "") for text in _onnx(report.part("onnx"))]
    found += [("Engine", _engine(one), "") for one in report.parts("engines")]
    seconds = report.part("seconds")
    if seconds:
        found.append(("Time", f"{unit(sum(seconds.number(name) or 0.0 for name in seconds.data), 's')} in all", ""))
    return found + [("Note", text, "yellow") for text in report.texts("notes")]


def _recovery(report: Part) -> list[str]:
    """What was done to win accuracy back."""
    pairs = [*rescaled(report), *compensated(report), *recovered(report)]
    found = [f"{name[:1].lower()}{name[1:]}: {text}" for name, text in pairs]
    found += [f"furthest off: {name} ({after})" for name, _, after, _ in worst_layers(report, 1)]
    recalibrated = report.part("recalibration")
    if recalibrated:
        images, layers = (count(recalibrated.number(key)) for key in ("images", "layers"))
        found.append(f"batch norm of {layers} layers recalibrated on {images} images")
    return found


def _proof(proof: Part) -> str:
    facts = [
        f"{count(proof.number('checks'))} comparisons",
        error_words(proof),
        f"signal {significant(proof.number('signal'))}",
    ]
    return f"{proof_word(proof)}: {', '.join(facts)}; training step: {proof.text('training') or 'not run'}"


def _onnx(onnx: Part) -> list[str]:
    found = []
    for one in (onnx.part(name) for name in onnx.data):
        if one:
            refused = "".join(f"; refused: {text}" for text in one.texts("refusals"))
            nodes = count(one.number("nodes_after"))
            found.append(f"{one.text('path')}: {nodes} nodes, relative error {onnx_error(one)}{refused}")
    return found


def _engine(one: Part) -> str:
    built = " ".join(text for text in (one.text("backend"), one.text("version"), one.text("capability")) if text)
    size, time = unit(one.number("size_mib"), "MiB"), unit(one.number("build_s"), "s")
    return f"{one.text('path')}: {built}, {size}, built in {time}"


def _accuracy(report: Part, console: Console) -> Table | None:
    heads, rows = accuracy_rows(report)
    if not rows:
        return None
    return listed(heads, rows, console, f"Accuracy: {accuracy_words(report)}")


def listed(heads: Sequence[str], rows: Iterable[Sequence[str]], console: Console, title: str = "") -> Table:
    """Text rows as a table of the terminal: two columns of words, then numbers."""
    shown = _shown(title, console) if title else None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=shown, title_justify="left")
    for place, name in enumerate(heads):
        table.add_column(name, justify="right" if place > 1 else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(text, console) for text in row))
    return table


def _before_after(report: Part, console: Console) -> Table | None:
    rows = rows_of(report, measurement_of(report))
    if not rows:
        return None
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_shown(text, console) for text in (row.label, row.before, row.after, row.change)))
    return table


def _shown(text: str, console: Console, style: str = "") -> Text:
    """Text as it is, never as rich's markup; what the terminal's encoding lacks is spelt out."""
    encoding = console.encoding
    return Text(printable(text).encode(encoding, "backslashreplace").decode(encoding), style=style)
