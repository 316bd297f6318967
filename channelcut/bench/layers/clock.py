"""What a back end has to offer so that its layers can be timed, and the loop that times them.

Layers are timed in turns, so that a slow spell of the machine hits all of them, and a fixed small convolution beside
them in every round: times of different hours are compared in its units.
"""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from channelcut.core.crew import Counted, Lost
from channelcut.core.errors import ChannelcutError, UserError, no_memory
from channelcut.core.inputs import check_above_zero, check_whole
from channelcut.cost.kinds import Entry, LayerKind, Widths
from channelcut.cost.table import Target, Timing

Run = Callable[[], float]
"""Runs once and returns how long that took, in ms."""


def clocked(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Run:
    """Work as a run that says how long it took, by a clock in seconds."""

    def run() -> float:
        start = clock()
        work()
        return (clock() - start) * 1000

    return run


REFERENCE = Entry(
    LayerKind(
        "Conv", (1,), (40, 40), (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)), ("strides", (1, 1))), ("Relu",)
    ),
    Widths(64, 64),
)
_RESAMPLES = 200
_RECENT = 99  # empty runs whose median is the overhead
_LEAST_SHARE = 0.1  # of a run, that is the layer's whatever the overhead seems to be
_LEAST_MS = 1e-6  # no run takes less: a clock's resolution must not make a time zero
HELD = 48  # layers that are held ready at once: bounds the memory, and the time between two of a layer's runs
_HELD_MIB = 1024  # of their weights: a runtime holds these about twice


@dataclass(frozen=True)
class Kernel:
    """One kernel of a running network.

    name: the back end's. op: its operator. ms: its time. names: the nodes and values of the file that it is made of.
    values: those of the file that it reads or writes, by which its size follows the widths. layer: whether it is
    a product with a weight. least_ms: what it would take with next to nothing to do.
    """

    name: str
    op: str
    ms: float
    names: frozenset[str]
    values: tuple[str, ...] = ()
    layer: bool = False
    least_ms: float = 0.0


class LayerClock(Protocol):
    """A back end whose layers can be timed one by one."""

    def target(self) -> Target:
        """What the times belong to."""
        ...

    def prepared(self, entry: Entry) -> Run:
        """A lone layer, ready to run; raises `UserError` where the back end refuses it."""
        ...

    def network(self, path: Path) -> Run:
        """A whole file, ready to run."""
        ...

    def kernels(self, path: Path, runs: int) -> list[Kernel]:
        """The kernels of a whole file with their times."""
        ...


@dataclass(frozen=True)
class MeasureOptions:
    """How to time layers.

    half_width: how narrow the 95 % interval of a layer's median has to become, as a share of the median. min_rounds,
    max_rounds: how often each layer is run at least and at most. limit_s: seconds for all layers; what is left then is
    not timed, and the notes of the cost say so: the next run goes on. It is looked at between lots of up to 48 layers,
    of which a run times at least one. step: widths that are timed are multiples of this; None: the target's own, which
    is looked for. network_runs: how often the whole network is run. workers: how many processes time layers at once,
    through Ray; 0: this one alone. ray_address: of the cluster that they run on; None: this machine.

    Raises:
        UserError: a value makes no sense.
    """

    half_width: float = 0.03
    min_rounds: int = 7
    max_rounds: int = 40
    limit_s: float = math.inf
    step: int | None = None
    network_runs: int = 15
    workers: int = 0
    ray_address: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_above_zero(self.half_width, "half_width", "a share of the median, such as 0.03,")
        check_above_zero(self.limit_s, "limit_s", "a number of seconds")
        for name, least in (("min_rounds", 2), ("max_rounds", 2), ("network_runs", 1), ("workers", 0), ("seed", 0)):
            check_whole(getattr(self, name), name, least)
        if self.step is not None:
            check_whole(self.step, "step")
        if self.min_rounds > self.max_rounds:
            raise UserError(
                f"min_rounds={self.min_rounds} and max_rounds={self.max_rounds}: expected min_rounds <= max_rounds."
            )
        if self.ray_address is not None and (not isinstance(self.ray_address, str) or not self.ray_address.strip()):
            raise UserError(
                f"ray_address={self.ray_address!r}: expected the address of a running cluster, as `ray start --head` "
                "prints it, or None for this machine."
            )


def timed(
    clock: LayerClock,
    entries: Sequence[Entry],
    options: MeasureOptions,
    report: Callable[[int, int, str], None],
    reference_ms: float | None = None,
) -> Iterator[dict[Entry, Timing | str]]:
    """Time layers, some at a time; gives the times of each lot as it is done, or why the back end refused a layer.

    Where memory ran out, which may be another process's doing, the reason is a `Lost`.

    `reference_ms`: what the reference took when the table was begun; the times are scaled to that.
    """
    counted = Counted(len(entries), report)
    # Layers of like size share a lot, so that none waits long for its next turn.
    for lot in _lots(entries):
        found: dict[Entry, Timing | str] = {}
        runs: dict[Entry, Run] = {}
        for entry in lot:
            try:
                runs[entry] = clock.prepared(entry)
                runs[entry]()  # the first run sets up what later ones reuse
            except (ChannelcutError, MemoryError) as problem:
                runs.pop(entry, None)
                why = " ".join(str(problem).split())[:300]
                found[entry] = Lost(why or "memory ran out") if no_memory(problem) else why
        found |= _rounds(clock.prepared(REFERENCE), runs, options, reference_ms)
        counted.add(len(lot))
        yield found


def _lots(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Layers that are held at once, at least one."""
    lot: list[Entry] = []
    held = 0.0
    for entry in entries:
        size = math.prod(entry.weight) * 4 / 2**20
        if lot and (len(lot) == HELD or held + size > _HELD_MIB):
            yield lot
            lot, held = [], 0.0
        lot.append(entry)
        held += size
    if lot:
        yield lot


def _rounds(
    reference: Run, runs: dict[Entry, Run], options: MeasureOptions, reference_ms: float | None
) -> dict[Entry, Timing]:
    """Run all of them in turns; those whose interval is narrow drop out."""
    reference()
    samples: dict[Entry, list[tuple[float, float]]] = {entry: [] for entry in runs}
    found: dict[Entry, Timing] = {}
    waiting = set(runs)
    enabled = gc.isenabled()
    gc.disable()
    try:
        for number in range(1, options.max_rounds + 1):
            beside = min(reference(), reference())
            for entry, run in runs.items():
                if entry in waiting:
                    samples[entry].append((run(), beside))
            if number >= options.min_rounds and (number % 4 == 3 or number == options.max_rounds):
                for entry in sorted(waiting, key=str):
                    found[entry] = _timing(samples[entry], options.seed, reference_ms)
                    if found[entry].spread <= options.half_width:
                        waiting.discard(entry)
            if not waiting:
                break
    finally:
        if enabled:
            gc.enable()
    return found


def _timing(samples: Sequence[tuple[float, float]], seed: int, reference_ms: float | None) -> Timing:
    """The median and its interval by the bootstrap, in ms as they were when the reference took `reference_ms`."""
    times = np.array(samples)
    scale = 1.0 if reference_ms is None else reference_ms / max(float(np.median(times[:, 1])), _LEAST_MS)
    taken = np.maximum(times[:, 0], _LEAST_MS) * scale
    generator = np.random.default_rng(seed)
    drawn = np.median(taken[generator.integers(0, len(taken), (_RESAMPLES, len(taken)))], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Timing(float(np.median(taken)), float(low), float(high))


class Overhead:
    """What a call costs beside the layer: a run of next to nothing, timed beside every run of a layer and taken off.

    It is tens of microseconds where many layers take turns and nothing of a call is left in the caches, as much as a
    small layer takes; in a network one call runs all layers.
    """

    def __init__(self, empty: Run) -> None:
        self._empty = empty
        self._times: deque[float] = deque(maxlen=_RECENT)
        self._empty()

    def without(self, run: Run) -> Run:
        """The run, with the overhead taken off what it says."""

        def alone() -> float:
            self._times.append(self._empty())
            ms = run()
            return max(ms - float(np.median(self._times)), _LEAST_SHARE * ms)

        return alone


def median_ms(run: Run, reference: Run, runs: int) -> tuple[float, float]:
    """The median times of a callable and of the reference, run in turns."""
    run()
    reference()
    pairs: list[tuple[float, float]] = [(run(), reference()) for _ in range(runs)]
    times: Any = np.median(np.array(pairs), axis=0)
    return float(times[0]), float(times[1])
