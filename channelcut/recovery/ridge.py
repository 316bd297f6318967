"""Ridge regression towards old weights, from normal equations in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""What may be added to the diagonal, in units of its mean: the one with the least error on held-back rows is taken."""


@dataclass
class Equations:
    """Weighted sums over rows of inputs x, with a 1 behind them, and targets y.

    xx: (groups, D + 1, D + 1), xy: (groups, D + 1, O), yy: (groups, O).
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int, device: torch.device) -> Equations:
        """No rows."""
        shapes = (groups, inputs + 1, inputs + 1), (groups, inputs + 1, outputs), (groups, outputs)
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Add rows: x (rows, groups, D), y (rows, groups, O), weights (rows,)."""
        root = weights.double().sqrt()[:, None, None]
        x = torch.cat([x.double() * root, root.expand(-1, x.shape[1], 1)], 2).transpose(0, 1)
        y = (y.double() * root).transpose(0, 1)
        self.xx += x.transpose(1, 2) @ x
        self.xy += x.transpose(1, 2) @ y
        self.yy += y.square().sum(1)

    def __add__(self, other: Equations) -> Equations:
        return Equations(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    def errors(self, found: Tensor) -> Tensor:
        """Squared errors of weights (groups, D + 1, O) over the rows, (groups, O)."""
        return (found * (self.xx @ found - 2 * self.xy)).sum(1).add(self.yy).clamp_min(0)

    def constant(self) -> bool:
        """Whether no input varies over the rows."""
        count = self.xx[:, -1, -1].clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        squares = self.xx.diagonal(dim1=1, dim2=2)[:, :-1]
        varied = squares - self.xx[:, -1, :-1].square() / count
        return not bool((varied > 1e-10 * squares).any())

    def spread(self) -> Tensor:
        """Squared deviations of the targets from their mean, (groups, O)."""
        count = self.xx[:, -1, -1].clamp_min(torch.finfo(torch.float64).tiny)
        return (self.yy - self.xy[:, -1].square() / count[:, None]).clamp_min(0)

    def solve(self, old: Tensor, ridge: float, *, shifts: bool) -> Tensor | None:
        """Weights (groups, D + 1, O) that fit best, held towards `old` by `ridge` in units of the mean diagonal.

        A shift is not held. None where the equations are singular.
        """
        xx, xy = self.xx[:, :-1, :-1], self.xy[:, :-1]
        found = old.clone()
        if shifts:
            count, mean = self.xx[:, -1:, -1:], self.xx[:, -1:, :-1] / self.xx[:, -1:, -1:]
            target = self.xy[:, -1:] / count
            xx, xy = xx - count * mean.transpose(1, 2) * mean, xy - count * mean.transpose(1, 2) * target
        left = xy - xx @ old[:, :-1]
        if not shifts:
            left = left - self.xx[:, :-1, -1:] * old[:, -1:]
        scale = xx.diagonal(dim1=1, dim2=2).mean(1)
        most = float(scale.max())
        if not most > 0:
            return None
        scale = scale.clamp_min(1e-9 * most)  # of a group that reads a constant nothing changes
        held = xx + ridge * scale[:, None, None] * torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device)
        factor, failed = torch.linalg.cholesky_ex(held)
        if bool(failed.any()):
            return None
        found[:, :-1] += torch.cholesky_solve(left, factor)
        if shifts:
            found[:, -1:] = target - mean @ found[:, :-1]
        return found if bool(torch.isfinite(found).all()) else None
