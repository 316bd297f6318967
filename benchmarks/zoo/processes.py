"""Tasks in processes of their own, with a limit on time and memory; whatever happens to one becomes a row."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.zoo.record import read

GIB = 1024**3


@dataclass
class Processes:
    """Starts tasks and can end all of them; `memory_gib` limits what each may allocate."""

    limit_s: float
    memory_gib: float
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def run(self, task: str, zoo: str, name: str, folder: Path) -> dict[str, Any]:
        """Run one task to its end or its limit; returns what it recorded, always with an `outcome`."""
        path = folder / f"{task}.jsonl"
        command = [sys.executable, "-m", "benchmarks.zoo", "--task", task, zoo, name, str(folder)]
        with tempfile.TemporaryFile() as errors:
            start = time.perf_counter()
            process = self._start(command, errors, self.memory_gib)
            try:
                process.wait(self.limit_s)
                timed_out = False
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                self._end(process)
            found = read(path)
            found["wall_s"] = round(time.perf_counter() - start, 1)
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        if "outcome" not in found:
            found |= ended(process.returncode, found.get("stage", "start"), last, self.limit_s if timed_out else None)
        return found

    def close(self) -> None:
        """End everything that runs and start nothing more."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            self._end(process)

    def _start(self, command: list[str], errors: Any, memory_gib: float) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                [*command, "--memory-gib", str(memory_gib)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # so that it can be ended with its children, and only by us
                env={**os.environ, "YOLO_AUTOINSTALL": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )
            self._running.add(process)
            return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with self._lock:
            self._running.discard(process)


def limit_memory(gib: float) -> None:
    """Let allocations of this process fail beyond `gib`, before the machine runs out."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * GIB), int(gib * GIB)))


def ended(code: int, stage: str, errors: list[str], limit_s: float | None) -> dict[str, Any]:
    """The outcome of a process that did not say one."""
    if limit_s is not None:
        return {"outcome": "timeout", "reason": f"{stage} was running when {limit_s:.0f} s had passed"}
    if code == -signal.SIGKILL:
        return {"outcome": "memory", "reason": f"the system ended it during {stage}"}
    if code < 0:
        return {"outcome": "error", "reason": f"{signal.Signals(-code).name} during {stage}"}
    return {"outcome": "error", "reason": f"exit status {code} during {stage}: {''.join(errors)[:300]}"}
