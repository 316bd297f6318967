"""Accuracy before and after: what the function `evaluate` of a user's file says of a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from channelcut.adapters import Adapter
from channelcut.adapters.user_file import UserFile
from channelcut.api import apply
from channelcut.core.progress import Stopwatch
from channelcut.core.result import PruneResult

Scores = dict[str, float]


def evaluated(owner: Adapter, model: nn.Module, watch: Stopwatch) -> Scores | None:
    """The scores of a network by name; None where nothing evaluates it."""
    if not isinstance(owner, UserFile) or "evaluate" not in owner.functions:
        return None
    with watch.stage("evaluate"):
        return owner.evaluate(model)


def accuracy(
    owner: Adapter, model: nn.Module, original: Scores | None, result: PruneResult, watch: Stopwatch
) -> dict[str, Any] | None:
    """The scores of the original, of the cut as it was made, and of what restoring made of it, for the report.

    Args:
        owner: what evaluates.
        model: the original.
        original: its scores.
        result: the cut; where nothing was restored, it is evaluated once.
        watch: counts the seconds.
    """
    if original is None:
        return None
    restored = result.recalibration is not None or result.rescaling is not None
    cut = apply(model, result.step).eval() if restored else result.model
    return {
        "original": original,
        "cut": evaluated(owner, cut, watch),
        "restored": evaluated(owner, result.model, watch) if restored else None,
    }
