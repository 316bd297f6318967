"""What a comparison of two running models found: raw times, the ratio with its interval, and where it was taken."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from channelcut.core.errors import UserError

IN_FILE = "in the file"  # where suppression is
FORMAT = "channelcut-measurement-1"

# Wall time and processor time of one thread's work differ by this much of the ratio without anybody else's doing.
_ALIKE = 0.01


@dataclass(frozen=True)
class Latency:
    """The raw times of one callable, in milliseconds a call, in the order in which they were taken.

    `items_per_call` (the batch size) turns the median into a throughput. `thread_ms`: the processor time that the
    calling thread spent in each sample, where it does all the work; else empty.
    """

    name: str
    samples_ms: tuple[float, ...]
    items_per_call: int = 1
    thread_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples_ms or not all(math.isfinite(t) and t > 0 for t in self.samples_ms):
            raise ValueError(f"latency {self.name!r} needs at least one sample, and every sample finite and above 0 ms")

    @property
    def median_ms(self) -> float:
        """The median, in milliseconds."""
        return statistics.median(self.samples_ms)

    @property
    def mean_ms(self) -> float:
        """The mean, in milliseconds."""
        return statistics.fmean(self.samples_ms)

    @property
    def p50_ms(self) -> float:
        """The 50th percentile."""
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        """The 90th percentile."""
        return self.percentile_ms(90)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile."""
        return self.percentile_ms(95)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile."""
        return self.percentile_ms(99)

    @property
    def cv(self) -> float:
        """Coefficient of variation: sample standard deviation / mean; 0 for a single sample."""
        return statistics.stdev(self.samples_ms) / self.mean_ms if len(self.samples_ms) > 1 else 0.0

    @property
    def throughput(self) -> float:
        """Items a second at the median latency."""
        return 1000.0 * self.items_per_call / self.median_ms

    def percentile_ms(self, percent: float) -> float:
        """Return the percentile, interpolated linearly between the two nearest samples."""
        ordered = sorted(self.samples_ms)
        place = (len(ordered) - 1) * percent / 100
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """Two models timed in turns; `ratio` is candidate / baseline of the medians (below 1: the candidate is faster).

    `ratio_low` and `ratio_high` bound the 95 % bootstrap interval of that ratio. `details`: JSON values beside the
    times, such as file sizes, peak memory and the stages' times. `thread`: the same ratio in processor time of the
    calling thread, where that does all the work; else None.
    """

    baseline: Latency
    candidate: Latency
    ratio: float
    ratio_low: float
    ratio_high: float
    environment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    thread: Ratio | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio_low <= self.ratio_high or not self.ratio > 0:
            raise ValueError(f"not an interval of a ratio: {self.ratio_low} to {self.ratio_high} around {self.ratio}")

    @property
    def speedup(self) -> float:
        """How many times faster the candidate is: baseline / candidate of the medians."""
        return 1 / self.ratio

    @property
    def speedup_low(self) -> float:
        """The least speed-up that the interval allows."""
        return 1 / self.ratio_high

    @property
    def speedup_high(self) -> float:
        """The greatest speed-up that the interval allows."""
        return 1 / self.ratio_low

    @property
    def faster(self) -> bool:
        """Whether the candidate is faster by more than the noise: the whole interval lies below 1."""
        return self.ratio_high < 1 and not self.disturbed

    @property
    def slower(self) -> bool:
        """Whether the candidate is slower by more than the noise: the whole interval lies above 1."""
        return self.ratio_low > 1 and not self.disturbed

    @property
    def disturbed(self) -> bool:
        """Whether wall time and the thread's processor time disagree by more than their intervals.

        Then something else ran while one side waited, which no interval of wall time covers, and nothing is faster.
        """
        if self.thread is None:
            return False
        halves = (self.ratio_high - self.ratio_low + self.thread.high - self.thread.low) / 2
        return abs(self.ratio - self.thread.estimate) > halves + _ALIKE * self.ratio

    def named(self, baseline: str, candidate: str) -> Measurement:
        """The same, with its sides called what they are."""
        one, other = replace(self.baseline, name=baseline), replace(self.candidate, name=candidate)
        return replace(self, baseline=one, candidate=other)

    def to_dict(self) -> dict[str, Any]:
        """Return the measurement as plain JSON values, raw times included."""
        return {
            "format": FORMAT,
            "baseline": _latency_to_dict(self.baseline),
            "candidate": _latency_to_dict(self.candidate),
            "ratio": self.ratio,
            "ratio_low": self.ratio_low,
            "ratio_high": self.ratio_high,
            "thread": None if self.thread is None else vars(self.thread),
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Return the measurement that `to_dict` wrote; raises `UserError` for anything else."""
        if data.get("format") != FORMAT:
            raise UserError(
                f"This is not a measurement that this version can read: its format is {data.get('format')!r}, "
                f"expected {FORMAT!r}. Measure again with the installed version."
            )
        try:
            return cls(
                baseline=_latency_from_dict(data["baseline"]),
                candidate=_latency_from_dict(data["candidate"]),
                ratio=float(data["ratio"]),
                ratio_low=float(data["ratio_low"]),
                ratio_high=float(data["ratio_high"]),
                environment=dict(data["environment"]),
                warnings=tuple(str(w) for w in data["warnings"]),
                details=dict(data["details"]),
                thread=None if data["thread"] is None else Ratio(**{k: float(v) for k, v in data["thread"].items()}),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise UserError(
                f"The measurement file is damaged ({type(problem).__name__}: {problem}). Expected the fields that "
                "Measurement.to_dict() writes; measure again."
            ) from problem


def suppression_words(sides: Mapping[str, str]) -> str:
    """What was timed of it, such as `timed on neither side (none needed)`; empty where nothing is known.

    Args:
        sides: what `bench.suppression` says of the `baseline` and the `candidate`.
    """
    one, other = sides.get("baseline", ""), sides.get("candidate", "")
    if not one and not other:
        return ""
    if (one == IN_FILE) != (other == IN_FILE):
        return f"timed on one side only: {one or 'none'} in the baseline, {other or 'none'} in the candidate"
    if one == IN_FILE:
        return "timed on both sides"
    why = one if one == other else f"{one or 'none'} in the baseline, {other or 'none'} in the candidate"
    return f"timed on neither side ({why})"


def _latency_to_dict(latency: Latency) -> dict[str, Any]:
    samples = list(latency.samples_ms)
    return {
        "name": latency.name,
        "items_per_call": latency.items_per_call,
        "statistics": {
            "median_ms": latency.median_ms,
            "mean_ms": latency.mean_ms,
            "p50_ms": latency.p50_ms,
            "p90_ms": latency.p90_ms,
            "p95_ms": latency.p95_ms,
            "p99_ms": latency.p99_ms,
            "cv": latency.cv,
            "throughput_per_s": latency.throughput,
        },
        "samples_ms": samples,
        "thread_ms": list(latency.thread_ms),
    }


def _latency_from_dict(data: Mapping[str, Any]) -> Latency:
    samples: Sequence[Any] = data["samples_ms"]
    thread: Sequence[Any] = data["thread_ms"]
    return Latency(
        str(data["name"]),
        tuple(float(t) for t in samples),
        int(data["items_per_call"]),
        tuple(float(t) for t in thread),
    )
