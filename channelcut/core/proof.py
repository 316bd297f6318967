"""A proof: how far the cut model is from the masked original, place by place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One comparison of a proof: where, and the largest difference in units of that tensor's own deviation."""

    place: str
    relative_error: float


@dataclass(frozen=True)
class GroupCheck:
    """One group, cut alone: its name, whether that was proven, the largest relative error, and what failed."""

    group: str
    passed: bool
    max_relative_error: float
    failure: str = ""


@dataclass(frozen=True)
class Proof:
    """The verdict of `verify`: removed equals masked, in float64.

    `max_relative_error` is over all consumers of cut channels and all outputs; `signal` is how far the masked outputs
    moved from the uncut ones (a proof without a signal proves nothing); `training` says how the training step ran.
    `groups` holds a check of every group by itself, where that was asked for.
    """

    passed: bool
    max_relative_error: float
    tolerance: float
    signal: float
    checks: tuple[Check, ...]
    training: str
    weights: str
    seconds: float = 0.0
    failures: tuple[str, ...] = field(default=())
    groups: tuple[GroupCheck, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The proof as JSON-ready data, without the list of every check."""
        data = asdict(self)
        data["checks"] = len(self.checks)
        return data
