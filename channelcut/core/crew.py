"""Work shared by several workers at once: processes of this machine, or of a cluster, through Ray.

Each worker does whole lots by itself. A lot whose worker died is done by another; where two died of it, what it holds
is done one by one, and what kills is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from channelcut.core.cluster import LOCAL, check_cluster
from channelcut.core.errors import MissingExtraError, UserError

Item = TypeVar("Item", bound=Hashable)
Row = TypeVar("Row")
Report = Callable[[int, int, str], None]
"""Called as report(done, total, words)."""

_DEATHS = 2  # of workers, that a lot may cause


class Lost(str):
    """Why an item has no row this time: another run may have more luck."""


class Died(Exception):
    """The worker that had the lot is gone."""


@dataclass
class Counted:
    """Progress over what is alike, with the time left. `report(done, total, words)`."""

    total: int
    report: Report
    done: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, count: int) -> None:
        """Count more of them as done."""
        self.done += count
        spent = time.perf_counter() - self.started
        left = spent / max(self.done, 1) * (self.total - self.done)
        self.report(self.done, self.total, f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")


class Crew(Protocol[Item, Row]):
    """Workers by number."""

    size: int

    def submit(self, worker: int, lot: Sequence[Item]) -> Any:
        """Let a worker do a lot; returns what stands for its answer."""
        ...

    def first(self, answers: Sequence[Any]) -> Any:
        """Wait until one of the answers is there, and return which."""
        ...

    def rows(self, answer: Any) -> dict[Item, Row]:
        """An answer; raises `Died` where the worker is gone."""
        ...

    def replace(self, worker: int) -> None:
        """Put another worker in the place of one that died."""
        ...


def shared(crew: Crew[Item, Row], items: Sequence[Item], report: Report, most: int) -> Iterator[dict[Item, Row | str]]:
    """Let a crew do the items, at most so many in a lot; gives the rows of each lot as it is done.

    The row of an item that kills its workers is a text that says so, a `Lost`.
    """
    counted = Counted(len(items), report)
    size = max(1, min(most, -(-len(items) // crew.size)))
    waiting = [(tuple(items[start : start + size]), 0) for start in range(0, len(items), size)]
    free = list(range(crew.size))
    running: dict[Any, tuple[int, tuple[Item, ...], int]] = {}
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
                waiting += [((item,), 0) for item in lot]
            else:
                yield {lot[0]: Lost(f"the worker that had it died {_DEATHS} times ({problem})"[:300])}
                counted.add(1)
            continue
        free.append(worker)
        counted.add(len(lot))
        yield {**rows}


@dataclass
class RayCrew(Generic[Item, Row]):
    """A crew of Ray actors; used as a context, and a local Ray that it started ends with it.

    make: called in each worker's process, for the function that does a lot. task: in words, such as `timing layers`.
    size: how many workers. cpus, gpus: that each of them takes. address: of a cluster; None: this machine.

    Raises, on entry, `UserError`: no cluster answers at the address, or Ray does not start.
    """

    make: Callable[[], Callable[[Sequence[Item]], dict[Item, Row]]]
    task: str
    size: int
    cpus: int = 1
    gpus: int = 0
    address: str | None = None
    _actors: list[Any] = field(default_factory=list)
    _started: bool = False

    def __enter__(self) -> RayCrew[Item, Row]:
        ray = self._ray()
        if not ray.is_initialized():
            if self.address is not None:
                check_cluster(self.address)
            # Ray's workers give way to every other process by default: what they time would wait.
            own = {"num_cpus": self.size * self.cpus, "_system_config": {"worker_niceness": 0}}
            local: dict[str, Any] = {} if self.address else {**own, "include_dashboard": False}
            try:
                ray.init(address=self.address or LOCAL, log_to_driver=False, logging_level="ERROR", **local)
            except (OSError, RuntimeError, ValueError) as problem:
                raise UserError(_not_started(self.address, problem)) from problem
            self._started = True
        self._actors = [self._hired() for _ in range(self.size)]
        return self

    def __exit__(self, *_: object) -> None:
        ray = self._ray()
        for actor in self._actors:
            ray.kill(actor)
        if self._started:
            ray.shutdown()

    def _hired(self) -> Any:
        remote = self._ray().remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)
        return remote(_Worker).remote(self.make)

    def submit(self, worker: int, lot: Sequence[Item]) -> Any:
        """See `Crew`."""
        return self._actors[worker].rows.remote(list(lot))

    def first(self, answers: Sequence[Any]) -> Any:
        """See `Crew`."""
        done, _ = self._ray().wait(list(answers), num_returns=1)
        return done[0]

    def rows(self, answer: Any) -> dict[Item, Row]:
        """See `Crew`; raises `UserError` where a worker does."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            found: dict[Item, Row] = self._ray().get(answer)
        except RayActorError as problem:
            raise Died(" ".join(str(problem).split())[:200]) from problem
        except RayTaskError as problem:
            cause = problem.cause if isinstance(problem.cause, UserError) else problem
            raise UserError(" ".join(str(cause).split())[:500]) from problem
        return found

    def replace(self, worker: int) -> None:
        """See `Crew`."""
        self._actors[worker] = self._hired()

    def _ray(self) -> Any:
        try:
            import ray
        except ImportError as problem:
            raise MissingExtraError("ray", "ray", f"{self.task} by several workers") from problem
        return ray


def _not_started(address: str | None, problem: BaseException) -> str:
    """What to say where Ray does not start: what it says itself, and the first cause, which it leaves out."""
    first = problem
    while (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    said = [_told(error) for error in dict.fromkeys((problem, first))]
    where = "on this machine" if address is None else f"with the address {address!r}"
    return (
        f"Ray does not start {where}: {': '.join(said)}. Expected the address of a running cluster that lets this "
        "process in (`ray start --head` prints it), or none for this machine alone: --ray-address, ray_address= in "
        "Python."
    )


def _told(error: BaseException) -> str:
    """The text of an error in one line; where that is a traceback, which Ray's may be, its end."""
    text = str(error).strip()
    lines = text.splitlines()[-1:] if "Traceback (" in text else [text]
    return " ".join(" ".join(lines).split())[:400].rstrip(". ")


class _Worker(Generic[Item, Row]):
    """What runs in each process; what it needs is made at its first lot, so that an error there is that lot's."""

    def __init__(self, make: Callable[[], Callable[[Sequence[Item]], dict[Item, Row]]]) -> None:
        self.make = make
        self.does: Callable[[Sequence[Item]], dict[Item, Row]] | None = None

    def rows(self, lot: Sequence[Item]) -> dict[Item, Row]:
        self.does = self.does or self.make()
        return self.does(lot)
