"""Inline SVG charts. Each carries its message as text; the numbers also stand in a table next to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from channelcut.core.measurement import Latency, Measurement
from channelcut.report.markup import Html, tag
from channelcut.report.numbers import count, significant, unit

_BLOCKS = 2  # blocks of layers side by side on a wide page
_LABEL, _BAR, _ROW = 31, 250, 15  # characters, and pixels
_CHARACTER = 6.7  # width in pixels of a character of the label font


@dataclass(frozen=True)
class Width:
    """One layer of the width chart: its output channels before and after (None: nothing was cut), and a tooltip."""

    name: str
    before: float
    after: float | None
    detail: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` over `width` pixels that begin at `left`."""

    low: float
    high: float
    left: float
    width: float

    def at(self, value: float) -> float:
        """The pixel of a value, held inside the axis."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.left + self.width * min(max(share, 0.0), 1.0)

    def ticks(self, wanted: int = 6) -> list[float]:
        """Round values inside the axis, about as many as wanted."""
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        rough = span / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def drawn(self, top: float, bottom: float) -> list[Html]:
        """Grid lines from top to bottom, with their values below."""
        marks = self.ticks()
        places = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 2
        lines = [line(self.at(v), top, self.at(v), bottom, "grid") for v in marks]
        return lines + [label(self.at(v), bottom + 14, f"{v:.{places}f}", "axis middle") for v in marks]


def svg(width: float, height: float, says: str, *children: Html, class_: str = "chart") -> Html:
    """A drawing that scales with the page, scrolls where the page is narrow, and is announced as one picture."""
    extent = f"0 0 {width:.0f} {height:.0f}"
    return tag("div", tag("svg", *children, viewBox=extent, role="img", aria_label=says, class_=class_), class_="plot")


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str) -> Html:
    """A filled rectangle; a positive width is at least one pixel, so that it shows."""
    return tag("rect", x=x, y=y, width=max(width, 1.0) if width > 0 else 0.0, height=height, class_=class_)


def label(x: float, y: float, text: str, class_: str | None = None) -> Html:
    """Text whose baseline begins at the point."""
    return tag("text", text, x=x, y=y, class_=class_)


def width_charts(layers: Sequence[Width]) -> Html:
    """Horizontal bars of the output channels of all layers, in blocks of equal height, on one common scale."""
    largest = max(layer.before for layer in layers)
    rows = math.ceil(len(layers) / (_BLOCKS if len(layers) > 12 else 1))
    blocks = [layers[i : i + rows] for i in range(0, len(layers), rows)]
    names = min(max(len(layer.name) for layer in layers), _LABEL)
    drawn = []
    for i, block in enumerate(blocks):
        first, last = i * rows + 1, i * rows + len(block)
        says = f"Output channels of layers {first} to {last} before and after; the table below has the numbers."
        bars = [_width_row(layer, place, largest, names) for place, layer in enumerate(block)]
        drawn.append(svg(names * _CHARACTER + _BAR + 84, len(block) * _ROW + 4, says, *bars, class_="chart widths"))
    return tag("div", *drawn, class_="blocks")


def _width_row(layer: Width, place: int, largest: float, names: int) -> Html:
    top, left = place * _ROW + 1.0, names * _CHARACTER + 6
    scale = _BAR / largest if largest else 0.0
    # The end of a path tells layers apart; its beginning is shared.
    name = layer.name if len(layer.name) <= names else "…" + layer.name[1 - names :]
    cut = layer.after is not None and layer.after != layer.before
    after = layer.before if layer.after is None else layer.after
    numbers = f"{count(layer.before)} → {count(after)}" if cut else count(layer.before)
    return tag(
        "g",
        tag("title", f"{layer.name}: {layer.detail}"),
        box(0, top, left + _BAR + 78, _ROW, "hover"),
        label(left - 6, top + 11, name, "name end"),
        box(left, top + 2, layer.before * scale, _ROW - 5, "removed" if cut else "same"),
        box(left, top + 2, after * scale, _ROW - 5, "after") if cut else Html(""),
        label(left + max(layer.before, after) * scale + 6, top + 11, numbers, "value" if cut else "value quiet"),
    )


def histograms(measurement: Measurement) -> Html:
    """The times of both sides on one axis, each with its median and 95th percentile marked."""
    sides = (measurement.baseline, measurement.candidate)
    both = sorted(t for side in sides for t in side.samples_ms)
    low, high = both[0], min(both[-1], max(side.p99_ms for side in sides) * 1.02)
    pad = (high - low) * 0.03 or low * 0.05
    axis = Axis(max(0.0, low - pad), high + pad, 10, 700)
    bins = _bin_count([t for t in both if t <= axis.high])
    drawn = axis.drawn(8, 212)
    for side, top, class_ in zip(sides, (28.0, 134.0), ("before", "after"), strict=True):
        drawn += _histogram(side, axis, bins, (top, class_))
    beyond = sum(t > axis.high for t in both)
    if beyond:
        drawn.append(label(710, 246, f"{beyond} of {len(both)} samples are slower than this axis shows", "axis end"))
    drawn.append(label(10, 246, "milliseconds a call", "axis"))
    says = "; ".join(
        f"{s.name}: median {unit(s.median_ms, 'ms')}, 95th percentile {unit(s.p95_ms, 'ms')}" for s in sides
    )
    return svg(720, 254, f"Distribution of the measured times. {says}.", *drawn)


def _histogram(side: Latency, axis: Axis, bins: int, where: tuple[float, str]) -> list[Html]:
    """Bars 70 pixels high at most; the caption stands above them."""
    top, class_ = where
    step = (axis.high - axis.low) / bins
    counts = [0] * bins
    for time in side.samples_ms:
        if time <= axis.high:
            counts[min(bins - 1, int((time - axis.low) / step))] += 1
    tallest, base, width = max(counts) or 1, top + 78, axis.width / bins
    bars = [
        box(axis.left + i * width, base - 70 * n / tallest, width - 0.5, 70 * n / tallest, class_)
        for i, n in enumerate(counts)
        if n
    ]
    median, late = axis.at(side.median_ms), axis.at(side.p95_ms)
    marks = f"median {unit(side.median_ms, 'ms')}, p95 {unit(side.p95_ms, 'ms')}"
    words = f"{side.name}: {marks}, {count(len(side.samples_ms))} samples"
    return [
        *bars,
        line(axis.left, base, axis.left + axis.width, base, "base"),
        line(median, top + 2, median, base, "median"),
        line(late, top + 30, late, base, "late"),
        label(axis.left, top - 6, words, "caption"),
    ]


def ratio_chart(measurement: Measurement) -> Html:
    """The ratio of the medians with its interval, against the line of no change."""
    m = measurement
    low, high = min(m.ratio_low, 1.0), max(m.ratio_high, 1.0)
    pad = max(0.15 * (high - low), 0.02)
    axis = Axis(low - pad, high + pad, 10, 700)
    one = axis.at(1.0)
    drawn = [
        box(axis.left, 22, one - axis.left, 34, "good"),
        *axis.drawn(22, 56),
        line(one, 16, one, 56, "one"),
        label(one - 6, 14, "← faster", "axis end"),
        label(one + 6, 14, "slower →", "axis"),
        line(axis.at(m.ratio_low), 39, axis.at(m.ratio_high), 39, "interval"),
        tag("circle", cx=axis.at(m.ratio), cy=39.0, r=6.0, class_="after"),
    ]
    interval = f"95 % interval {m.ratio_low:.3f} to {m.ratio_high:.3f}"
    says = f"Ratio of the median times {m.ratio:.3f}, {interval}; 1 is no change."
    return svg(720, 76, says, *drawn)


def proof_chart(error: float, tolerance: float, signal: float) -> Html:
    """Error, tolerance and signal on a logarithmic axis: the error belongs left of the tolerance, the signal right."""
    logs = [math.log10(v) for v in (error, tolerance, signal) if v > 0]
    axis = Axis(min([-16.0, *logs]) - 1.5, max([1.0, *logs]) + 0.5, 10, 700)

    def at(value: float) -> float:
        return axis.at(math.log10(value)) if value > 0 else axis.left

    allowed = at(tolerance)
    decades = [v for v in axis.ticks(8) if v == int(v)]
    drawn: list[Html] = [
        box(axis.left, 22, allowed - axis.left, 44, "good"),
        *(line(axis.at(v), 22, axis.at(v), 66, "grid") for v in decades),
        *(label(axis.at(v), 80, "1" if v == 0 else f"1e{int(v)}", "axis middle") for v in decades),
        line(allowed, 16, allowed, 66, "one"),
        label(allowed, 12, f"tolerance {significant(tolerance)}", "axis middle"),
        *_dot(at(error), 34, f"error {significant(error)}", "after" if error <= tolerance else "bad"),
        *_dot(at(signal), 54, f"signal {significant(signal)}", "before"),
    ]
    says = f"Relative error {significant(error)}, tolerance {significant(tolerance)}, signal {significant(signal)}."
    return svg(720, 86, says, *drawn)


def _dot(x: float, y: float, text: str, class_: str) -> list[Html]:
    """A point of the proof chart with its text on the side that has room."""
    circle = tag("circle", cx=x, cy=y, r=6.0, class_=class_)
    return [circle, label(x + 11, y + 4, text) if x < 580 else label(x - 11, y + 4, text, "end")]


def duration_chart(seconds: Sequence[tuple[str, float]]) -> Html:
    """Horizontal bars of the seconds that each stage took."""
    largest = max(value for _, value in seconds) or 1.0
    drawn = []
    for place, (name, value) in enumerate(seconds):
        top = place * 20.0
        width = 480 * max(value, 0.0) / largest
        drawn += [
            label(144, top + 14, name, "end"),
            box(154, top + 3, width, 14, "after"),
            label(160 + width, top + 14, unit(value, "s")),
        ]
    says = "; ".join(f"{name} {unit(value, 's')}" for name, value in seconds)
    return svg(720, 20 * len(seconds) + 4, f"Time by stage: {says}.", *drawn)


def meter(share: float) -> Html:
    """A small bar of the share that is left."""
    held = min(max(share, 0.0), 1.0)
    return tag(
        "svg", box(0, 0, 100, 6, "removed"), box(0, 0, 100 * held, 6, "after"),
        viewBox="0 0 100 6", class_="meter", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip


def _bin_count(ordered: Sequence[float]) -> int:
    """Freedman and Diaconis, "On the histogram as a density estimator", 1981; held between 12 and 70."""
    quarter = len(ordered) // 4
    spread = ordered[-1 - quarter] - ordered[quarter]
    if spread <= 0:
        return 12
    width = 2 * spread / math.pow(len(ordered), 1 / 3)
    return min(70, max(12, math.ceil((ordered[-1] - ordered[0]) / width)))
