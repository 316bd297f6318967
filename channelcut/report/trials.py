"""The report's account of a budget of time: every plan that was built and timed on the way."""

from __future__ import annotations

from channelcut.report.markup import Section, table, tag
from channelcut.report.numbers import plural
from channelcut.report.overview import section
from channelcut.report.reader import Part

HEADS = ("Planned for", "Predicted", "Measured", "95 % interval", "Widths", "MACs")


def trial_rows(report: Part) -> list[tuple[str, ...]]:
    """Each plan under `HEADS`, in order; all but the widths are shares of the original's."""
    rows: list[tuple[str, ...]] = []
    for trial in report.part("options").parts("trials"):
        asked, predicted, ratio, low, high, macs = (
            f"{trial.number(name) or 0:.3f}" for name in ("asked", "predicted", "ratio", "low", "high", "macs")
        )
        rows.append(
            (asked, predicted, ratio, f"{low} to {high}", f"multiples of {trial.text('align')}{_lowered(trial)}", macs)
        )
    return rows


def _lowered(trial: Part) -> str:
    count = trial.number("lowered") or 0
    return f"; {plural(int(count), 'layer')} lowered, output error {trial.number('error') or 0:.2g}" if count else ""


def trial_lines(report: Part) -> list[str]:
    """The same as sentences, for a terminal."""
    return [
        f"for {asked}: predicted {predicted}, measured {ratio} ({interval}), {widths}, MACs {macs}"
        for asked, predicted, ratio, interval, widths, macs in trial_rows(report)
    ]


def trials(report: Part) -> Section | None:
    """The plans as a table."""
    rows = trial_rows(report)
    if not rows:
        return None
    lead = "Times as shares of the original's. A plan that missed the budget moved the limit of the next one."
    return section(
        "plans", "Plans that were timed", tag("p", lead), table(HEADS, rows, "Plans by time", (0, 1, 2, 3, 5))
    )
