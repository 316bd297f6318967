"""What follows from a report, the same for the page and the terminal: gains, the verdict, the before/after rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from channelcut.allocation import LIMITS
from channelcut.core.errors import UserError
from channelcut.core.measurement import Latency, Measurement, Ratio, suppression_words
from channelcut.report.numbers import change, comparison, count, plural, scaled, significant, unit
from channelcut.report.reader import Part

MIB = 2**20

Writer = Callable[[float | None], str]

_EXACT = 5e-6  # a gap of less is one of rounding


@dataclass(frozen=True)
class Verdict:
    """Whether the cut network is faster: `word` is faster, not faster, undecided or not measured."""

    word: str
    sentence: str


@dataclass(frozen=True)
class Row:
    """One line of the before/after table. `after` is empty where nothing was cut; `share` is after / before."""

    label: str
    before: str
    after: str
    change: str
    share: float | None


RESCALED = {"weight_norm": "length of weight norms", "mean": "weight behind means over channels"}
"""Kinds of rescaling, in words."""


def rescaled(report: Part) -> list[tuple[str, str]]:
    """What was rescaled, and how far the outputs were from the original's before and after."""
    part = report.part("rescaling")
    found = []
    for kind, words in RESCALED.items():
        names = part.part("tensors").texts(kind)
        if names:
            found.append((f"{words.capitalize()}, rescaled", ", ".join(names)))
    before, after = part.number("before"), part.number("after")
    if before is not None and after is not None:
        words = f"{significant(before)} → {significant(after)} deviations from the original's outputs"
        found.append(("Rescaling", words))
    return found


def recovered(report: Part) -> list[tuple[str, str]]:
    """What a recovery did, and how far from the original the cut was before and after."""
    part = report.part("recovery")
    if not part:
        return []
    teacher = "the original as teacher" + (", with labels" if part.data.get("labels") else ", without labels")
    start = {"scratch": ", from drawn weights", "rewind": ", from early weights"}.get(part.text("init"), "")
    epochs, steps = (count(part.number(key)) for key in ("epochs", "steps"))
    found = [
        ("Recovered", f"{epochs} epochs of {count(part.number('images'))} images, {steps} steps, {teacher}{start}"),
        ("Loss on images held back", f"{significant(part.number('before'))} → {significant(part.number('after'))}"),
        ("Time of the recovery", unit(part.number("seconds"), "s")),
    ]
    return found + [("Note", text) for text in part.texts("notes")]


def compensated(report: Part) -> list[tuple[str, str]]:
    """How many layers were refitted, and what it did to their errors; or why none was."""
    part = report.part("compensation")
    if not part:
        return []
    if refused := part.text("refused"):
        return [("Not compensated", refused)]
    layers, skipped = part.parts("layers"), part.part("skipped")
    words = f"{count(part.number('refitted'))} of {len(layers) + len(skipped.data)}"
    found = [("Layers refitted", f"{words}, on {count(part.number('images'))} images")]
    before, after = part.number("error_before"), part.number("error_after")
    if before is not None and after is not None:
        found.append(("Mean error of a layer", f"{significant(before)} → {significant(after)} of its variance"))
    return found


def worst_layers(report: Part, most: int = 10) -> list[tuple[str, str, str, str]]:
    """The layers that are furthest off after compensation: name, error before and after, why it stayed."""
    layers = report.part("compensation").parts("layers")
    layers = sorted(layers, key=lambda one: -(one.number("after") or 0.0))[:most]
    return [
        (one.text("layer"), significant(one.number("before")), significant(one.number("after")), one.text("kept"))
        for one in layers
    ]


def onnx_error(part: Part) -> str:
    """How far a file is from its module, and how far it may be."""
    error, limit = part.number("max_relative_error"), part.number("tolerance")
    return significant(error) + (f" (at most {significant(limit)})" if limit else "")


def deployed_words(report: Part) -> str:
    """Which form of the network is deployed; empty where it is the whole forward."""
    found = report.part("deployed")
    pairs = [(name, found.text(name)) for name in ("head", "suppression", "library", "warnings")]
    timed = suppression_words(dict(report.part("measurement").part("details").part("suppression").data))
    said = f", {timed.partition(' (')[0]}" if timed else ""
    return "; ".join(f"{name} {text}{said}" if name == "suppression" else text for name, text in pairs if text)


def images_words(report: Part) -> str:
    """How images became inputs, and who says so; empty where no folder of images was read."""
    found = report.part("images")
    if not found:
        return ""
    share = found.number("share") or 1.0
    kept = f" to {100 * share:.1f} %" if share < 1 else ""
    asked = found.texts("asked")
    said = [
        f"{found.text('fit')}{kept}, {found.text('interpolation')}",
        "BGR" if found.data.get("bgr") else "RGB",
        f"scale {significant(found.number('scale'))}",
        *(f"{name} {' '.join(significant(value) for value in found.numbers(name))}" for name in ("mean", "std")),
    ]
    by = found.text("by") or "the default"
    more = f"; asked for: {', '.join(asked)}" if asked else ""
    return f"{', '.join(said)} ({by}{more})"


def measurement_of(report: Part) -> Measurement | None:
    """The comparison of latencies, None where there was none; raises `UserError` for one that cannot be."""
    part = report.part("measurement")
    if not part:
        return None
    ratio, low, high = (_needed(part, key) for key in ("ratio", "ratio_low", "ratio_high"))
    try:
        return Measurement(
            _latency(part.part("baseline"), "original"),
            _latency(part.part("candidate"), "pruned"),
            ratio,
            low,
            high,
            part.part("environment").data,
            tuple(part.texts("warnings")),
            thread=_ratio(part.part("thread")),
        )
    except ValueError as problem:
        raise UserError(f"The report is damaged: {part.place} holds {problem}. Measure again.") from problem


def verdict_of(measurement: Measurement | None) -> Verdict:
    """What the interval of the ratio allows to say, and no more."""
    if measurement is None:
        return Verdict("not measured", "Latency was not measured.")
    m = measurement
    names = m.candidate.name, m.baseline.name
    if m.disturbed and m.thread is not None:
        return Verdict(
            "undecided",
            f"Undecided: {names[0]} takes {m.ratio:.3f} times as long as {names[1]} by the clock and "
            f"{m.thread.estimate:.3f} times in processor time of the thread that did the work, so something else was "
            "using this machine. Measure again when it is quiet.",
        )
    if m.faster:
        interval = f"{m.speedup_low:.2f} to {m.speedup_high:.2f}"
        return Verdict(
            "faster", f"Faster: {names[0]} is {m.speedup:.2f} times as fast as {names[1]} (95 % interval {interval})."
        )
    interval = f"95 % interval {m.ratio_low:.3f} to {m.ratio_high:.3f}"
    takes = f"{names[0]} takes {m.ratio:.3f} times as long as {names[1]} ({interval})"
    if m.ratio_low >= 1:
        return Verdict("not faster", f"Not faster: {takes}.")
    unclear = "the interval includes 1, so this measurement does not show which is faster"
    return Verdict("undecided", f"Undecided: {takes}; {unclear}.")


def headline_of(report: Part) -> str:
    """What was gained in arithmetic and size; for an analysis, what could be removed."""
    before, after = (report.part("cost").part(key) for key in ("before", "after"))
    gains = [
        comparison(before.number(k), after.number(k), noun) for k, noun in (("macs", "MACs"), ("params", "parameters"))
    ]
    said = " and ".join(gain for gain in gains if gain)
    if said:
        return f"{said[0].upper()}{said[1:]}."
    groups = report.parts("groups")
    if groups:
        total, kept = channels_of(report)
        if kept is not None:
            return f"{count(total - kept)} of {count(total)} removable channels were removed."
        return f"{count(total)} channels in {count(len(groups))} groups can be removed."
    if report.data.get("groups") is not None:
        return "No channel was found that can be removed."
    return "This report says neither what the network costs nor what can be removed."


def left_out(report: Part, most: int = 8) -> str:
    """The modules that went as wholes: `3 whole modules: layer1.2, layer2.1, aux`."""
    paths = report.texts("dropped")
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{plural(len(paths), 'whole module')}: {', '.join(paths[:most])}{more}" if paths else ""


def channels_of(report: Part) -> tuple[float, float | None]:
    """Removable channels before and after; None where the report has no plan (an analysis)."""
    total, kept, planned = 0.0, 0.0, False
    for group in report.parts("groups"):
        lanes, width, left = group.number("lanes") or 1, group.number("width") or 0, group.number("kept")
        whole = group.number("before") or lanes * width
        total += whole
        kept += whole if left is None else (lanes * left if (after := group.number("after")) is None else after)
        planned |= left is not None
    return total, kept if planned else None


def rows_of(report: Part, measurement: Measurement | None) -> list[Row]:
    """The before/after table: cost, removable channels, latency, ONNX file; only what the report holds."""
    before, after = (report.part("cost").part(key) for key in ("before", "after"))
    found = [
        _row("MACs", before.number("macs"), after.number("macs"), scaled),
        _row("Parameters", before.number("params"), after.number("params"), scaled),
    ]
    if report.parts("groups"):
        found.append(_row("Channels in groups", *channels_of(report), count))
    if measurement is not None:
        base, cut = measurement.baseline, measurement.candidate
        found += [
            _row("Latency, median", base.median_ms, cut.median_ms, _ms),
            _row("Latency, 95th percentile", base.p95_ms, cut.p95_ms, _ms),
        ]
    original, pruned = (report.part("onnx").part(key).number("size_bytes") for key in ("original", "pruned"))
    found.append(_row("ONNX file", original, pruned, _mib))
    return [row for row in found if row is not None]


def places_by_reason(report: Part) -> list[tuple[str, int]]:
    """Reasons of the pins and how many places each has, the most frequent first."""
    return Counter(pin.text("reason") for pin in report.parts("pins")).most_common()


_APART = ("trials", "allocation", "kept_importance", "precision", "tried", "planned_by", "predicted", "full_ms")
"""Options that are told in places of their own."""


def options_of(report: Part) -> str:
    """The options of the run in one line: `macs 0.5 (the least loss, by enumeration), align 8`."""
    options = report.part("options")
    told = (name for name, value in options.data.items() if value is not None and name not in _APART)
    found = options.part("allocation")
    beside = {name: f" ({allocation_words(found)})" for name in LIMITS if found}
    if tried := options.part("tried").data:
        lost = ", ".join(f"{name} {value:.3g}" for name, value in tried.items())
        beside["importance"] = f" (of cuts by each, what is detected was off by: {lost})"
    return ", ".join(f"{name} {options.text(name)}{beside.get(name, '')}" for name in told)


def planned_words(report: Part) -> str:
    """What a budget of time was planned by: `0.700 of 4.1 ms predicted, of ...`."""
    options = report.part("options")
    predicted, whole = options.number("predicted"), options.number("full_ms")
    if predicted is None or whole is None:
        return ""
    return f"{predicted:.3f} of {unit(whole, 'ms')} predicted, of {options.text('planned_by')}"


def allocation_words(allocation: Part) -> str:
    """How the widths under a limit were found, and how good they are: `within 0.02 % of the least loss, by ...`."""
    method, gap = allocation.text("method"), allocation.number("gap")
    if gap is None or gap >= 1:
        return f"by {method}, without a bound"
    return f"{'the least loss' if gap < _EXACT else f'within {100 * gap:.2g} % of the least loss'}, by {method}"


def proof_word(proof: Part) -> str:
    """`passed`, `failed`, or `not run`."""
    if not proof:
        return "not run"
    return "passed" if proof.data.get("passed") is True else "failed"


def error_words(proof: Part) -> str:
    """The error of the proof beside its tolerance."""
    error, tolerance = significant(proof.number("max_relative_error")), significant(proof.number("tolerance"))
    return f"largest relative error {error}, tolerance {tolerance}"


def _row(label: str, before: float | None, after: float | None, write: Writer) -> Row | None:
    if before is None and after is None:
        return None
    share = after / before if before and after is not None else None
    return Row(label, write(before), "" if after is None else write(after), change(before, after), share)


def _latency(part: Part, name: str) -> Latency:
    samples = [t for t in part.numbers("samples_ms") if t is not None]
    return Latency(part.text("name") or name, tuple(samples), int(part.number("items_per_call") or 1))


def _ratio(part: Part) -> Ratio | None:
    return Ratio(*(_needed(part, key) for key in ("estimate", "low", "high"))) if part else None


def _needed(part: Part, key: str) -> float:
    value = part.number(key)
    if value is None:
        raise UserError(f"The report is damaged: {part.place}.{key} is missing, expected a number. Measure again.")
    return value


def _ms(value: float | None) -> str:
    return unit(value, "ms")


def _mib(value: float | None) -> str:
    return unit(None if value is None else value / MIB, "MiB")
