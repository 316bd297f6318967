"""Layers timed by several workers at once: processes of this machine, or of a cluster, through Ray.

Each worker times whole lots by itself, the reference beside them, so that workers need not run at one speed. A lot
whose worker died is timed by another; where two died of it, its layers are timed one by one, and the one that kills is
given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from channelcut.bench.layers.clock import HELD, Counted, LayerClock, MeasureOptions, timed
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.cost.kinds import Entry
from channelcut.cost.table import Target, Timing

Rows = dict[Entry, Timing | str]

_DEATHS = 2  # of workers, that a lot may cause


class Died(Exception):
    """The worker that had the lot is gone."""


class Crew(Protocol):
    """Workers by number."""

    size: int

    def submit(self, worker: int, lot: Sequence[Entry]) -> Any:
        """Let a worker time a lot; returns what stands for its answer."""
        ...

    def first(self, answers: Sequence[Any]) -> Any:
        """Wait until one of the answers is there, and return which."""
        ...

    def rows(self, answer: Any) -> Rows:
        """An answer; raises `Died` where the worker is gone."""
        ...

    def replace(self, worker: int) -> None:
        """Put another worker in the place of one that died."""
        ...


def shared(crew: Crew, entries: Sequence[Entry], report: Callable[[int, int, str], None]) -> Iterator[Rows]:
    """Time layers by a crew; gives the rows of each lot as it is done."""
    counted = Counted(len(entries), report)
    size = max(1, min(HELD, -(-len(entries) // crew.size)))
    waiting = [(tuple(entries[start : start + size]), 0) for start in range(0, len(entries), size)]
    free = list(range(crew.size))
    running: dict[Any, tuple[int, tuple[Entry, ...], int]] = {}
    while waiting or running:
        while waiting and free:
            lot, deaths = waiting.pop(0)
            worker = free.pop(0)
            running[crew.submit(worker, lot)] = worker, lot, deaths
        answer = crew.first(list(running))
        worker, lot, deaths = running.pop(answer)
        try:
            rows = crew.rows(answer)
        except Died as problem:
            crew.replace(worker)
            free.append(worker)
            if deaths + 1 < _DEATHS:
                waiting.append((lot, deaths + 1))
            elif len(lot) > 1:  # one of them kills: alone it shows which
                waiting += [((entry,), 0) for entry in lot]
            else:
                yield {lot[0]: f"the worker that timed it died {_DEATHS} times ({problem})"[:300]}
                counted.add(1)
            continue
        free.append(worker)
        counted.add(len(lot))
        yield rows


@dataclass
class RayCrew:
    """A crew of Ray actors.

    clock: is sent to each of them. options: how to time. reference_ms: see `clock.timed`. target: what each has to run
    on. address: of a cluster; None: this machine. Used as a context; a local Ray that it started ends with it.
    """

    clock: LayerClock
    options: MeasureOptions
    reference_ms: float
    target: Target
    size: int
    address: str | None = None
    _actors: list[Any] = field(default_factory=list)
    _started: bool = False

    def __enter__(self) -> RayCrew:
        ray = _ray()
        if not ray.is_initialized():
            local = {} if self.address else {"num_cpus": self.size * self.target.threads, "include_dashboard": False}
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, RuntimeError, ValueError) as problem:
                raise UserError(
                    f"Ray does not start with the address {self.address!r}: {' '.join(str(problem).split())[:300]} "
                    "Expected the address of a running cluster (ray start --head prints it), or none for this machine."
                ) from problem
            self._started = True
        self._actors = [self._hired() for _ in range(self.size)]
        return self

    def __exit__(self, *_: object) -> None:
        ray = _ray()
        for actor in self._actors:
            ray.kill(actor)
        if self._started:
            ray.shutdown()

    def _hired(self) -> Any:
        gpu = self.target.backend not in ("onnxruntime", "openvino")
        remote = _ray().remote(num_cpus=self.target.threads, num_gpus=int(gpu), max_restarts=0)
        return remote(_Worker).remote(self.clock, self.options, self.reference_ms, self.target)

    def submit(self, worker: int, lot: Sequence[Entry]) -> Any:
        """See `Crew`."""
        return self._actors[worker].time.remote(list(lot))

    def first(self, answers: Sequence[Any]) -> Any:
        """See `Crew`."""
        done, _ = _ray().wait(list(answers), num_returns=1)
        return done[0]

    def rows(self, answer: Any) -> Rows:
        """See `Crew`; raises `UserError` where a worker is on another target."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            found: Rows = _ray().get(answer)
        except RayActorError as problem:
            raise Died(" ".join(str(problem).split())[:200]) from problem
        except RayTaskError as problem:
            cause = problem.cause if isinstance(problem.cause, UserError) else problem
            raise UserError(" ".join(str(cause).split())[:500]) from problem
        return found

    def replace(self, worker: int) -> None:
        """See `Crew`."""
        self._actors[worker] = self._hired()


class _Worker:
    """What runs in each process."""

    def __init__(self, clock: LayerClock, options: MeasureOptions, reference_ms: float, target: Target) -> None:
        self.clock, self.reference_ms, self.target = clock, reference_ms, target
        self.options = replace(options, workers=0)

    def time(self, lot: Sequence[Entry]) -> Rows:
        here = self.clock.target()
        if here != self.target:
            raise UserError(
                f"A worker runs on {here}; the table is of {self.target}. Times do not carry over: give the cluster's "
                "workers of one kind, or a table for each kind."
            )
        rows: Rows = {}
        for found in timed(self.clock, lot, self.options, lambda *_: None, self.reference_ms):
            rows |= found
        return rows


def _ray() -> Any:
    try:
        import ray
    except ImportError as problem:
        raise MissingExtraError("ray", "ray", "timing layers by several workers") from problem
    return ray
