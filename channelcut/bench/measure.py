"""Time two callables in turns until the interval of their ratio is narrow enough."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from channelcut.bench.environment import environment
from channelcut.bench.statistics import Interval, ratio_of_medians
from channelcut.core.errors import UserError
from channelcut.core.measurement import Latency, Measurement

Work = Callable[[], object]
Progress = Callable[[int, int], None]

NOISY_CV = 0.10
_LOOP_RESAMPLES = 500  # deciding when to stop needs less precision than the reported interval


@dataclass(frozen=True)
class BenchOptions:
    """How to measure. Times in seconds or milliseconds as named; `target_half_width` is on the ratio (0.01: ±1 %)."""

    warmup_s: float = 0.5
    min_rounds: int = 12
    max_rounds: int = 2000
    time_limit_s: float = 30.0
    target_half_width: float = 0.01
    min_sample_ms: float = 0.5
    resamples: int = 2000
    seed: int = 0
    threads: int = 1
    batch: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 2 <= self.min_rounds <= self.max_rounds:
            raise UserError(
                f"The bench options ask for {self.min_rounds} to {self.max_rounds} rounds; expected at least 2 and "
                "min_rounds <= max_rounds."
            )
        if min(self.threads, self.batch, self.resamples) < 1 or self.time_limit_s <= 0 or self.warmup_s < 0:
            raise UserError(
                "The bench options need threads, batch and resamples of at least 1, time_limit_s above 0 and "
                f"warmup_s of at least 0; got {self}."
            )


DEFAULTS = BenchOptions()


def measure(
    baseline: Work,
    candidate: Work,
    options: BenchOptions = DEFAULTS,
    on_progress: Progress | None = None,
) -> Measurement:
    """Run both callables in turns (A B B A, then B A A B) and return their times and the ratio's 95 % interval.

    Each call must do all its work before it returns (a GPU callable synchronises). Stops once the interval's
    half-width is within the target, after `max_rounds`, or when the time limit is reached; which of them is in
    `warnings`. `on_progress(done, total)` counts rounds; `total` is the most that the limits allow, and the last call
    says (done, done).
    """
    repeats = _warm_up(baseline, candidate, options)
    rounds: list[tuple[list[float], list[float]]] = []
    total = options.max_rounds
    started = time.perf_counter()
    check_at = options.min_rounds
    with _without_collector():
        while len(rounds) < options.max_rounds:
            rounds.append(_round((baseline, candidate), repeats, flip=len(rounds) % 2 == 1))
            spent = time.perf_counter() - started
            if len(rounds) >= 2:
                total = min(total, max(len(rounds), math.ceil(len(rounds) * options.time_limit_s / spent)))
            if on_progress is not None:
                on_progress(len(rounds), total)
            if len(rounds) < 2 or (spent < options.time_limit_s and len(rounds) < check_at):
                continue
            narrow = _interval(rounds, options, _LOOP_RESAMPLES).half_width <= options.target_half_width
            if spent >= options.time_limit_s or (narrow and len(rounds) >= options.min_rounds):
                break
            check_at = math.ceil(len(rounds) * 1.25)
    if on_progress is not None:
        on_progress(len(rounds), len(rounds))
    return _measurement(rounds, options)


def _round(works: tuple[Work, Work], repeats: tuple[int, int], *, flip: bool) -> tuple[list[float], list[float]]:
    """One A B B A (flipped: B A A B) of samples, in ms a call: a drift within the round cancels between the sides."""
    times: tuple[list[float], list[float]] = ([], [])
    for side in (1, 0, 0, 1) if flip else (0, 1, 1, 0):
        times[side].append(_sample(works[side], repeats[side]))
    return times


def _sample(work: Work, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    # The clock's own resolution keeps an empty callable above zero.
    return max(time.perf_counter() - start, 1e-9) * 1000 / repeats


def _warm_up(baseline: Work, candidate: Work, options: BenchOptions) -> tuple[int, int]:
    """Run both in turns for the warm-up time; return how many calls make one sample long enough to be timed."""
    fastest = [math.inf, math.inf]
    end = time.perf_counter() + options.warmup_s
    while True:
        for side, work in enumerate((baseline, candidate)):
            fastest[side] = min(fastest[side], _sample(work, 1))
        if time.perf_counter() >= end:
            break
    repeats = [max(1, math.ceil(options.min_sample_ms / f)) for f in fastest]
    return repeats[0], repeats[1]


def _interval(rounds: list[tuple[list[float], list[float]]], options: BenchOptions, resamples: int) -> Interval:
    base, cand = [r[0] for r in rounds], [r[1] for r in rounds]
    return ratio_of_medians(base, cand, resamples=resamples, seed=options.seed)


def _measurement(rounds: list[tuple[list[float], list[float]]], options: BenchOptions) -> Measurement:
    interval = _interval(rounds, options, options.resamples)
    sides = [tuple(t for r in rounds for t in r[side]) for side in (0, 1)]
    baseline = Latency("baseline", sides[0], options.batch)
    candidate = Latency("candidate", sides[1], options.batch)
    return Measurement(
        baseline,
        candidate,
        interval.estimate,
        interval.low,
        interval.high,
        environment(options.threads, options.device),
        _warnings(baseline, candidate, interval, options),
    )


def _warnings(baseline: Latency, candidate: Latency, interval: Interval, options: BenchOptions) -> tuple[str, ...]:
    found = [
        f"the times of the {side.name} vary by {side.cv:.0%} (coefficient of variation; more than {NOISY_CV:.0%}): "
        "something else is using this machine, or its clocks are not fixed"
        for side in (baseline, candidate)
        if side.cv > NOISY_CV
    ]
    if interval.half_width > options.target_half_width:
        found.append(
            f"the ratio is known to ±{interval.half_width:.2g} only, not to the ±{options.target_half_width:.2g} that "
            "was asked for: the time or round limit came first"
        )
    return tuple(found)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python's garbage collector from running inside a sample."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
