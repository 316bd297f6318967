"""What the command line shows: progress bars on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from channelcut.core.measurement import Measurement
from channelcut.report.numbers import count, plural, scaled

_SHOWN, _PLACES = 10, 3  # groups and followers; places and remedies of a reason


def console() -> Console:
    """Standard output."""
    return Console(highlight=False)


def print_json(data: Any) -> None:
    """JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")


class Bars:
    """One progress bar a stage, called as bars(stage, done, total); used as a context."""

    def __init__(self, *, quiet: bool = False) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a stage are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=max(total, 1))


def print_analysis(data: Mapping[str, Any]) -> None:
    """What can go at most, the ten groups that most parameters hang on, the pins by reason, the widths that follow."""
    out = console()
    total = data["totals"]
    out.print(trace_line(data["trace"]), markup=False, soft_wrap=True)
    out.print(
        f"{len(data['groups'])} groups with {total['removable_channels']} removable channels. At most "
        f"{1 - total['least_macs']:.1%} of {scaled(total['macs'])} MACs and {1 - total['least_params']:.1%} of "
        f"{count(total['params'])} parameters can go.\n",
        soft_wrap=True,
    )
    if data["groups"]:
        out.print(_largest(data))
    for row in data["reasons"]:
        _print_reason(out, row, [data["pins"][i] for i in row["pins"]])
    if data["followers"]:
        out.print(Text("Widths that follow", style="bold"))
        for found in data["followers"][:_SHOWN]:
            out.print(f"  {follower_line(found)}", markup=False, soft_wrap=True)
        if len(data["followers"]) > _SHOWN:
            out.print(f"  and {len(data['followers']) - _SHOWN} more")


def _largest(data: Mapping[str, Any]) -> Table:
    """The groups that most parameters hang on; what hangs on two groups is counted at both."""
    total = data["totals"]
    table = Table(title="Largest groups, by the parameters that hang on them", title_justify="left", box=SIMPLE_HEAD)
    for column in ("group", "lanes", "width", "slots", "parameters", "", "MACs", ""):
        table.add_column(column, justify="left" if column == "group" else "right", overflow="fold")
    ordered = sorted(data["groups"], key=lambda group: -group["params"])
    for group in ordered[:_SHOWN]:
        costs = [
            text
            for name in ("params", "macs")
            for text in (scaled(group[name]), f"{group[name] / total[name]:.1%}" if total[name] else "")
        ]
        table.add_row(Text(group["name"]), str(group["lanes"]), str(group["width"]), str(group["slots"]), *costs)
    if len(ordered) > _SHOWN:
        table.caption = f"and {len(ordered) - _SHOWN} smaller groups"
        table.caption_justify = "left"
    return table


def _print_reason(out: Console, row: Mapping[str, Any], pins: Sequence[Mapping[str, Any]]) -> None:
    """One reason with its channels, three of its places, and what would free them."""
    held = f"{plural(row['channels'], 'channel')} at {plural(len(pins), 'place')}"
    out.print(Text.assemble(("Pinned: ", "bold"), (row["reason"], "bold"), f", {held}"), soft_wrap=True)
    for pin in pins[:_PLACES]:
        where = f" ({pin['source']})" if pin["source"] else ""
        line = f"  {pin['op']} in {pin['module'] or 'the model'}{where}, {plural(pin['channels'], 'channel')}"
        out.print(line, markup=False, soft_wrap=True)
    if len(pins) > _PLACES:
        out.print(f"  and {plural(len(pins) - _PLACES, 'more place', 'more places')}")
    for remedy in row["remedies"][:_PLACES]:
        out.print(f"  remedy: {remedy}", markup=False, soft_wrap=True)
    if len(row["remedies"]) > _PLACES:
        out.print(f"  and {plural(len(row['remedies']) - _PLACES, 'more remedy', 'more remedies')}: see --json")
    out.print()


def follower_line(found: Mapping[str, Any]) -> str:
    """Read as `model.2.c = 32 · kept share of model.2.cv1.conv.weight`."""
    terms = [f"{term['coefficient']:g} · kept share of {term['name']}" for term in found["terms"]]
    constant = [f"{found['constant']:g}"] if found["constant"] or not terms else []
    return f"{'.'.join(filter(None, (found['module'], found['attribute'])))} = {' + '.join([*constant, *terms])}"


def trace_line(trace: Mapping[str, Any]) -> str:
    """Which front end traced, how many ops, and what training adds."""
    how = {"dispatch": "recording the ops of one run", "export": "torch.export"}.get(trace["front_end"], "")
    only: Sequence[str] = trace["training_only"]
    more = f", {only[0]} the first" if len(only) > 1 else ""
    added = (
        f"Training adds branches: {len(only)} tensors with channels are read in training mode alone{more}."
        if only
        else "No branch of training mode alone was seen."
    )
    return f"Traced by {how or trace['front_end']}: {trace['ops']} ops. {added}"


def print_measurement(measurement: Measurement) -> None:
    """Both latencies and the ratio with its interval."""
    table = Table()
    for column in ("", "median ms", "mean", "p90", "p95", "p99", "runs"):
        table.add_column(column, justify="right" if column else "left")
    for latency in (measurement.baseline, measurement.candidate):
        numbers = (latency.median_ms, latency.mean_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)
        table.add_row(latency.name, *(f"{n:.3f}" for n in numbers), str(len(latency.samples_ms)))
    out = console()
    out.print(table)
    verdict = "faster" if measurement.faster else "slower" if measurement.slower else "no difference beyond the noise"
    out.print(
        f"candidate / baseline = {measurement.ratio:.3f} (95 % interval {measurement.ratio_low:.3f} to "
        f"{measurement.ratio_high:.3f}): "
        f"{verdict}",
        soft_wrap=True,
    )
    for warning in measurement.warnings:
        out.print(f"warning: {warning}", soft_wrap=True)
