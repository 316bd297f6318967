"""Tasks in processes of their own, with a limit on time and memory; whatever happens to one becomes a row."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks.zoo.record import Record, read

GIB = 1024**3
STDOUT, STDERR = 1, 2


SETTINGS = {"YOLO_AUTOINSTALL": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
LOADED = ["benchmarks.zoo.first_use"]


@dataclass
class Processes:
    """Starts tasks and can end all of them; `memory_gib` limits what each may allocate.

    A task's process is forked from one that has loaded torch and channelcut, and nothing of any library of models.
    """

    limit_s: float
    memory_gib: float
    _running: set[ForkServerProcess] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def run(self, task: str, zoo: str, name: str, folder: Path) -> dict[str, Any]:
        """Run one task to its end or its limit; returns what it recorded, always with an `outcome`."""
        errors = folder / f"{task}.errors"
        start = time.perf_counter()
        process = self._start((task, zoo, name, folder, errors))
        try:
            process.join(self.limit_s)
            timed_out = process.exitcode is None
        finally:
            self._end(process)
        found = read(folder / f"{task}.jsonl")
        found["wall_s"] = round(time.perf_counter() - start, 1)
        if "outcome" not in found:
            last = errors.read_text(errors="replace").strip().splitlines()[-1:] if errors.exists() else []
            stage, limit = found.get("stage", "start"), self.limit_s if timed_out else None
            found |= ended(process.exitcode or 0, stage, last, limit)
        return found

    def close(self) -> None:
        """End everything that runs and start nothing more."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            self._end(process)

    def _start(self, task: tuple[str, str, str, Path, Path]) -> ForkServerProcess:
        with self._lock:
            if self._closed:
                raise KeyboardInterrupt
            os.environ |= SETTINGS  # the process that is forked has those of the first task
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(LOADED)
            process = context.Process(target=_perform, args=(*task, self.memory_gib))
            process.start()
            self._running.add(process)
            return process

    def _end(self, process: ForkServerProcess) -> None:
        if process.exitcode is None and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
        with self._lock:
            self._running.discard(process)


def _perform(task: str, zoo: str, name: str, folder: Path, errors: Path, memory_gib: float) -> None:
    """The child's side: one task in a session that can be ended with its children; what it prints is put aside."""
    from benchmarks.zoo.tasks import TASKS

    os.setsid()
    warnings.simplefilter("ignore")
    with errors.open("w") as file:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        os.dup2(file.fileno(), STDERR)
        limit_memory(memory_gib)
        TASKS[task](zoo, name, Record(folder / f"{task}.jsonl"), folder)


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
