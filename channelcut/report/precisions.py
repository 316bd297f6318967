"""The report's account of files in lower precisions: their output errors, and which layer has which precision."""

from __future__ import annotations

from collections.abc import Mapping

from channelcut.report.markup import Section, table, tag
from channelcut.report.numbers import plural, significant
from channelcut.report.overview import section
from channelcut.report.reader import Part

_FILES = ("File", "Output error", "At most", "Lowered", "Kept", "Judged on")
_MOST = 5  # layers that a terminal names


def file_rows(report: Part) -> list[tuple[str, ...]]:
    """Each file under `_FILES`."""
    rows: list[tuple[str, ...]] = []
    for file in report.parts("precision"):
        error, budget = significant(file.number("error")), significant(file.number("budget"))
        lowered, kept = f"{file.number('lowered') or 0:.0f}", str(len(file.texts("kept")))
        rows.append((file.text("path"), error, budget, lowered, kept, file.text("inputs")))
    return rows


def chosen_layers(report: Part) -> Mapping[str, str]:
    """The precisions of the layers that left float32 with the widths, by name."""
    for file in report.parts("precision"):
        layers = file.part("layers")
        if layers:
            return {name: layers.text(name) for name in layers.data}
    return {}


def precision_lines(report: Part) -> list[str]:
    """The files as sentences, for a terminal."""
    found = []
    for path, error, budget, lowered, kept, inputs in file_rows(report):
        found.append(f"{path}: output error {error} (at most {budget}) on {inputs}, {lowered} lowered, {kept} kept")
    chosen = chosen_layers(report)
    for precision in sorted(set(chosen.values())):
        names = [name for name, found_in in chosen.items() if found_in == precision]
        more = ", ..." if len(names) > _MOST else ""
        found.append(f"{plural(len(names), 'layer')} in {precision}: {', '.join(names[:_MOST])}{more}")
    return found


def precisions(report: Part) -> Section | None:
    """The files and the layers as tables."""
    rows = file_rows(report)
    if not rows:
        return None
    parts = [
        tag("p", "Errors of the outputs against float32, as shares of their norm."),
        table(_FILES, rows, "Files by precision", (1, 2, 3, 4)),
    ]
    if chosen := chosen_layers(report):
        parts.append(tag("p", "Chosen with the widths; layers that are not named here are float32."))
        parts.append(table(("Layer", "Precision"), list(chosen.items()), "Layers by precision"))
    return section("precisions", "Precisions", *parts)
