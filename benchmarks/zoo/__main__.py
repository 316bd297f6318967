"""What channelcut can cut: every model of four libraries and many of ten more, with random weights; and Torch-Pruning.

    python -m benchmarks.zoo                              # everything, resumes where it stopped
    python -m benchmarks.zoo --zoo timm --no-peer         # one zoo
    python -m benchmarks.zoo --zoo torchvision resnet18   # one model, again
    python -m benchmarks.zoo --fresh --no-peer            # all again; Torch-Pruning's columns stay
    python -m benchmarks.zoo --quick --results /tmp/quick # trace and couple only: ops without a rule, failures

One process a model and task. The rows of a zoo are in benchmarks/results/zoo/ZOO.json; its table and the summary
(benchmarks/results/zoo.md) are made of them. A zoo may also be the import path of a module with `names()` and
`example(name)` (see catalogue.py).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.zoo.catalogue import ZOOS, names, version
from benchmarks.zoo.processes import Processes
from benchmarks.zoo.tables import write_tables
from channelcut.bench.environment import environment
from channelcut.cli.console import Bars
from channelcut.core.files import write_atomically

RESULTS = Path(__file__).parents[1] / "results" / "zoo"


def row(
    processes: Processes, zoo: str, name: str, flags: argparse.Namespace, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Everything that is asked about one model; only Torch-Pruning's part where the rest is `known`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = dict(known or processes.run("analyze" if flags.quick else "cut", zoo, name, folder))
        if flags.extras and zoo == "ultralytics" and found["outcome"] == "proven" and known is None:
            found["extras"] = processes.run("extras", zoo, name, folder)
        if flags.peer and not flags.quick:
            found["peer"] = processes.run("peer", zoo, name, folder)
    return {"name": name, **found}


class Results:
    """The rows of one zoo on disk; always whole, in the order of the catalogue."""

    def __init__(self, folder: Path, zoo: str, order: list[str]) -> None:
        self.path, self.zoo = folder / f"{zoo}.json", zoo
        self.order = {name: position for position, name in enumerate(order)}
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.rows = {r["name"]: r for r in json.loads(self.path.read_text(encoding="utf-8"))["rows"]}

    def lack(self, name: str, flags: argparse.Namespace) -> bool:
        """Whether anything that is asked about a model is not known yet."""
        known = self.rows.get(name)
        return known is None or (flags.peer and not flags.quick and "peer" not in known)

    def known(self, name: str, flags: argparse.Namespace) -> dict[str, Any] | None:
        """The row that only lacks Torch-Pruning's part; None where the model is to be run from the start."""
        resumed = not flags.fresh and not flags.names
        return self.rows.get(name) if resumed else None

    def add(self, found: dict[str, Any]) -> None:
        """Put in or replace one row; one line a row, so that a change shows which model it is about.

        What was not asked for (Torch-Pruning, the extras of a cut that is proven again) stays as it was.
        """
        former = self.rows.get(found["name"], {})
        parts = ("peer", "extras") if found.get("outcome") == "proven" else ("peer",)
        self.rows[found["name"]] = found | {
            part: former[part] for part in parts if part in former and part not in found
        }
        ordered = sorted(self.rows.values(), key=lambda r: (self.order.get(r["name"], len(self.order)), r["name"]))
        head = json.dumps({"version": version(self.zoo), "environment": environment(1)}, default=str)
        lines = ",\n".join(json.dumps(r, default=str) for r in ordered)
        write_atomically(self.path, f'{head[:-1]}, "rows": [\n{lines}\n]}}\n'.encode())


def run(flags: argparse.Namespace) -> None:
    """Run what is not there yet and make the tables, also when interrupted."""
    processes = Processes(flags.limit_s, flags.memory_gib)
    try:
        with Bars(quiet=flags.quiet) as bars:
            for zoo in flags.zoo or ZOOS:
                known = names(zoo, flags.results)
                results = Results(flags.results, zoo, known)
                todo = flags.names or [name for name in known if flags.fresh or results.lack(name, flags)]
                run_zoo(processes, results, todo, flags, bars)
    finally:
        processes.close()
        print(write_tables(flags.results))


def run_zoo(
    processes: Processes,
    results: Results,
    todo: list[str],
    flags: argparse.Namespace,
    progress: Callable[[str, int, int], None],
) -> None:
    """Run the models of one zoo, `--jobs` at a time; each row is on disk as soon as it is known."""
    progress(results.zoo, 0, len(todo))
    with ThreadPoolExecutor(flags.jobs) as pool:
        futures: list[Future[dict[str, Any]]] = [
            pool.submit(row, processes, results.zoo, n, flags, results.known(n, flags)) for n in todo
        ]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                results.add(future.result())
                progress(results.zoo, done, len(todo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.close()
            raise


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="models of one --zoo to run (again); all without a row by default")
    parser.add_argument("--zoo", action="append", help=f"one of {', '.join(ZOOS)}; may be given more than once")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; more than one disturbs the times")
    parser.add_argument("--limit-s", type=float, default=180, help="for each task of a model")
    parser.add_argument("--memory-gib", type=float, default=12, help="for each task of a model")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="Torch-Pruning too")
    parser.add_argument("--extras", action=argparse.BooleanOptionalAction, default=True, help="ONNX, engine, fuse")
    parser.add_argument("--quick", action="store_true", help="trace and couple only")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows and tables")
    flags = parser.parse_args(arguments)
    if flags.names and len(flags.zoo or ()) != 1:
        parser.error("models are given by name within one --zoo")
    run(flags)


if __name__ == "__main__":
    main()
