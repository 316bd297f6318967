"""The bootstrap interval of a ratio of medians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

_CHUNK = 4_000_000  # elements gathered at once: bounds the memory at 32 MB a side


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that covers the truth in `confidence` of all repetitions."""

    estimate: float
    low: float
    high: float
    confidence: float

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2

    def contains(self, value: float) -> bool:
        """Say whether the value lies in the interval, its ends included."""
        return self.low <= value <= self.high


def ratio_of_medians(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of median(candidate) / median(baseline), by resampling whole rounds with replacement.

    `baseline` and `candidate`: shape (rounds, samples a round) or (rounds,). A round's samples of both sides are drawn
    together, so that a slow spell of the machine, which hits both sides of its rounds, does not widen the ratio.
    Percentile method of Efron, "Bootstrap methods: another look at the jackknife", 1979. Raises `ValueError` for
    samples that are empty, not finite, not above zero, or unequal in rounds.
    """
    base, cand = _rounds(baseline), _rounds(candidate)
    if len(base) != len(cand):
        raise ValueError(f"paired resampling needs equal rounds, got {len(base)} and {len(cand)}")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"need 0 < confidence < 1 and resamples >= 1, got {confidence} and {resamples}")
    generator = np.random.default_rng(seed)
    rounds = len(base)
    ratios: list[Samples] = []
    step = max(1, _CHUNK // max(base.size, cand.size))
    for start in range(0, resamples, step):
        drawn = generator.integers(0, rounds, (min(step, resamples - start), rounds))
        ratios.append(_medians(cand, drawn) / _medians(base, drawn))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(float(np.median(cand) / np.median(base)), float(low), float(high), confidence)


def _medians(samples: Samples, drawn: npt.NDArray[np.int64]) -> Samples:
    medians: Samples = np.median(samples[drawn].reshape(len(drawn), -1), axis=1)
    return medians


def _rounds(samples: npt.ArrayLike) -> Samples:
    array = np.asarray(samples, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not array.size:
        raise ValueError(f"samples must have shape (rounds,) or (rounds, samples a round), got {array.shape}")
    if not np.isfinite(array).all() or (array <= 0).any():
        raise ValueError("every sample must be finite and above 0")
    return array
