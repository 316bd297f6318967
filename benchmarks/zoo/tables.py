"""The results of the catalogue as Markdown: one line a zoo, every model that is not proven by name, a table a zoo."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.zoo.catalogue import CACHE
from channelcut.core.files import write_atomically

Row = dict[str, Any]
COMMAND = "python -m benchmarks.zoo"
REASON_LENGTH = 220
EXPORT = "torch.export"
STEPS = ("reload", "onnx", "engine", "fuse", "ultralytics_export")


def write_tables(results: Path) -> str:
    """Make the tables of all result files in a folder; returns the summary."""
    files = sorted(path for path in results.glob("*.json") if path.name != CACHE)
    zoos = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    zoos = {name: data for name, data in zoos.items() if data["rows"]}
    for name, data in zoos.items():
        write_atomically(results / f"{name}.md", zoo_table(name, data).encode())
    summary = summary_table(zoos)
    write_atomically(results.with_suffix(".md"), summary.encode())
    return summary


def summary_table(zoos: dict[str, Any]) -> str:
    """One line a zoo, then all that is not proven with the reason."""
    lines = [
        f"Made by `{COMMAND}`: random weights, half of every group, one process a model. Tables: "
        + ", ".join(f"[{name}](zoo/{name}.md)" for name in zoos)
        + ".\n",
        "| zoo | models | proven | refused | error | timeout | memory | trace, median / max | couple, median / max "
        "| torch.export, median / max | analysis ÷ torch.export, median / max "
        "| Torch-Pruning: cut, runs, smaller | its graph, median / max | ours on the same |",
        "|---" * 14 + "|",
    ]
    lines += [summary_line(name, data["rows"]) for name, data in zoos.items()]
    for name, data in zoos.items():
        lines += ["", f"## {name}: what is not proven", ""]
        lines += [f"- `{r['name']}`: {r['outcome']}. {text(r.get('reason'))}" for r in data["rows"] if failed(r)]
    lines += ["", "## Operators without a rule, by models that they pin channels of", ""]
    unknown = Counter(op for data in zoos.values() for r in data["rows"] for op in r.get("no_rule", {}))
    lines += [f"- `{op}`: {count}" for op, count in unknown.most_common()] or ["None."]
    return "\n".join(lines) + "\n"


def failed(row: Row) -> bool:
    """Whether a row belongs on the list of what does not work."""
    return row["outcome"] not in ("proven", "coupled")


def summary_line(name: str, rows: Sequence[Row]) -> str:
    """Counts and times of one zoo."""
    outcomes = Counter(r["outcome"] for r in rows)
    peers = [r for r in rows if "peer" in r]
    shares = [share for r in rows if (share := export_share(r)) is not None]
    both = [r for r in peers if r["outcome"] == "proven" and r["peer"]["outcome"] == "cut"]
    cells = [
        name,
        str(len(rows)),
        *(str(outcomes[o]) for o in ("proven", "refused", "error", "timeout", "memory")),
        spread([seconds(r, "trace") for r in rows]),
        spread([seconds(r, "couple") for r in rows]),
        spread([seconds(r, EXPORT) for r in rows]),
        f"{median(shares):.2f} / {max(shares):.2f} ({len(shares)} models)" if shares else "–",
        f"{sum(r['peer']['outcome'] == 'cut' for r in peers)} of {len(peers)}" if peers else "–",
        spread([seconds(r["peer"], "graph") for r in both]),
        spread([analysis(r) for r in both]),
    ]
    return f"| {' | '.join(cells)} |"


def seconds(row: Row, stage: str) -> float | None:
    """How long a stage took, if it ended."""
    found = row.get("seconds", {}).get(stage)
    return None if found is None else float(found)


def analysis(row: Row) -> float | None:
    """How long trace, coupling and probe took together, if they ended."""
    return total(seconds(row, "trace"), seconds(row, "couple"))


def export_share(row: Row) -> float | None:
    """The time of the analysis over that of torch.export on the same model, where it follows."""
    ours, theirs = analysis(row), seconds(row, EXPORT)
    return None if ours is None or not theirs else ours / theirs


def export_text(row: Row) -> str:
    """How long torch.export took, or why it could not follow."""
    return text(row.get("export_failure"), 80) or number(seconds(row, EXPORT), ".2f")


def total(*parts: float | None) -> float | None:
    """The sum, if all are known."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def spread(values: Sequence[float | None]) -> str:
    """`median / largest s` of what is known."""
    known = [value for value in values if value is not None]
    return f"{median(known):.2f} / {max(known):.2f} s" if known else "–"


def number(value: Any, form: str) -> str:
    """A number in a format, or nothing."""
    return "" if value is None else format(value, form)


def millions(value: int | None) -> str:
    """Parameters for people."""
    return "" if value is None else f"{value / 1e6:.1f} M"


def pins(row: Row) -> str:
    """The three most frequent reasons with their counts."""
    return text("; ".join(f"{reason} ({count})" for reason, count in [*row.get("pin_reasons", {}).items()][:3]))


def peer_text(found: Row | None) -> str:
    """What Torch-Pruning made of it."""
    if found is None:
        return ""
    if found["outcome"] == "cut":
        return f"{found['params_ratio']:.0%} left"
    return f"{found['outcome']}. {text(found.get('reason'), 80)}".strip(" .")


def step_text(row: Row, step: str) -> str:
    """How a step after the cut went."""
    found = row.get("extras", {})
    return text(
        found.get("steps", {}).get(step) or (found.get("outcome", "") if found.get("stage") == step else ""), 80
    )


def text(value: Any, length: int = REASON_LENGTH) -> str:
    """One line that a table cell can hold."""
    line = " ".join(str(value or "").split()).replace("|", "\\|")
    return line if len(line) <= length else line[: length - 1] + "…"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda r: str(r["name"]),
    "outcome": lambda r: str(r["outcome"]),
    "error": lambda r: number(r.get("max_relative_error"), ".0e"),
    "parameters": lambda r: millions(r.get("parameters")),
    "left": lambda r: number(r.get("params_ratio"), ".0%"),
    "MACs left": lambda r: number(r.get("macs_ratio"), ".0%"),
    "groups": lambda r: number(r.get("groups"), "d"),
    "pins, most frequent": pins,
    "trace": lambda r: number(seconds(r, "trace"), ".2f"),
    "couple": lambda r: number(seconds(r, "couple"), ".2f"),
    "torch.export": export_text,
    "prune, s": lambda r: number(r.get("prune_s"), ".1f"),
    "peak, MiB": lambda r: number(r.get("peak_mib"), ".0f"),
    "training step": lambda r: text(r.get("training"), 60),
    "Torch-Pruning": lambda r: peer_text(r.get("peer")),
    "its graph, s": lambda r: number(seconds(r.get("peer", {}), "graph"), ".2f"),
}


def zoo_table(name: str, data: dict[str, Any]) -> str:
    """Every model of a zoo, with what came after the cut where that was tried."""
    rows = data["rows"]
    columns = dict(COLUMNS)
    if any("extras" in r for r in rows):
        columns |= {step: lambda r, step=step: step_text(r, step) for step in STEPS}  # type: ignore[misc]
    lines = [
        f"Made by `{COMMAND} --zoo {name}` with {name} {data['version']} on {data['environment']}. `error` is in units "
        "of each tensor's own deviation; `couple` includes the probe.\n",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    lines += ["| " + " | ".join(cell(r) or "–" for cell in columns.values()) + " |" for r in rows]
    return "\n".join(lines) + "\n"
