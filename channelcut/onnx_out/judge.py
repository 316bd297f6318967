"""One output of a file against the module's: equal, equal up to rounding, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from channelcut.onnx_out.comparison import clashes, differing, relative_error
from channelcut.onnx_out.inputs import Trial

Array = npt.NDArray[Any]

# An ONNX model may differ from its module by this many times what rounding alone makes: two sums in another order.
ROUNDINGS = 4


@dataclass(frozen=True)
class Verdict:
    """`reason`: why the output is refused; `excuse`: what of it is above the tolerance and is rounding. Else empty.

    `limit`: what the error was allowed to be: the tolerance, or four times what rounding alone makes.
    """

    error: float
    limit: float
    reason: str = ""
    excuse: str = ""


@dataclass
class Judge:
    """Judges the outputs of one trial. `rounded`: gives the module's outputs rounded otherwise, asked where needed."""

    trial: Trial
    tolerance: float
    rounded: Callable[[], list[list[Tensor]]]
    _runs: list[list[Tensor]] | None = field(default=None, init=False, repr=False)

    def __call__(self, number: int, name: str, wanted: Tensor, got: Array) -> Verdict:
        """Judge the output of that number and name."""
        if tuple(wanted.shape) != tuple(got.shape):
            return self._refused(f"output {name!r} has the shape {got.shape} instead of {tuple(wanted.shape)}")
        if not wanted.is_floating_point():
            share = differing(wanted, got)
            rounding = self._largest(number, wanted, lambda other: differing(other, wanted.cpu().numpy()), share)
            if share > ROUNDINGS * rounding:
                return self._refused(
                    f"output {name!r} differs at {share:.2%} of its places, {rounding:.2%} by rounding alone"
                )
            return Verdict(share, ROUNDINGS * rounding)
        left_out, wrong = self._left_out(number, wanted, got)
        if wrong:
            return self._refused(f"output {name!r} {wrong}")
        error = relative_error(wanted, got, left_out)
        if error <= self.tolerance:
            return Verdict(error, self.tolerance)
        rounding = self._largest(number, wanted, lambda other: _distance(wanted, other, left_out), error)
        if error > ROUNDINGS * rounding:
            return self._refused(
                f"output {name!r} differs by {error:.2e} relative, more than {self.tolerance:.0e} and more than "
                f"{ROUNDINGS} times what rounding alone makes of it in float32 ({rounding:.1e})",
                error,
            )
        excuse = f"{name} at {error:.0e} on {self.trial.name}, where rounding makes {rounding:.0e}"
        return Verdict(error, ROUNDINGS * rounding, excuse=excuse)

    def _refused(self, words: str, error: float = float("inf")) -> Verdict:
        return Verdict(error, self.tolerance, reason=f"{words}, on {self.trial.name}")

    def _left_out(self, number: int, wanted: Tensor, got: Array) -> tuple[Array | None, str]:
        """Places that do not count, and in words that one side alone is not finite at others.

        Where the module, rounded otherwise, is not finite either, the file is as right as the module.
        """
        b, a = wanted.detach().cpu().double().numpy(), np.asarray(got, np.float64)
        clash = clashes(b, a)
        if not clash.any():
            return None, ""
        excused = ~np.isfinite(b) if self.trial.extreme else np.zeros(b.shape, bool)
        for other in self._others(number, wanted):
            excused |= clashes(b, other.detach().cpu().double().numpy())
        wrong = clash & ~excused
        alone = int((wrong & np.isfinite(b)).sum())
        if alone:
            return excused, f"is not finite at {alone} of {got.size} places where the module is finite"
        if wrong.any():
            return excused, f"is another value at {wrong.sum()} of {got.size} places where the module is not finite"
        return excused, ""

    def _largest(self, number: int, wanted: Tensor, measure: Callable[[Tensor], float], needed: float) -> float:
        """The largest distance by rounding alone; 0 where none was `needed`."""
        return max(map(measure, self._others(number, wanted)), default=0.0) if needed else 0.0

    def _others(self, number: int, wanted: Tensor) -> list[Tensor]:
        if self._runs is None:
            self._runs = self.rounded()
        return [run[number] for run in self._runs if len(run) > number and run[number].shape == wanted.shape]


def _distance(wanted: Tensor, other: Tensor, left_out: Array | None) -> float:
    values = other.detach().cpu().numpy()
    wild = ~np.isfinite(values) | ~np.isfinite(wanted.detach().cpu().numpy())
    return relative_error(wanted, values, wild if left_out is None else wild | left_out)
