"""Proofs of parts of a plan: every group cut alone, and which groups are to blame for a proof that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from channelcut.core.groups import Group, Groups
from channelcut.core.proof import GroupCheck, Proof

MOST = 3  # groups that an error names

Prove = Callable[[NDArray[np.bool_]], Proof]
"""Cuts a model to the channels that are marked, shape (channel_count,), and proves that cut."""


def prove_each(
    groups: Groups, kept: NDArray[np.bool_], prove: Prove, on_progress: Callable[[int, int], None]
) -> tuple[GroupCheck, ...]:
    """A check of every group that loses channels, each cut alone; `on_progress` is called with (done, total)."""
    cuts = _cut_groups(groups, kept)
    checks = []
    for done, group in enumerate(cuts, 1):
        proof = prove(_only([group], kept))
        checks.append(GroupCheck(group.name, proof.passed, proof.max_relative_error, "; ".join(proof.failures)))
        on_progress(done, len(cuts))
    return tuple(checks)


def guilty(groups: Groups, kept: NDArray[np.bool_], prove: Prove) -> list[str]:
    """The names of the first few groups that cannot be proven alone, found by halving."""
    found: list[str] = []
    pending = [_cut_groups(groups, kept)]
    while pending and len(found) < MOST:
        part = pending.pop(0)
        if not part or prove(_only(part, kept)).passed:
            continue
        if len(part) == 1:
            found.append(part[0].name)
        else:
            half = len(part) // 2
            pending += [part[:half], part[half:]]
    return found


def _only(part: Sequence[Group], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep all channels but those that these groups lose."""
    chosen = np.ones_like(kept)
    for group in part:
        chosen[group.channels] = kept[group.channels]
    return chosen


def _cut_groups(groups: Groups, kept: NDArray[np.bool_]) -> list[Group]:
    return [group for group in groups.groups if not kept[group.channels].all()]
