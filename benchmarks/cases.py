"""What a folder of small scripts prints, of two versions: each script in a process of its own, with a time limit.

    python -m benchmarks.cases FOLDER --tree DIR --name before    # with the checkout in another folder
    python -m benchmarks.cases FOLDER                             # with this one, and the table of both

A script imports channelcut and prints what it makes of an input; names of internals in it are read as what they are
called in the checkout, where they have only moved (MOVED). Rows go to benchmarks/results/cases.json as they are
made; the table is benchmarks/results/cases.md. Scripts run in a folder of their own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cases.json"
LIMIT_S = 300
LINES, WIDTH = 24, 200
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+")
NAMES = ("before", "after")
MOVED = {
    "channelcut.score.api": "channelcut.scoring.criteria",
    "channelcut.verify.compare": "channelcut.proof.compare",
    "channelcut.export.onnx": "channelcut.onnx_out.module",
    "free_outputs": "prunable_outputs",
}


def ran(script: Path, tree: Path, limit_s: float) -> dict[str, Any]:
    """What a script prints with a checkout, and how it ends."""
    settings = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "YOLO_AUTOINSTALL": "false", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "cases" / script.name
        copy.parent.mkdir()
        copy.write_text(adapted(script.read_text(), tree))
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(copy)],
            cwd=place,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that it can be ended with its children
        )
        try:
            printed, errors = process.communicate(timeout=limit_s)
            status = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, errors = process.communicate()
            status = f"ended after {limit_s:.0f} s"
    lines = plain(printed)
    if process.returncode:
        lines += [status, *plain(errors)[-1:]]
    return {"status": status, "seconds": round(time.perf_counter() - start, 1), "printed": lines}


def adapted(text: str, tree: Path) -> str:
    """A script with today's names, where the checkout has those."""
    if (tree / "channelcut" / "scoring").exists():
        for old, new in MOVED.items():
            text = text.replace(old, new)
    return text


def plain(printed: bytes) -> list[str]:
    """Lines without colours and the folders of this machine, at most so many and so long."""
    said = FOLDERS.sub("", COLOURS.sub("", printed.decode(errors="replace")))
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    lines = [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]
    return lines if len(lines) <= LINES else [*lines[:LINES], f"… {len(lines) - LINES} lines more"]


def commit(tree: Path) -> str:
    """The commit of a checkout, with a mark where files differ from it."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or "unknown"


def table(data: dict[str, Any]) -> str:
    """A row for each case: what it printed with both versions."""
    made = {name: data[name] for name in NAMES if name in data}
    heads = [f"{name} ({found['commit']})" for name, found in made.items()]
    cases = dict.fromkeys(case for found in made.values() for case in found["rows"])
    said = "; ".join(f"{name}: {found['environment']}" for name, found in made.items())
    lines = [
        f"Made by `python -m benchmarks.cases FOLDER`, one script a process, at most {LIMIT_S} s each. {said}\n",
        f"| case | {' | '.join(heads)} |",
        "|---" * (1 + len(heads)) + "|",
    ]
    for case in sorted(cases):
        cells = [cell(found["rows"].get(case)) for found in made.values()]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any] | None) -> str:
    """The printed lines in a cell of Markdown."""
    if row is None:
        return "–"
    escaped = [line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|") for line in row["printed"]]
    return "<br>".join(escaped) or "(nothing)"


def main() -> None:
    """Run the scripts, and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cases", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of scripts")
    parser.add_argument("cases", nargs="*", help="scripts by their stems; all by default")
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="the checkout to import channelcut from")
    parser.add_argument("--name", choices=NAMES, default="after", help="the column that is made")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="for each script")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where rows go; the table goes beside it")
    flags = parser.parse_args()
    data: dict[str, Any] = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    tree = flags.tree.resolve()
    column = data.setdefault(flags.name, {"rows": {}}) | {"commit": commit(tree), "environment": environment(1)}
    data[flags.name] = column
    scripts = [p for p in sorted(flags.folder.resolve().glob("*.py")) if not flags.cases or p.stem in flags.cases]
    for script in scripts:
        column["rows"][script.stem] = row = ran(script, tree, flags.limit_s)
        print(f"{script.stem}: {row['seconds']} s, {row['status']}", file=sys.stderr)
        write_atomically(flags.out, (json.dumps(data, indent=1, default=str) + "\n").encode())
        write_atomically(flags.out.with_suffix(".md"), table(data).encode())
    print(table(data))


if __name__ == "__main__":
    main()
