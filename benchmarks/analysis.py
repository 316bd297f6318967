"""What can be removed of every model of the zoo, and the processor time of its analysis: without cuts and proofs.

    python -m benchmarks.analysis [--tree DIR] [--every N] [--out FILE]

One process analyses ten models; each model is analysed twice, and the second time counts, because the first one in a
process loads what torch needs. Rows go to FILE as they are made, and what is there is not made again. `--tree` analyses
with the checkout in another folder, to compare two versions on one machine; `--every 5` takes every fifth model. The
table counts the models that can lose fewer channels than benchmarks/results/zoo says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CHUNK = 10


def analysed(zoo: str, name: str) -> dict[str, Any]:
    """One row: removable channels, groups, and the processor time of a second analysis in seconds."""
    import torch

    import channelcut as cc
    from benchmarks.zoo.catalogue import open_zoo

    torch.manual_seed(0)
    row: dict[str, Any] = {"zoo": zoo, "name": name}
    try:
        example = open_zoo(zoo).example(name)
        for _ in range(2):
            start = time.process_time()
            groups = cc.analyze(example.model, example.inputs)
            row["cpu_s"] = round(time.process_time() - start, 3)
    except Exception as error:  # noqa: BLE001  a model that fails is a row of the table
        return {**row, "error": f"{type(error).__name__}: {error}"[:300]}
    return {**row, "removable": sum(len(g.channels) for g in groups.groups), "groups": len(groups.groups)}


def models(every: int) -> list[tuple[str, str]]:
    """The catalogue's models."""
    catalogue = json.loads((RESULTS / "zoo" / "catalogue.json").read_text())
    return [(zoo, name) for zoo, listed in catalogue.items() for name in listed["names"]][::every]


def run(tree: Path, chosen: list[tuple[str, str]], out: Path) -> list[dict[str, Any]]:
    """Analyse in processes of ten models of one zoo each."""
    done = {(row["zoo"], row["name"]) for row in rows_of(out)}
    todo = [item for item in chosen if item not in done]
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "PYTHONPATH": str(tree)}
    while todo:
        zoo = todo[0][0]
        part = [name for other, name in todo if other == zoo][:CHUNK]
        command = [sys.executable, str(Path(__file__).resolve()), "--one", zoo, *part, "--out", str(out)]
        subprocess.run(command, cwd=tree, env={**os.environ, **settings}, check=True, stdin=subprocess.DEVNULL)
        todo = [item for item in todo if item not in {(zoo, name) for name in part}]
        print(f"{len(chosen) - len(todo)} of {len(chosen)}", file=sys.stderr)
    return [row for row in rows_of(out) if (row["zoo"], row["name"]) in set(chosen)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each zoo: what is left of what could be removed before, and the median time."""
    lines = [
        "| zoo | models | fewer removable | more | same | failed | processor time, median / max |",
        "|---|---|---|---|---|---|---|",
    ]
    for zoo in dict.fromkeys(row["zoo"] for row in rows):
        before = {
            r["name"]: r.get("removable") for r in json.loads((RESULTS / "zoo" / f"{zoo}.json").read_text())["rows"]
        }
        mine = [row for row in rows if row["zoo"] == zoo]
        good = [row for row in mine if "error" not in row]
        signs = [(row["removable"] > before[row["name"]]) - (row["removable"] < before[row["name"]]) for row in good]
        times = [row["cpu_s"] for row in good] or [0.0]
        lines.append(
            f"| {zoo} | {len(mine)} | {signs.count(-1)} | {signs.count(1)} | {signs.count(0)} | "
            f"{len(mine) - len(good)} | {statistics.median(times):.2f} / {max(times):.2f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Analyse, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="the checkout to analyse with")
    parser.add_argument("--every", type=int, default=1, help="take one model in N")
    parser.add_argument("--out", type=Path, default=RESULTS / "analysis.jsonl", help="where rows go")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.one:
        rows = run(flags.tree.resolve(), models(flags.every), flags.out.resolve())
        print(table(rows))
        return
    import torch
    import torch._dynamo

    import channelcut as cc

    torch.set_num_threads(1)
    cc.analyze(torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 8, 8))
    for name in flags.one[1:]:
        row = analysed(flags.one[0], name)
        with flags.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
