"""The front of a sweep: latency and accuracy of every point, as a plot and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from channelcut.report.accuracy import metric_words
from channelcut.report.charts import Axis, label, line, svg
from channelcut.report.html import page
from channelcut.report.markup import Html, table, tag
from channelcut.report.overview import section

_LEFT, _WIDTH, _TOP, _HEIGHT = 60.0, 620.0, 20.0, 300.0
_CLASSES = {"original": "before", "cut": "after", "beside": "bad"}
_IMPORTANCE, _KEPT = "kept_importance", "Kept importance"
_KINDS = {"original": "original", "cut": "cut", "beside": "as it is"}


def metric_of(points: Sequence[Mapping[str, Any]]) -> str:
    """The metric that is drawn: the first that any point has; empty where none was evaluated."""
    names = [name for point in points for name in (point.get("metrics") or {})]
    return "map" if "map" in names else names[0] if names else ""


def front_rows(points: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and text rows, the fastest last; why a point was refused is among the `front_notes`."""
    metric = metric_of(points)
    heads = (
        "Network",
        "",
        "Time",
        "95 % interval",
        "ms",
        "MACs",
        "Kept importance",
        *([metric_words(metric)] if metric else []),
    )
    rows: list[tuple[str, ...]] = []
    for point in _by_time(points):
        boxes = f", suppression {point['suppression']}" if point.get("suppression") else ""
        start = (point["name"], _KINDS[point["kind"]] + boxes)
        if "refused" in point:
            rows.append((*start, "refused", *[""] * (len(heads) - 3)))
            continue
        interval = f"{point['low']:.3f} to {point['high']:.3f}" if "low" in point else ""
        shown = (point.get("metrics") or {}).get(metric)
        macs, importance = (_three(point.get(name)) for name in ("macs", _IMPORTANCE))
        ms = f"{point['ms']:.2f}" if point.get("ms") is not None else ""
        row = (*start, f"{point['ratio']:.3f}", interval, ms, macs, importance)
        rows.append((*row, *([_three(shown)] if metric else [])))
    return heads, rows


def front_notes(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The names of points that were refused, and why, in the order of the rows."""
    return [(point["name"], point["refused"]) for point in _by_time(points) if "refused" in point]


def _by_time(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(points, key=lambda point: -(point.get("ratio") or point.get("target") or 0.0))


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _height_of(point: Mapping[str, Any], metric: str) -> float | None:
    """What is drawn of a point: the metric, or where nothing was evaluated the importance that is kept."""
    found = (point.get("metrics") or {}).get(metric) if metric else point.get(_IMPORTANCE)
    return None if "refused" in point or not found else float(found)


def front_chart(points: Sequence[Mapping[str, Any]]) -> Html | None:
    """Accuracy over time, or kept importance where nothing was evaluated; None for fewer than two points."""
    metric = metric_of(points)
    found = [(p, value) for p in points if (value := _height_of(p, metric)) is not None]
    if len(found) < 2:
        return None
    ratios, values = [p["ratio"] for p, _ in found], [value for _, value in found]
    across = Axis(min(*ratios, 1.0) - 0.05, max(*ratios, 1.0) + 0.05, _LEFT, _WIDTH)
    up = Axis(min(values) - 0.05 * max(values), max(values) * 1.05, 0.0, _HEIGHT)
    bottom = _TOP + _HEIGHT

    def height(value: float) -> float:
        return bottom - up.at(value)

    drawn = [*across.drawn(_TOP, bottom)]
    for mark in up.ticks(5):
        drawn += [line(_LEFT, height(mark), _LEFT + _WIDTH, height(mark), "grid")]
        drawn += [label(_LEFT - 8, height(mark) + 4, f"{mark:.3g}", "axis end")]
    for point, value in found:
        x, y = across.at(point["ratio"]), height(value)
        if "low" in point:
            drawn.append(line(across.at(point["low"]), y, across.at(point["high"]), y, "interval"))
        drawn += [tag("circle", cx=x, cy=y, r=5.0, class_=_CLASSES[point["kind"]])]
        drawn += [label(x + 9, y + 4, point["name"] if point["kind"] != "cut" else f"{point['ratio']:.2f}")]
    what = metric_words(metric) if metric else _KEPT
    says = f"{what} over the share of the original's time, {len(found)} points."
    return svg(_LEFT + _WIDTH + 60, bottom + 24, says, *drawn)


def render_front(content: Mapping[str, Any]) -> str:
    """The content of sweep.json as one page that refers to nothing outside itself."""
    heads, rows = front_rows(content["points"])
    listed = table(heads, rows, "Points by time", range(2, len(heads)))
    lead = "Times are shares of the original's, each measured beside it in turns."
    refused = [tag("p", tag("strong", f"{name}: "), why) for name, why in front_notes(content["points"])]
    drawn = section("front", "Front", tag("p", lead), front_chart(content["points"]), listed, *refused)
    name = str(content["model"])
    header = tag("header", tag("p", "channelcut sweep", class_="kicker"), tag("h1", name))
    return page(name, header, [drawn.drawn()])
