"""What the command line shows: progress bars on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from channelcut.core.measurement import Measurement


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


def print_groups(data: Mapping[str, Any]) -> None:
    """The ten largest groups, what can go in all, and the pins by reason."""
    out = console()
    table = Table(title="Largest groups", title_justify="left")
    for column in ("group", "lanes", "width", "slots"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for group in sorted(data["groups"], key=lambda g: -g["lanes"] * g["width"])[:10]:
        table.add_row(group["name"], str(group["lanes"]), str(group["width"]), str(group["slots"]))
    out.print(table)
    if data["pins"]:
        pins = Table(title="Pinned channels", title_justify="left")
        for column in ("reason", "where", "source", "channels"):
            pins.add_column(column, justify="right" if column == "channels" else "left", overflow="fold")
        for pin in data["pins"]:
            pins.add_row(
                pin["reason"], f"{pin['op']} in {pin['module'] or 'the model'}", pin["source"], str(pin["channels"])
            )
        out.print(pins)
    total = data["totals"]
    out.print(
        f"{len(data['groups'])} groups with {total['removable_channels']} removable channels. At the least widths "
        f"{total['least_macs']:.1%} of {total['macs'] / 1e9:.3f} GMACs and {total['least_params']:.1%} of "
        f"{total['params']:,.0f} parameters would be left.",
        soft_wrap=True,
    )


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
