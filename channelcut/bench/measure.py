"""Time two callables in turns until the interval of their ratio is narrow enough."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from channelcut.bench.environment import environment
from channelcut.bench.statistics import Interval, ratio_of_medians
from channelcut.core.errors import UserError
from channelcut.core.measurement import Latency, Measurement, Ratio

Work = Callable[[], object]
Progress = Callable[[int, int], None]

NOISY_CV = 0.10
# The calling thread does the work when it spends this share of the process's processor time, and of the wall time at
# least that one: a thread that waits for others, or for a device, says nothing about them.
_OWN_SHARE, _LEAST_SHARE = 0.9, 0.05
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


class Sample(NamedTuple):
    """One sample in ms a call: on the clock, and in processor time of the calling thread and of the whole process."""

    wall: float
    thread: float
    process: float


Rounds = list[tuple[list[Sample], list[Sample]]]


def measure(
    baseline: Work,
    candidate: Work,
    options: BenchOptions = DEFAULTS,
    on_progress: Progress | None = None,
) -> Measurement:
    """Run both callables in turns (A B B A, then B A A B) and return their times and the ratio's 95 % interval.

    On a CPU with one thread the processor time of that thread is taken beside the wall time: where the two disagree by
    more than their intervals, something else was running, and the measurement gives no verdict.

    Each call must do all its work before it returns (a GPU callable synchronises). Stops once the interval's
    half-width is within the target, after `max_rounds`, or when the time limit is reached; which of them is in
    `warnings`. `on_progress(done, total)` counts rounds; `total` is the most that the limits allow, and the last call
    says (done, done).
    """
    repeats = _warm_up(baseline, candidate, options)
    rounds: Rounds = []
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


def _round(works: tuple[Work, Work], repeats: tuple[int, int], *, flip: bool) -> tuple[list[Sample], list[Sample]]:
    """One A B B A (flipped: B A A B) of samples: a drift within the round cancels between the sides."""
    times: tuple[list[Sample], list[Sample]] = ([], [])
    for side in (1, 0, 0, 1) if flip else (0, 1, 1, 0):
        times[side].append(_sample(works[side], repeats[side]))
    return times


def _sample(work: Work, repeats: int) -> Sample:
    process, thread, start = time.process_time(), time.thread_time(), time.perf_counter()
    for _ in range(repeats):
        work()
    end, thread_end, process_end = time.perf_counter(), time.thread_time(), time.process_time()
    # The clock's own resolution keeps an empty callable above zero.
    return Sample(*(max(t, 1e-9) * 1000 / repeats for t in (end - start, thread_end - thread, process_end - process)))


def _warm_up(baseline: Work, candidate: Work, options: BenchOptions) -> tuple[int, int]:
    """Run both in turns for the warm-up time; return how many calls make one sample long enough to be timed."""
    fastest = [math.inf, math.inf]
    end = time.perf_counter() + options.warmup_s
    while True:
        for side, work in enumerate((baseline, candidate)):
            fastest[side] = min(fastest[side], _sample(work, 1).wall)
        if time.perf_counter() >= end:
            break
    repeats = [max(1, math.ceil(options.min_sample_ms / f)) for f in fastest]
    return repeats[0], repeats[1]


def _interval(rounds: Rounds, options: BenchOptions, resamples: int, *, thread: bool = False) -> Interval:
    """The interval of the ratio in wall time, or in the thread's processor time."""
    base, cand = ([[s.thread if thread else s.wall for s in r[side]] for r in rounds] for side in (0, 1))
    return ratio_of_medians(base, cand, resamples=resamples, seed=options.seed)


def _measurement(rounds: Rounds, options: BenchOptions) -> Measurement:
    interval = _interval(rounds, options, options.resamples)
    alone = _caller_works(rounds, options)
    sides = [
        Latency(
            name,
            tuple(s.wall for r in rounds for s in r[side]),
            options.batch,
            tuple(s.thread for r in rounds for s in r[side]) if alone else (),
        )
        for side, name in enumerate(("baseline", "candidate"))
    ]
    thread = _interval(rounds, options, options.resamples, thread=True) if alone else None
    found = Measurement(
        sides[0],
        sides[1],
        interval.estimate,
        interval.low,
        interval.high,
        environment(options.threads, options.device),
        thread=None if thread is None else Ratio(thread.estimate, thread.low, thread.high),
    )
    return replace(found, warnings=_warnings(found, options))


def _caller_works(rounds: Rounds, options: BenchOptions) -> bool:
    """Whether the calling thread does all the work of both sides, so that its processor time is theirs."""
    if options.threads != 1 or options.device != "cpu":
        return False
    for side in (0, 1):
        wall, thread, process = (sum(t) for t in zip(*(s for r in rounds for s in r[side]), strict=True))
        if thread < _OWN_SHARE * process or thread < _LEAST_SHARE * wall:
            return False
    return True


def _warnings(found: Measurement, options: BenchOptions) -> tuple[str, ...]:
    texts = [
        f"the times of the {side.name} vary by {side.cv:.0%} (coefficient of variation; more than {NOISY_CV:.0%}): "
        "something else is using this machine, or its clocks are not fixed"
        for side in (found.baseline, found.candidate)
        if side.cv > NOISY_CV
    ]
    half = (found.ratio_high - found.ratio_low) / 2
    if half > options.target_half_width:
        texts.append(
            f"the ratio is known to ±{half:.2g} only, not to the ±{options.target_half_width:.2g} that "
            "was asked for: the time or round limit came first"
        )
    if found.disturbed and found.thread is not None:
        texts.append(
            f"the ratio is {found.ratio:.3f} by the clock and {found.thread.estimate:.3f} in processor time of the one "
            "thread that did the work: something else was running meanwhile. Measure again on a quieter machine"
        )
    return tuple(texts)


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
