"""Peak memory of one model, in a process that does nothing else.

    python -m channelcut.bench.memory BACKEND THREADS BATCH FILE CUDA SIZE     # prints JSON; "-" where there is none

The high-water mark of the resident set cannot be taken back within a process, so each model gets one of its own.
`peak_rss_mib` counts the interpreter and the libraries; `before_load_mib` is what those took before the file was
loaded. `device_mib` is there where the runner has the attribute `device_memory_bytes`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_TIMEOUT_S = 300


def peak_memory(
    path: Path, backend: str, work: tuple[int, int], cuda: str | None = None, size: tuple[int, int] | None = None
) -> dict[str, float]:
    """Return `peak_rss_mib`, `before_load_mib` and perhaps `device_mib` of loading and running; empty if it failed.

    `work`: threads and batch. `size`: height and width where the file leaves them open.
    """
    threads, batch = work
    command = [sys.executable, "-m", "channelcut.bench.memory", backend, str(threads), str(batch), str(path)]
    command += [cuda or "-", "-" if size is None else f"{size[0]}x{size[1]}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return {}
    return found


def _measure(backend: str, work: tuple[int, int], path: Path, cuda: str, size: str) -> dict[str, Any]:
    from channelcut.bench.inputs import inputs_for
    from channelcut.engine.protocol import EngineOptions
    from channelcut.engine.registry import require

    threads, batch = work
    module = require(backend)
    before = _peak_mib()
    runner = module.load(path, EngineOptions(threads=threads, cuda=None if cuda == "-" else cuda))
    height, _, width = size.partition("x")
    inputs, _ = inputs_for(runner, batch, 0, None if size == "-" else (int(height), int(width)))
    for _ in range(3):
        runner(inputs)
    found = {"peak_rss_mib": round(_peak_mib(), 1), "before_load_mib": round(before, 1)}
    device = getattr(runner, "device_memory_bytes", None)
    return found if device is None else {**found, "device_mib": round(device / 2**20, 1)}


def _peak_mib() -> float:
    """The largest resident size of this program so far, in MiB.

    getrusage's figure outlives exec on Linux: it would show the parent's size. VmHWM belongs to this program alone.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    # Elsewhere: macOS counts in bytes, others in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    name, threads, batch, file, cuda, size = sys.argv[1:]
    found = _measure(name, (int(threads), int(batch)), Path(file), cuda, size)
    sys.stdout.write(json.dumps(found) + "\n")
