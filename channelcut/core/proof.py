"""A proof: how far the cut model is from the masked original, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from channelcut.core.checked import Wrong, count, expect, field, items
from channelcut.core.errors import UserError


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
    """The verdict on a cut: with the removed channels masked, original and cut model compute the same in float64.

    Args:
        passed: whether everything holds.
        max_relative_error: the largest difference over all consumers of cut channels and all outputs, in units of the
            deviation of each of these values.
        tolerance: what `max_relative_error` may be.
        signal: how far the masked outputs moved from the uncut ones, in units of their deviation: a proof without a
            signal proves nothing.
        checks: every comparison; of a proof that was read from a file the comparisons are only counted.
        training: how the training step ran.
        weights: on which weights it was compared: the model's own, drawn ones as well where these tell too little.
        seconds: how long it took.
        failures: in words, what does not hold.
        groups: a check of every group by itself, where that was asked for.
        note: what the reader must know, such as that the weights have been restored since.
        check_count: how many comparisons there were.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> proof = cc.prune(model, torch.rand(1, 3, 16, 16), keep=0.5).proof
        >>> proof.passed, proof.max_relative_error < proof.tolerance, proof.failures
        (True, True, ())
    """

    passed: bool
    max_relative_error: float
    tolerance: float
    signal: float
    checks: tuple[Check, ...]
    training: str
    weights: str
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    groups: tuple[GroupCheck, ...] = ()
    note: str = ""
    check_count: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The proof as JSON-ready data, with the number of checks instead of every one."""
        data = asdict(self)
        data["checks"] = data.pop("check_count") or len(self.checks)
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Proof:
        """Read what `to_dict` wrote.

        Raises:
            UserError: a part is missing, or is not what it has to be; the text says which.
        """
        try:
            kinds = {"passed": bool} | dict.fromkeys(("training", "weights", "note"), str)
            given = {name: field(data, name, kind, f"of type {kind.__name__}") for name, kind in kinds.items()}
            numbers = ("max_relative_error", "tolerance", "signal", "seconds")
            given |= {name: field(data, name, (int, float), "a number") for name in numbers}
            given["failures"] = tuple(
                expect(text, str, at, "text") for text, at in items(data.get("failures"), "failures")
            )
            given["groups"] = tuple(_group(group, at) for group, at in items(data.get("groups"), "groups"))
            return Proof(**given, checks=(), check_count=count(data, "checks"))
        except Wrong as wrong:
            raise UserError(f"The proof is damaged: {wrong}. Expected what Proof.to_dict() gives.") from wrong


def _group(data: Any, place: str) -> GroupCheck:
    expect(data, Mapping, place, "an object")
    return GroupCheck(
        field(data, "group", str, "text", place),
        field(data, "passed", bool, "true or false", place),
        field(data, "max_relative_error", (int, float), "a number", place),
        field(data, "failure", str, "text", place),
    )
