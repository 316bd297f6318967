"""The page's evidence: latencies, proof, recovery, files, environment, time by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from channelcut.core.measurement import Latency, Measurement, Ratio
from channelcut.report.charts import duration_chart, histograms, proof_chart, ratio_chart
from channelcut.report.facts import (
    MIB,
    compensated,
    onnx_error,
    proof_word,
    recovered,
    rescaled,
    verdict_of,
    worst_layers,
)
from channelcut.report.markup import Html, Section, facts_list, join, table, tag
from channelcut.report.numbers import count, significant, unit
from channelcut.report.overview import section
from channelcut.report.reader import Part, as_text

_PROOF = (
    "The original, with the removed channels masked, and the cut network were run side by side in float64 and compared "
    "wherever removed channels were consumed. The proof is about the cut itself, before recovery; it says nothing "
    "about accuracy on data."
)


def latency(measurement: Measurement | None) -> Section | None:
    """Both sets of times, their ratio with its interval, and the statistics recomputed from the samples."""
    if measurement is None:
        return None
    sides = (measurement.baseline, measurement.candidate)
    heads = ("", "Median", "Mean", "p90", "p95", "p99", "Variation", "Throughput", "Samples")
    listed = table(heads, [_statistics(side) for side in sides], "Latency in milliseconds a call", range(1, 9))
    return section(
        "latency",
        "Latency",
        tag("p", verdict_of(measurement).sentence),
        tag("h3", "Ratio of the medians, with its 95 % interval"),
        ratio_chart(measurement),
        _thread_time(measurement.thread),
        tag("h3", "All samples"),
        histograms(measurement),
        tag("p", "Solid line: median. Dashed line: 95th percentile.", class_="quiet"),
        listed,
        *(tag("p", tag("strong", "Caution: "), text, class_="caution") for text in measurement.warnings),
    )


def _thread_time(thread: Ratio | None) -> Html | None:
    if thread is None:
        return None
    said = f"{thread.estimate:.3f} (95 % interval {thread.low:.3f} to {thread.high:.3f})"
    return tag("p", f"The same in processor time of the one thread that did the work: {said}.", class_="quiet")


def _statistics(side: Latency) -> tuple[str, ...]:
    times = (side.median_ms, side.mean_ms, side.p90_ms, side.p95_ms, side.p99_ms)
    cells = (
        *(significant(t) for t in times),
        f"{100 * side.cv:.1f} %",
        f"{significant(side.throughput)} /s",
        count(len(side.samples_ms)),
    )
    return (side.name, *cells)


def proof(report: Part) -> Section | None:
    """What was compared, how far it was apart, and what failed."""
    part = report.part("proof")
    if not part:
        return None
    error, tolerance, signal = (part.number(key) for key in ("max_relative_error", "tolerance", "signal"))
    complete = error is not None and tolerance is not None and signal is not None
    failures = part.texts("failures")
    return section(
        "proof",
        "Proof: removed equals masked",
        tag("p", _PROOF),
        proof_chart(error, tolerance, signal)
        if error is not None and tolerance is not None and signal is not None
        else None,
        None
        if complete
        else tag("p", "The proof has no complete set of error, tolerance and signal.", class_="caution"),
        facts_list(
            [
                ("Verdict", proof_word(part)),
                ("Largest relative error", significant(error)),
                ("Tolerance", significant(tolerance)),
                ("Signal (how far masking moved the outputs)", significant(signal)),
                ("Comparisons", count(part.number("checks"))),
                ("Training step", part.text("training")),
                ("Weights", part.text("weights")),
                ("Time", unit(part.number("seconds"), "s")),
            ]
        ),
        tag("h3", "What failed") if failures else None,
        tag("ul", *(tag("li", text) for text in failures)) if failures else None,
    )


def recovery(report: Part) -> Section | None:
    """What was done to win accuracy back."""
    part, pairs = report.part("recalibration"), [*rescaled(report), *compensated(report)]
    refits, trained = worst_layers(report), recovered(report)
    pairs += trained
    if not part and not pairs:
        return None
    if part:
        pairs += [
            ("Images", count(part.number("images"))),
            ("Batch-norm layers", count(part.number("layers"))),
            ("Time", unit(part.number("seconds"), "s")),
        ]
    title = "Recovery" if trained else "Compensation" if refits else "Batch-norm recalibration" if part else "Rescaling"
    heads = ("Layer", "Error before", "Error after", "")
    caption = "The layers with the largest squared errors on images held back, in units of the original's variance"
    return section("recovery", title, facts_list(pairs), table(heads, refits, caption, (1, 2)) if refits else None)


def files(report: Part) -> Section | None:
    """ONNX files and engines."""
    shown = [found for found in (_onnx(report.part("onnx")), _engines(report)) if found]
    return section("files", "ONNX and engines", *shown) if shown else None


def _onnx(part: Part) -> Html | None:
    networks = [(name, one) for name in part.data if (one := part.part(name))]
    if not networks:
        return None
    heads = ("File", "Network", "Opset", "Nodes as exported", "Nodes now", "Simplifier", "Relative error", "Size")
    rows = []
    for name, one in networks:
        size = one.number("size_bytes")
        opset, exported, now = (count(one.number(key)) for key in ("opset", "nodes_before", "nodes_after"))
        error = onnx_error(one)
        mib = unit(None if size is None else size / MIB, "MiB")
        rows.append((one.text("path"), name, opset, exported, now, one.text("simplifier"), error, mib))
    refused = [f"{one.text('path')}: {text}" for _, one in networks for text in one.texts("refusals")]
    return join(
        [
            table(heads, rows, "ONNX files; the error is ONNX Runtime against the module", (2, 3, 4, 6, 7)),
            *(tag("p", tag("strong", "Simplification refused: "), text, class_="caution") for text in refused),
        ]
    )


def _engines(report: Part) -> Html | None:
    rows = [
        (
            one.text("path"),
            one.text("backend"),
            one.text("version"),
            one.text("capability"),
            unit(one.number("build_s"), "s"),
            unit(one.number("size_mib"), "MiB"),
        )
        for one in report.parts("engines")
    ]
    heads = ("Engine", "Backend", "Version", "Compute capability", "Build time", "Size")
    return table(heads, rows, "Engines", (4, 5)) if rows else None


def environment(report: Part) -> Section | None:
    """Where the run, and the measurement if elsewhere, took place."""
    run, measured = report.part("environment").data, report.part("measurement").part("environment").data
    if not run and not measured:
        return None
    if run == measured:
        return section("environment", "Environment", facts_list(_flat(run)))
    return section(
        "environment",
        "Environment",
        *((tag("h3", "Of the run"), facts_list(_flat(run))) if run else ()),
        *((tag("h3", "Of the measurement"), facts_list(_flat(measured))) if measured else ()),
    )


def _flat(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key} ")
        else:
            yield f"{above}{key}".replace("_", " "), as_text(value)


def seconds(report: Part) -> Section | None:
    """How long each stage took."""
    part = report.part("seconds")
    stages = [(name, value) for name in part.data if (value := part.number(name)) is not None]
    if not stages:
        return None
    total = f"{unit(sum(value for _, value in stages), 's')} in all."
    return section("seconds", "Time by stage", tag("p", total), duration_chart(stages))
