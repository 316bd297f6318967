"""The page's account of the cut: headline, tiles, widths of layers, groups, pins."""

from __future__ import annotations

from collections.abc import Sequence

from channelcut.core.measurement import Measurement
from channelcut.report.charts import Width, meter, width_charts
from channelcut.report.facts import (
    Row,
    channels_of,
    deployed_words,
    error_words,
    headline_of,
    images_words,
    left_out,
    options_of,
    planned_words,
    proof_word,
    rows_of,
    verdict_of,
)
from channelcut.report.graph_svg import draw_graph
from channelcut.report.markup import Html, Section, facts_list, fold, join, table, tag
from channelcut.report.numbers import count, plural
from channelcut.report.reader import Part

Extents = tuple[float | None, float | None]

_BADGES = {
    "faster": ("good", "✓ Faster"),
    "not faster": ("bad", "✗ Not faster"),
    "undecided": ("unsure", "? Undecided"),
    "not measured": ("unsure", "– Latency not measured"),
}
_PROOFS = {
    "passed": ("good", "✓ Proof passed"),
    "failed": ("bad", "✗ Proof failed"),
    "not run": ("unsure", "– No proof was run"),
}


def header(report: Part, measurement: Measurement | None) -> Html:
    """The model, what was gained, and whether it is faster, with the badges of speed and proof."""
    verdict = verdict_of(measurement)
    proof = report.part("proof")
    badges = (badge(*_BADGES[verdict.word]), badge(*_PROOFS[proof_word(proof)]))
    return tag(
        "header",
        tag("p", "channelcut report", class_="kicker"),
        tag("h1", report.text("model") or "Model without a name"),
        facts_list(
            [
                ("Input", ", ".join(report.texts("input"))),
                ("Weights", report.text("weights")),
                ("Deployed", deployed_words(report)),
                ("Images", images_words(report)),
                ("Options", options_of(report)),
                ("Planned", planned_words(report)),
                ("Left out", left_out(report)),
            ]
        ),
        tag("p", headline_of(report), class_="headline"),
        tag("p", verdict.sentence, class_="verdict"),
        tag("p", join(badges), class_="badges"),
        _caution(measurement) if measurement is not None and measurement.warnings else None,
    )


def _caution(measurement: Measurement) -> Html:
    link = tag("a", plural(len(measurement.warnings), "warning"), href="#latency")
    return tag("p", tag("strong", "Caution: "), "the measurement came with ", link, ".", class_="caution")


def badge(kind: str, text: str) -> Html:
    """A word in a coloured pill; the word alone says it all."""
    return tag("span", text, class_=f"badge {kind}")


def tiles(report: Part, measurement: Measurement | None) -> Html | None:
    """One tile a quantity: now, the change, before, and a bar of the share that is left."""
    rows = rows_of(report, measurement)
    proof = report.part("proof")
    extra = [_proof_tile(proof)] if proof else []
    return tag("div", *(_tile(row) for row in rows), *extra, class_="tiles") if rows or extra else None


def _tile(row: Row) -> Html:
    change = row.change.replace("-", "−")
    return tag(
        "div",
        tag("p", row.label, class_="name"),
        tag("p", row.after or row.before, tag("span", change, class_="change") if change else None, class_="figure"),
        tag("p", f"before: {row.before}" if row.after else "nothing was cut", class_="was"),
        None if row.share is None else meter(row.share),
        class_="tile",
    )


def _proof_tile(proof: Part) -> Html:
    return tag(
        "div",
        tag("p", "Removed equals masked", class_="name"),
        tag("p", proof_word(proof), class_="figure"),
        tag("p", error_words(proof), class_="was"),
        class_="tile",
    )


def notes(report: Part) -> Section | None:
    """What the run had to say, as a list."""
    texts = report.texts("notes")
    return section("notes", "Notes", tag("ul", *(tag("li", text) for text in texts))) if texts else None


def section(anchor: str, title: str, *children: str | None) -> Section:
    """A section of these children; None is nothing."""
    return Section(anchor, title, join(children))


def layers(report: Part) -> Section | None:
    """The widths of all layers in execution order: bars, and the same as a table."""
    parts = report.parts("layers")
    if not parts:
        return None
    read = [(part.text("name"), _pair(part, "before"), _pair(part, "after")) for part in parts]
    widths = [Width(name, before[0] or 0, after[0], _detail(before, after)) for name, before, after in read]
    rows = [(n, *(count(v) if v is not None else "" for v in (*before, *after))) for n, before, after in read]
    heads = ("Layer", "Out before", "In before", "Out after", "In after")
    numbers = table(heads, rows, "Channels of every layer before and after", range(1, 5))
    return section(
        "layers",
        "Widths of the layers",
        *_layers_lead([(before, after) for _, before, after in read]),
        width_charts(widths),
        fold("The same as a table, with input channels", numbers, opened=False, class_="aside"),
    )


def _layers_lead(pairs: Sequence[tuple[Extents, Extents]]) -> list[Html]:
    """How many layers changed, and the legend where any could."""
    lead = f"Output channels of each of {plural(len(pairs), 'layer')}, in the order of execution"
    if all(after[0] is None for _, after in pairs):
        return [tag("p", f"{lead}; nothing was cut.")]
    outs, ins = (sum(after[i] is not None and before[i] != after[i] for before, after in pairs) for i in (0, 1))
    kinds = (("after", "kept"), ("removed", "removed"), ("same", "unchanged"))
    return [
        tag("p", f"{lead}. {plural(outs, 'layer')} lost output channels, {count(ins)} lost input channels."),
        tag("p", *(tag("span", text, class_=f"key {kind}") for kind, text in kinds), class_="legend"),
    ]


def _pair(part: Part, key: str) -> Extents:
    """(out, in) channels; None where they are not there."""
    numbers = part.numbers(key)
    return (numbers[0], numbers[1]) if len(numbers) >= 2 else (numbers[0] if numbers else None, None)


def _detail(before: Extents, after: Extents) -> str:
    now = "" if after[0] is None else f"; after {count(after[0])} out, {count(after[1])} in"
    return f"before {count(before[0])} out, {count(before[1])} in{now}"


def groups(report: Part) -> Section | None:
    """What can be removed together, and how much of it was."""
    parts = report.parts("groups")
    if not parts:
        return None
    total, left = channels_of(report)
    rows = []
    for part in parts:
        width, kept = part.number("width"), part.number("kept")
        share = kept / width if width and kept is not None else None
        left_cell = "" if share is None else join([meter(share), f"{100 * share:.0f} %"], " ")
        rows.append(
            (
                part.text("name"),
                count(part.number("lanes") or 1),
                count(width),
                "" if kept is None else count(kept),
                left_cell,
            )
        )
    said = "" if left is None else f", {count(left)} of them kept"
    summary = f"{plural(len(parts), 'group')}, {count(total)} channels{said}"
    lead = (
        "Channels of a group are removed together. Every lane of a group keeps the same share of its channels, or what "
        "the forward's own splits give it."
    )
    heads = ("Group", "Lanes", "Width of a lane", "Kept", "Share kept")
    listed = table(heads, rows, "Groups of channels, with the width of each lane before and after", (1, 2, 3, 4))
    return section("groups", "Groups", tag("p", lead), fold(summary, listed, opened=len(parts) <= 24))


def graph(report: Part) -> Section | None:
    """The layers in execution order, coloured by what their channels are removed together with."""
    part = report.part("graph")
    layers = part.parts("nodes")
    if not layers:
        return None
    lead = "Layers of one colour lose channels together. Point at a layer for its group, its widths and its pins."
    drawn = tag("div", draw_graph(part), class_="plot")
    summary = f"{plural(len(layers), 'layer')}, {plural(len(part.parts('edges')), 'edge')}"
    folded = len(layers) > 80  # a large picture is for the screen: it opens on demand and stays off paper
    content = fold(summary, drawn, opened=not folded, class_="aside" if folded else None)
    return section("graph", "The coupled graph", tag("p", lead), content)


def pins(report: Part) -> Section | None:
    """Why the other channels stay: places by reason, each with its source line and what would free it."""
    by_reason: dict[tuple[str, str], list[Part]] = {}
    for part in report.parts("pins"):
        by_reason.setdefault((part.text("reason"), part.text("remedy")), []).append(part)
    if not by_reason:
        return None
    lead = "Channels that stay, and what decided it. A channel can be pinned at several places."
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return section(
        "pins", "Pinned channels", tag("p", lead), *(_pin(reason, remedy, found) for (reason, remedy), found in ordered)
    )


def _pin(reason: str, remedy: str, found: list[Part]) -> Html:
    rows = [
        (
            p.text("module") or "(the model itself)",
            tag("code", p.text("op")),
            tag("code", p.text("source")),
            count(p.number("channels")),
        )
        for p in found
    ]
    listed = table(("Module", "Op", "Source", "Channels"), rows, f"Places pinned because: {reason}", (3,))
    told = tag("p", tag("strong", "Remedy: "), remedy or "none is known.")
    return fold(f"{reason} ({plural(len(found), 'place')})", told, listed, opened=len(found) <= 12)
