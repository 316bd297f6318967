"""`sweep`: one network at several budgets of time, beside smaller networks of its family, as a front."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from channelcut.begun import Begun, begin
from channelcut.bench.environment import environment
from channelcut.compress import finished
from channelcut.core.checked import read_json, write_json
from channelcut.core.crew import RayCrew, shared
from channelcut.core.described import described, differences
from channelcut.core.errors import BudgetError, UserError
from channelcut.core.files import write_atomically
from channelcut.core.measurement import Measurement
from channelcut.core.progress import Progress, Stopwatch, silent
from channelcut.core.words import kind_of
from channelcut.cutting.storage import fresh_folder
from channelcut.gauge import Gauge, ratio_of
from channelcut.latency.clocks import clock_of
from channelcut.latency.measuring import check_worker
from channelcut.options import CompressOptions
from channelcut.recovery.distil.options import UNTOLD
from channelcut.report.front import render_front
from channelcut.sources import Source
from channelcut.sources.provenance import weights_digest

FORMAT = "channelcut-sweep-1"
CONTENT, PAGE = "sweep.json", "sweep.html"
_STAGE = "points"
_SAME_POINTS = ("prune", "recovery", "force", "measure", "table")  # of the options, what is said apart or changes none
_ORDER = ("original", "cut", "beside")


@dataclass(frozen=True)
class SweepOptions:
    """What `sweep` does.

    compress: what is made at every point; its budget is left to the sweep.
    targets: shares of the original's time.
    beside: networks that are measured and evaluated as they are, such as the next smaller one of the family.
    workers: processes that make points at once, through Ray; 0: this one alone. Each needs cores of its own.
    ray_address: of a running cluster for the workers, all of which see the folder; None: this machine.
    """

    compress: CompressOptions
    targets: tuple[float, ...]
    beside: tuple[Source, ...] = ()
    workers: int = 0
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if not self.targets or not all(0 < target <= 1 for target in self.targets):
            raise UserError(
                f"The budgets {list(self.targets)} make no sweep: expected shares of the original's time above 0 and "
                "at most 1, such as 0.3:0.9:7 for seven from 0.3 to 0.9."
            )
        twice = [target for target, times in Counter(self.targets).items() if times > 1]
        if twice:
            raise UserError(
                f"The budgets of the sweep name {', '.join(map(str, twice))} more than once, and a point is made once. "
                "Expected every share once."
            )


def sweep(source: Source, out: Path, options: SweepOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Prune a network to each of some shares of its time, and put accuracy beside latency.

    Every point is what `compress` makes, in a folder of its own (`out/latency-0.700`); `sweep.json` and `sweep.html`
    are written anew after each. A point that is there is not made again, so that a sweep that was ended goes on.

    Args:
        source: the model.
        out: the folder of the sweep.
        options: budgets, and what is made at each.
        progress: called as progress(stage, done, total); what it raises ends the run between what is whole.

    Returns:
        The content of `sweep.json`: `points`, each with `kind` (`original`, `cut`, `beside`), `ratio`, `low` and
        `high` of the original's time, `ms`, `macs`, `kept_importance` (the share of the summed importance of all
        channels that could go), `metrics`, or why there is none (`refused`).

    Raises:
        UserError: `out` holds a sweep of another model or other options, or the caller's input is at fault.
    """
    watch = Stopwatch(progress)
    first = replace(options.compress.prune, latency=options.targets[0])
    with watch.stage("load"):
        asked = {
            "model": source.name,
            "weights": weights_digest(source.build()),
            "inputs": [str(spec) for spec in source.inputs],
            "options": _said(options),
        }
    known = _known(out, asked)
    begun = begin(source, replace(options.compress, prune=first, measure=True), watch)
    content: dict[str, Any] = {"format": FORMAT, **asked, "environment": environment(options.compress.bench.threads)}
    points = [_original(begun), *known]
    there = {point["target"]: point["name"] for point in known if point["kind"] == "cut"}
    missing = {target: _name(target, there.values()) for target in options.targets if target not in there}
    for point in _made(source, begun, missing, out, options, watch):
        points.append(point)
        _write(out, content, points)
    beside = [other for other in options.beside if not any(point["name"] == other.name for point in known)]
    if beside:
        deploy, bench = begun.options.prune.deploy, begun.options.bench
        with Gauge(begun.model, begun.example, deploy, options.compress.time_on, bench, watch) as gauge:
            for other in beside:
                points.append(_beside(other, begun, gauge, watch))
                _write(out, content, points)
    return content | {"points": _write(out, content, points)}


def _name(target: float, taken: Collection[str]) -> str:
    """The folder of a point: three decimals, more where these are another number or the folder of another point."""
    decimals = [f"{target:.{count}f}" for count in range(3, 18)]
    exact = [digits for digits in decimals if float(digits) == target]
    return next(name for digits in [*exact, repr(target)] if (name := f"latency-{digits}") not in taken)


def _made(
    source: Source, begun: Begun, names: Mapping[float, str], out: Path, options: SweepOptions, watch: Stopwatch
) -> Iterator[dict[str, Any]]:
    """The points that are missing, in this process or by workers; one whose worker died is made by another."""
    targets = list(names)
    if not targets or not (options.workers or options.ray_address):
        for target in targets:
            yield _cut(source, begun, target, out / names[target], watch.progress)
        return
    prune = replace(options.compress.prune, latency=targets[0], cost=begun.options.prune.cost)
    asked = replace(options.compress, prune=prune, measure=True, evaluate=begun.evaluations is not None)
    rows = begun.evaluations.rows if begun.evaluations is not None else []
    make = partial(_PointMaker, source, asked, {t: out.resolve() / name for t, name in names.items()}, rows)
    size = min(max(1, options.workers), len(targets))
    threads = options.compress.bench.threads

    def report(done: int, total: int, words: str) -> None:
        watch.note(_STAGE, words)
        watch.progress(_STAGE, done, total)

    with RayCrew(make, "making points", size, threads, address=options.ray_address) as crew, watch.stage(_STAGE):
        for found in shared(crew, targets, report, 1):
            for target, point in found.items():
                refused = {"name": names[target], "kind": "cut", "target": target, "refused": point}
                yield refused if isinstance(point, str) else point


class _PointMaker:
    """What a worker does: it opens the model for itself, and takes what was measured of the original as it is."""

    def __init__(
        self,
        source: Source,
        options: CompressOptions,
        folders: Mapping[float, Path],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        torch.set_num_threads(options.bench.threads)  # the process is the worker's own
        target = getattr(options.prune.cost, "target", None)
        if target is not None:
            check_worker(clock_of(target.backend, target.threads, target.precision).target(), target)
        self.source, self.folders = source, folders
        self.begun = begin(source, options, Stopwatch(), known=rows)

    def __call__(self, targets: Sequence[float]) -> dict[float, dict[str, Any]]:
        return {t: _cut(self.source, self.begun, t, self.folders[t], silent) for t in targets}


def _said(options: SweepOptions) -> dict[str, Any]:
    """What all points have in common, as data: everything that is asked for, but what changes no point."""
    how, prune = options.compress, options.compress.prune
    found: dict[str, Any] = described(how, _SAME_POINTS) | {"recovery": described(how.recovery, UNTOLD)}
    cost = None if prune.cost is None else [kind_of(prune.cost), described(getattr(prune.cost, "target", None))]
    return found | {"prune": described(prune, ("latency", "cost")) | {"cost": cost}}


def _known(out: Path, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points that a sweep was ended after; those whose folder is gone are made again.

    Raises:
        UserError: the sweep there is another one.
    """
    if not (out / CONTENT).exists():
        return []
    found = read_json(out / CONTENT, f"{out} holds no sweep.", "Name another --out.")
    if other := differences({name: found.get(name) for name in asked}, asked):
        raise UserError(
            f"{out} holds a sweep that differs in {', '.join(other[:4])}{' and more' if len(other) > 4 else ''}. A "
            "sweep goes on where model, weights, inputs and options are the same. Name another --out, or remove it."
        )
    points: list[dict[str, Any]] = found["points"]
    return [p for p in points if p["kind"] == "beside" or (out / p.get("folder", "?") / "report.json").is_file()]


def _original(begun: Begun) -> dict[str, Any]:
    rows = begun.evaluations.rows if begun.evaluations is not None else []
    metrics = rows[0]["metrics"] if rows else {}
    return {
        "name": "original",
        "kind": "original",
        "ratio": 1.0,
        "kept_importance": 1.0,
        "ms": _whole_ms(begun),
        "metrics": metrics,
        **{name: begun.form.words[name] for name in ("suppression",) if name in begun.form.words},
    }


def _whole_ms(begun: Begun) -> float | None:
    """What the original takes, where its cost was measured."""
    found: float | None = getattr(begun.options.prune.cost, "full_ms", None)
    return found


def _cut(source: Source, begun: Begun, target: float, out: Path, progress: Progress) -> dict[str, Any]:
    """One point: what `compress` makes, or why there is none."""
    options = replace(begun.options, prune=replace(begun.options.prune, latency=target))
    evaluations = copy.copy(begun.evaluations)
    watch = Stopwatch(progress)
    if evaluations is not None:
        evaluations.rows, evaluations.watch = list(evaluations.rows), watch
    mine = replace(begun, options=options, evaluations=evaluations, notes=list(begun.notes))
    found: dict[str, Any] = {"name": out.name, "kind": "cut", "target": target}
    try:
        with fresh_folder(out, force=True) as folder:
            report = finished(source, mine, folder, out, watch)
    except BudgetError as error:
        return found | {"refused": str(error)}
    rows = [row for row in report.get("accuracy", {}).get("rows", []) if row["network"] == "pruned"]
    restored = [row["metrics"] for row in rows if row["metrics"]]
    return found | _timed(Measurement.from_dict(report["measurement"]), begun) | {
        "folder": out.name,
        "plans": len(report["options"].get("trials", [])),
        "macs": report["cost"]["after"]["macs"] / report["cost"]["before"]["macs"],
        "kept_importance": report["options"].get("kept_importance"),
        "metrics": restored[-1] if restored else {},
    }  # fmt: skip


def _timed(measured: Measurement, begun: Begun) -> dict[str, Any]:
    """What a point says of its time: a share of the original's, and that share of what the original takes.

    Each is measured beside the original, and not all at the same hour: milliseconds as they came would not compare.
    """
    ratio, boxes = ratio_of(measured), measured.details.get("suppression", {})
    whole = _whole_ms(begun)
    ms = measured.candidate.median_ms if whole is None else ratio.estimate * whole
    found = {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, "ms": ms}
    return found | ({"suppression": boxes["candidate"]} if boxes else {})


def _beside(other: Source, begun: Begun, gauge: Gauge, watch: Stopwatch) -> dict[str, Any]:
    """A network as it is, timed and evaluated as the original was; or why it cannot be."""
    found: dict[str, Any] = {"name": other.name, "kind": "beside"}
    try:
        with watch.stage("load"):
            model, _ = other.open()
        timed, metrics = _timed(gauge(model), begun), {}
        if begun.evaluations is not None:
            evaluations = copy.copy(begun.evaluations)
            evaluations.rows = []
            evaluations.add("evaluate", [(other.name, "module", model)])
            metrics = dict(evaluations.rows[0]["metrics"])
    except UserError as error:
        return found | {"refused": str(error)}
    return found | timed | {"metrics": metrics}


def _write(out: Path, content: Mapping[str, Any], points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write what there is, and return it: the original, cuts from the slowest on, and what stands beside them."""
    out.mkdir(parents=True, exist_ok=True)
    ordered = sorted(points, key=lambda point: (_ORDER.index(point["kind"]), -point.get("target", 0.0)))
    said = {**content, "points": ordered}
    write_json(out / CONTENT, said)
    write_atomically(out / PAGE, render_front(said).encode())
    return ordered
