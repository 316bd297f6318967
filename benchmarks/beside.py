"""The analysis of two checkouts, in turns: removable channels and processor time.

    python -m benchmarks.beside TREE [--every N] [--rounds R]      # TREE: another checkout, such as of an older commit

A process analyses one model with one checkout five times and gives the least processor time; the two take turns for R
rounds, and the least of all counts, because other work on the machine only adds. Rows (benchmarks/results/beside.jsonl)
are kept as they are made, and what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.analysis import HERE, RESULTS, models, rows_of
from channelcut.bench.environment import environment

ONE = """
import json, sys, time, torch
torch.set_num_threads(1)
import channelcut as cc
from benchmarks.zoo.catalogue import open_zoo
import torch._dynamo  # else the first analysis pays for the import
cc.analyze(torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 8, 8))
torch.manual_seed(0)
example = open_zoo(sys.argv[1]).example(sys.argv[2])
seconds = []
for _ in range(5):
    start = time.process_time()
    groups = cc.analyze(example.model, example.inputs)
    seconds.append(time.process_time() - start)
print(json.dumps([min(seconds), sum(len(g.channels) for g in groups.groups)]))
"""


def analysed(tree: Path, zoo: str, name: str) -> tuple[float, int]:
    """Processor time in seconds, and removable channels, of one model with the checkout in `tree`."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", ONE, zoo, name]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **settings}, check=True, capture_output=True, text=True)
    seconds, removable = json.loads(done.stdout.splitlines()[-1])
    return seconds, removable


def row(trees: dict[str, Path], zoo: str, name: str, rounds: int) -> dict[str, Any]:
    """One model with each of two checkouts."""
    runs = [{key: analysed(tree, zoo, name) for key, tree in trees.items()} for _ in range(rounds)]
    seconds = {key: round(min(run[key][0] for run in runs), 3) for key in trees}
    return {"zoo": zoo, "name": name, "cpu_s": seconds, "removable": {key: runs[0][key][1] for key in trees}}


def commit(tree: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Analyse what is missing and print the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="the other checkout")
    parser.add_argument("--every", type=int, default=14, help="take one model in N")
    parser.add_argument("--rounds", type=int, default=2, help="turns for each model")
    parser.add_argument("--out", type=Path, default=RESULTS / "beside.jsonl", help="where rows go")
    flags = parser.parse_args()
    trees = {"other": flags.tree.resolve(), "this": HERE.parent}
    commits = {key: commit(tree) for key, tree in trees.items()}
    done = {(r["zoo"], r["name"]) for r in rows_of(flags.out)}
    for zoo, name in models(flags.every):
        if (zoo, name) not in done:
            found = {**row(trees, zoo, name, flags.rounds), "commits": commits, "cpu": environment(1)["cpu"]}
            with flags.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found["name"], found["cpu_s"], found["removable"], file=sys.stderr, flush=True)
    rows = rows_of(flags.out)
    ratios = [r["cpu_s"]["this"] / r["cpu_s"]["other"] for r in rows]
    fewer = sum(r["removable"]["this"] < r["removable"]["other"] for r in rows)
    print(
        f"{len(rows)} models: time of this / of the other: median {statistics.median(ratios):.2f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}; {fewer} with fewer removable channels"
    )


if __name__ == "__main__":
    main()
