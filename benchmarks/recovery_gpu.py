"""What recovery wins back where there is time for it: the rows of `benchmarks.recovery`, taught for long on a GPU.

    CHANNELCUT_ASSETS=... python -m benchmarks.recovery_gpu --cuts DIR --cut       # without a GPU: compensated cuts
    CHANNELCUT_ASSETS=... python -m benchmarks.recovery_gpu --cuts DIR --out ROWS  # on the GPU: a process a row
    python -m benchmarks.recovery_gpu --merge ROWS                                 # results/recovery_gpu.json, .md

Cuts, images, judges and the meaning of a row are those of `benchmarks.recovery`; Ultralytics' detectors are cut, taught
and judged at 416 px, as in `benchmarks.accuracy`. ResNet-56 learns from 49,000 training images. All rows are taught at
once and share the GPU, so that the time of one is not what it would take alone. A row that was stopped goes on with its
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import OTHERS, ULTRALYTICS
from benchmarks.recovery import LABELS_ALONE, classifier, detector, table
from benchmarks.rows import write_rows
from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "recovery_gpu"
DETECTORS = (*ULTRALYTICS, *OTHERS)
HEAD = (
    "# Recovery on a GPU",
    "",
    "`python -m benchmarks.recovery_gpu`; rows side by side on one GPU, a CPU thread each; environments are in "
    "recovery_gpu.json.",
)
LONG: dict[str, Any] = {"taught": 49000, "epochs": 40, "batch": 256, "learning_rate": 3e-3, "test": 10000}
LABELLED = LONG | LABELS_ALONE
ROWS: dict[str, dict[str, Any]] = {
    "resnet56 2.1x": LONG,
    "resnet56 2.1x, labels": LONG | {"labels": True},
    "resnet56 2.1x, scratch": LABELLED | {"init": "scratch"},
    "resnet56 2.1x, rewound": LABELLED | {"init": "rewind"},
    "resnet56 2.5x": LONG | {"macs": 0.4},
} | {
    f"{name} {macs}": {"macs": macs, "epochs": 32} | ({"size": 416} if name in ULTRALYTICS else {})
    for macs in (0.8, 0.5, 0.7, 0.9)
    for name in DETECTORS
}
ROWS |= {f"{name} 0.8 raw outputs": ROWS[f"{name} 0.8"] | {"raw": True} for name in OTHERS}


def measured(name: str, cuts: Path, work: Path, *, taught: bool = True) -> dict[str, Any]:
    """One row; the cut alone where nothing is to be taught."""
    chosen = dict(ROWS[name]) if taught else dict(ROWS[name]) | {"epochs": 0}
    measure = classifier if name.startswith("resnet") else detector
    row = measure(name, chosen, work / _file(name), cuts / _file(name.partition(",")[0]))
    said = {"command": f"python -m benchmarks.recovery_gpu --rows {name!r}", "options": ROWS[name]}
    return row | said | {"environment": environment(1)}


def side_by_side(names: list[str], given: argparse.Namespace) -> int:
    """A process a row; returns how many failed."""
    given.out.mkdir(parents=True, exist_ok=True)
    running = {}
    for name in names:
        if not (given.out / f"{_file(name)}.json").exists():
            command = [sys.executable, "-m", "benchmarks.recovery_gpu", "--row", name]
            command += ["--cuts", given.cuts, "--work", given.work, "--out", given.out]
            with (given.out / f"{_file(name)}.log").open("w") as log:
                running[name] = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    return sum(process.wait() != 0 for process in running.values())


def merged(folder: Path) -> None:
    """The rows of a folder, beside those that are there, in the order of `ROWS`."""
    file = RESULTS.with_suffix(".json")
    rows = dict(json.loads(file.read_text())["rows"]) if file.exists() else {}
    for path in sorted(folder.glob("*.json")):
        rows |= json.loads(path.read_text())
    rows = {name: rows[name] for name in ROWS if name in rows}
    write_rows(RESULTS, {"rows": rows}, table(rows, HEAD))


def main() -> None:
    """Cut, teach, or put together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of the rows")
    parser.add_argument("--row", help="one row, in this process")
    parser.add_argument("--cuts", type=Path, default=Path("cuts"), help="folder of the cuts")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=Path("rows"), help="folder of what was measured")
    parser.add_argument("--cut", action="store_true", help="cut, and teach nothing")
    parser.add_argument("--merge", type=Path, metavar="ROWS", help="put what was measured into the results")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    names = [name for name in ROWS if any(fnmatch(name, pattern) for pattern in given.rows)]
    if given.merge is not None:
        merged(given.merge)
    elif given.row is not None:
        row = measured(given.row, given.cuts, given.work)
        write_atomically(given.out / f"{_file(given.row)}.json", json.dumps({given.row: row}).encode())
    elif given.cut:
        for name in names:
            if not (given.cuts / _file(name.partition(",")[0])).exists():
                measured(name, given.cuts, given.work, taught=False)
                print(f"{name} is cut", flush=True)
    else:
        sys.exit(side_by_side(names, given) != 0)


def _file(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


if __name__ == "__main__":
    main()
