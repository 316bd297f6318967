"""The coupled graph as a picture: layers as boxes as wide as their channels, coloured by their group."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from channelcut.core.errors import UserError
from channelcut.report.charts import box, label, line
from channelcut.report.graph_layout import BAR, PITCH, Layout, Place, layout
from channelcut.report.markup import Html, escaped, join, tag
from channelcut.report.numbers import count, plural
from channelcut.report.reader import Part

_LEGEND, _LEGEND_ROW = 12, 18.0  # groups that the legend names, and pixels of one
_LEGEND_TEXT = 44  # characters
_PAD = 12.0
_GOLDEN = 137.508  # degrees: neighbours in size get hues far apart, however many there are

STYLE = """
.coupled { --ink: #1b222c; --quiet: #566070; --back: #ffffff; --band: #f1f3f6; --held: #9aa3af; }
@media (prefers-color-scheme: dark) {
  .coupled { --ink: #e6eaf0; --quiet: #a3adbb; --back: #1a2029; --band: #222a35; --held: #7b8593; }
}
@media print {
  .coupled { --ink: #000000; --quiet: #444444; --back: #ffffff; --band: #f1f3f6; --held: #9aa3af; }
}
svg.coupled { display: block; }
.coupled text { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.coupled text { fill: var(--ink); }
.coupled .lead, .coupled .title { fill: var(--quiet); }
.coupled .back { fill: var(--back); }
.coupled .band { fill: var(--band); }
.coupled .held { fill: var(--held); }
.coupled .stripes { stroke: var(--back); stroke-width: 12; stroke-dasharray: 2 4; stroke-dashoffset: 2; opacity: .7; }
.coupled .gone { opacity: .28; }
.coupled path { fill: none; stroke-width: 1.3; opacity: .75; }
.coupled path.held { fill: none; stroke: var(--held); }
.coupled g:hover path { stroke-width: 3; opacity: 1; }
"""


def draw_graph(data: Part, *, standalone: bool = False) -> Html:
    """Draw what `graph_data` gives; the same data gives the same picture.

    `standalone` makes it a file of its own, on a background that follows the reader's light or dark setting. Raises
    `UserError` where the data is damaged.
    """
    nodes, groups = data.parts("nodes"), data.parts("groups")
    edges = [_edge(part, len(nodes)) for part in data.parts("edges")]
    colours = _colours(groups)
    texts = [f" {_widths(node.number('before'), node.number('after'))}" for node in nodes]
    widths = [node.number("before") or 0.0 for node in nodes]
    placed = layout([node.text("name") for node in nodes], widths, texts, edges)
    legend, top = _legend(groups, colours, any(node.number("after") is not None for node in nodes))
    width, height = max(placed.width, 820.0) + 2 * _PAD, placed.height + top + 2 * _PAD
    bands = [box(0, block.y, width - 2 * _PAD, block.height, "band") for block in placed.blocks]
    titles = [label(6, block.y + 19, block.title, "title") for block in placed.blocks]
    layers = [_layer(i, node, placed, edges, (groups, colours)) for i, node in enumerate(nodes)]
    says = f"{plural(len(nodes), 'layer')} in execution order, coloured by {plural(len(groups), 'group')} of channels."
    return tag(
        "svg",
        tag("style", Html(STYLE)),
        box(0, 0, width, height, "back") if standalone else None,
        tag("g", legend, transform=f"translate({_PAD:.0f} {_PAD:.0f})"),
        tag("g", *bands, *titles, *layers, transform=f"translate({_PAD:.0f} {_PAD + top:.0f})"),
        xmlns="http://www.w3.org/2000/svg" if standalone else None,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=round(width),
        height=round(height),
        role="img",
        aria_label=says,
        class_="coupled",
    )


def _edge(part: Part, nodes: int) -> tuple[int, int]:
    source, target = part.number("from"), part.number("to")
    if source is None or target is None or not 0 <= source < target < nodes:
        raise UserError(
            f"The report is damaged: {part.place} leads from {part.text('from') or 'nowhere'} to "
            f"{part.text('to') or 'nowhere'}, expected two of the {nodes} layers in the order in which they run. "
            "Write report.json again with the version that reads it."
        )
    return int(source), int(target)


def _colours(groups: Sequence[Part]) -> list[str]:
    """A colour for every group, in order of size, of a lightness that shows on light and on dark."""
    order = sorted(range(len(groups)), key=lambda i: (-(groups[i].number("channels") or 0), i))
    found = [""] * len(groups)
    for rank, i in enumerate(order):
        lightness = (0.52, 0.64, 0.42)[rank // _LEGEND % 3]
        rgb = colorsys.hls_to_rgb((210 + rank * _GOLDEN) % 360 / 360, lightness, 0.62)
        found[i] = "#" + "".join(f"{round(255 * value):02x}" for value in rgb)
    return found


def _legend(groups: Sequence[Part], colours: Sequence[str], planned: bool) -> tuple[Html, float]:
    """The largest groups, what boxes mean, and the height of both."""
    cut = " Filled: kept; pale: removed." if planned else ""
    lead = f"A box is a layer, as wide as its output channels.{cut} One colour is one group; striped grey stays."
    order = sorted(range(len(groups)), key=lambda i: (-(groups[i].number("channels") or 0), i))
    drawn = [label(0, 10, lead, "lead")]
    for place, i in enumerate(order[:_LEGEND]):
        x, y = place % 2 * 380.0, 22 + place // 2 * _LEGEND_ROW
        text = f"{groups[i].text('name')} {_widths(groups[i].number('channels'), groups[i].number('kept'))}"
        clipped = text if len(text) <= _LEGEND_TEXT else "…" + text[1 - _LEGEND_TEXT :]
        swatch = tag("rect", x=x, y=y, width=22, height=10, fill=colours[i])
        drawn.append(tag("g", tag("title", f"group {i}: {text} channels"), swatch, label(x + 28, y + 9, clipped)))
    rows = -(-min(len(groups), _LEGEND) // 2)
    bottom = 22 + rows * _LEGEND_ROW
    if len(groups) > _LEGEND:
        drawn.append(label(0, bottom + 9, f"and {plural(len(groups) - _LEGEND, 'smaller group')}", "lead"))
        bottom += _LEGEND_ROW
    return join(drawn), bottom + 8


def _layer(
    i: int,
    node: Part,
    placed: Layout,
    edges: Sequence[tuple[int, int]],
    groups: tuple[Sequence[Part], Sequence[str]],
) -> Html:
    """A box with its text, and the edges that leave it, under one tooltip."""
    place = placed.places[i]
    drawn, x = [], place.x
    parts = node.parts("parts")
    scale = place.width / (node.number("before") or 1.0)
    for part in parts:
        before, after = part.number("before") or 0.0, part.number("after")
        drawn += _bar(x, place.y, (before * scale, (before if after is None else after) * scale), _fill(part, groups))
        x += before * scale
    colour = _fill(node, groups)
    targets = [placed.places[target] for source, target in edges if source == i]
    path = _path(i, place, targets, placed)
    stroke = {"class_": "held"} if colour is None else {"stroke": colour}
    return tag(
        "g",
        tag("title", _tooltip(node, parts, groups[0])),
        tag("path", d=path, **stroke) if path else None,
        *drawn,
        label(place.x + place.width + 5, place.y + 10, place.text.strip()),
    )


def _fill(part: Part, groups: tuple[Sequence[Part], Sequence[str]]) -> str | None:
    """The colour of the group that a part or a layer belongs to; None where it is pinned."""
    group = part.number("group")
    if group is None:
        return None
    if not 0 <= group < len(groups[1]) or group != int(group):
        raise UserError(
            f"The report is damaged: {part.place}.group is {group:g}, expected the number of one of the "
            f"{len(groups[1])} groups. Write report.json again with the version that reads it."
        )
    return groups[1][int(group)]


def _bar(x: float, y: float, widths: tuple[float, float], colour: str | None) -> list[Html]:
    """A piece of a box: all of it pale where some of it was removed, the kept share filled."""
    before, after = widths
    if colour is None:
        middle = y + BAR / 2
        return [box(x, y, before, BAR, "held"), line(x, middle, x + before, middle, "stripes")]
    gone = tag("rect", x=x, y=y, width=before, height=BAR, fill=colour, class_="gone")
    return [*([gone] if after < before else []), tag("rect", x=x, y=y, width=after, height=BAR, fill=colour)]


def _path(i: int, place: Place, targets: Sequence[Place], placed: Layout) -> str:
    """The edges that leave a layer: straight on to the next row, or by one trunk in the layer's lane to all others."""
    bottom = place.y + BAR
    middle = bottom + (PITCH - BAR) / 2
    drawn, trunk = [], []
    for target in targets:
        if target.row == place.row + 1:
            turn = "" if target.port == place.port else f"V{middle:.1f}H{target.port:.1f}"
            drawn.append(f"M{place.port:.1f} {bottom:.1f}{turn}V{target.y:.1f}")
        else:
            trunk.append(target)
    if trunk:
        lane, leave = placed.lanes[i], bottom + 4
        drawn.append(f"M{place.port:.1f} {bottom:.1f}V{leave:.1f}H{lane:.1f}")
        heights = [_entry(target) for target in trunk]
        drawn.append(f"M{lane:.1f} {min(leave, *heights):.1f}V{max(leave, *heights):.1f}")
        drawn += [f"M{lane:.1f} {_entry(t):.1f}H{t.port:.1f}V{t.y:.1f}" for t in trunk]
    return "".join(drawn)


def _entry(target: Place) -> float:
    """How high an edge from a lane runs above its row: those to neighbours in a row do not cover each other."""
    return target.y - 4 - 2 * (target.column % 4)


def _tooltip(node: Part, parts: Sequence[Part], groups: Sequence[Part]) -> Html:
    """Everything about a layer, a line each."""
    where = f" ({node.text('source')})" if node.text("source") else ""
    lines = [
        f"{node.text('name')}: {_widths(node.number('before'), node.number('after'))} output channels",
        f"{node.text('op')} in {node.text('module') or 'the model'}{where}, depth {count(node.number('depth'))}",
    ]
    for part in parts:
        group = part.number("group")
        name = "must stay" if group is None else f"in group {group:.0f} ({groups[int(group)].text('name')})"
        lines.append(f"{_widths(part.number('before'), part.number('after'))} {name}")
    return Html("\n".join(map(escaped, [*lines, *(f"pinned: {reason}" for reason in node.texts("pins"))])))


def _widths(before: float | None, after: float | None) -> str:
    return count(before) if after is None else f"{count(before)}→{count(after)}"
