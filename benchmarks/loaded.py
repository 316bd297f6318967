"""The proof beside other work: processor and wall time of `prune`, with torch's default threads.

    python -m benchmarks.loaded [--others N] [--limit SECONDS] [--out FILE]

N processes (by default two for each core) keep the cores busy while a depthwise layer of 1,152 channels runs in
float64, and a network of such layers is pruned: as it is, and with grouped convolutions left to torch, which convolves
group by group in float64. Each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BUSY = "while True: sum(range(10000))"


def pruned(by_torch: bool) -> dict[str, Any]:
    """Prune a network of depthwise layers, and say what that took."""
    import torch
    from torch import nn

    import channelcut as cc
    from channelcut.proof import execute, grouped

    class Block(nn.Module):
        def __init__(self, width: int, kernel: int) -> None:
            super().__init__()
            inner = 4 * width
            self.up = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
            depthwise = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner, bias=False)
            self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(inner), nn.ReLU6())
            self.down = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

        def forward(self, x: torch.Tensor) -> Any:
            return x + self.down(self.depthwise(self.up(x)))

    if by_torch:
        vars(execute)["grouped_convolution"] = lambda *_: None
    torch.manual_seed(0)
    blocks = [Block(288, kernel) for kernel in (3, 5, 3, 5)]
    model = nn.Sequential(nn.Conv2d(3, 288, 3, 8, 1), *blocks, nn.Conv2d(288, 10, 1)).eval()
    layer = nn.Conv2d(1152, 1152, 5, padding=2, groups=1152).double()
    inputs = (torch.rand(1, 1152, 8, 8, dtype=torch.float64), layer.weight, layer.bias, [1, 1], [2, 2], [1, 1], 1152)
    convolve = torch.ops.aten.conv2d.default
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for _ in range(3):
            if by_torch:
                convolve(*inputs)
            else:
                grouped.grouped_convolution("aten.conv2d", convolve, inputs, {})
    layer_wall, layer_cpu = (time.perf_counter() - wall) / 3, (time.process_time() - cpu) / 3
    wall, cpu = time.perf_counter(), time.process_time()
    result = cc.prune(model, torch.rand(1, 3, 128, 128), keep=0.5)
    return {
        "layer_wall_s": round(layer_wall, 3),
        "layer_cpu_s": round(layer_cpu, 3),
        "prune_wall_s": round(time.perf_counter() - wall, 2),
        "prune_cpu_s": round(time.process_time() - cpu, 2),
        "proof_wall_s": round(result.proof.seconds, 2),
        "proof_error": result.proof.max_relative_error,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def row(by_torch: bool, limit: float) -> dict[str, Any]:
    """One process that prunes; `past` a limit of time it is stopped."""
    command = [sys.executable, "-m", "benchmarks.loaded", "--one", "torch" if by_torch else "own"]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"past_s": round(time.perf_counter() - start, 1)}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure each side idle and loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "loaded.json")
    parser.add_argument("--one", choices=("own", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(pruned(options.one == "torch")))
        return
    rows = []
    for others in (0, options.others):
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]
        try:
            for by_torch in (False, True):
                load = os.getloadavg()[0]
                way = "group by group, by torch" if by_torch else "over the kernel's positions"
                rows.append({"others": others, "load_before": round(load, 1), "grouped convolutions": way})
                rows[-1] |= row(by_torch, options.limit)
                print(rows[-1], flush=True)
        finally:
            for process in busy:
                process.kill()
    options.out.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
