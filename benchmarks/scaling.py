"""How analysis grows: time and memory of trace, couple and probe from yolo26n to yolo26x.

    python -m benchmarks.scaling            # writes benchmarks/results/scaling.json and scaling.md

One process a network and front end. `first_use_s` is what loading the compiler of torch and the front end cost once
a process, seen on a one-layer model; `rss_mib` is the peak above what the imports and the built model took.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("yolo26n", "yolo26s", "yolo26m", "yolo26l", "yolo26x")
FRONT_ENDS = ("export", "dispatch")


def peak_mib() -> float:
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, front_end: str) -> dict[str, Any]:
    """Seconds of each part and the peak memory, in this process."""
    import torch

    from channelcut.bench.environment import environment
    from channelcut.coupling import couple
    from channelcut.retrace import CutForwards
    from channelcut.sources import open_source
    from channelcut.tracing import trace

    torch.set_num_threads(1)
    model = open_source(f"ultralytics:{name}.yaml").build()
    example = torch.rand(1, 3, 640, 640)
    start = time.perf_counter()
    importlib.import_module("torch._dynamo")  # torch's meta kernels load it
    trace(torch.nn.Conv2d(3, 4, 1), (torch.rand(1, 3, 8, 8),), front_end=front_end)
    first_use = time.perf_counter() - start
    before = peak_mib()
    times = [time.perf_counter()]
    graph = trace(model, (example,), front_end=front_end)
    times.append(time.perf_counter())
    groups = couple([graph])
    times.append(time.perf_counter())
    after = peak_mib()
    forwards = CutForwards(model, (example,), {})
    smaller = couple([graph], None, forwards, lambda: forwards.again(graph))
    times.append(time.perf_counter())
    return {
        "network": name,
        "front_end": front_end,
        "parameters": sum(p.numel() for p in model.parameters()),
        "ops": len(graph.calls),
        "groups": len(smaller.groups),
        "groups_before_probe": len(groups.groups),
        "first_use_s": first_use,
        "trace_s": times[1] - times[0],
        "couple_s": times[2] - times[1],
        "probe_s": times[3] - times[2],
        "trace_and_couple_rss_mib": after - before,
        "rss_mib": peak_mib() - before,
        "environment": environment(1),
    }


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(measure(*flags.one)))
        return
    rows = []
    for name in NETWORKS:
        for front_end in FRONT_ENDS:
            command = [sys.executable, "-m", "benchmarks.scaling", "--one", name, front_end]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print({k: v for k, v in rows[-1].items() if k != "environment"}, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps(rows, indent=1))
    columns = (
        "network | front end | parameters | ops | first use | trace | couple | probe | peak: trace, couple | peak: all"
    )
    lines = [f"| {columns} |", "|---" * 10 + "|"]
    lines += [
        f"| {r['network']} | {r['front_end']} | {r['parameters'] / 1e6:.1f} M | {r['ops']} | {r['first_use_s']:.2f} s "
        f"| "
        f"{r['trace_s']:.2f} s | {r['couple_s']:.2f} s | {r['probe_s']:.2f} s | {r['trace_and_couple_rss_mib']:.0f} "
        f"MiB | "
        f"{r['rss_mib']:.0f} MiB |"
        for r in rows
    ]
    head = f"Made by `python -m benchmarks.scaling` on {rows[0]['environment']}.\n\n"
    (RESULTS / "scaling.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
