"""Proofs of parts of a plan: every group cut alone, and which groups are to blame for a proof that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from channelcut.core.groups import Group, Groups
from channelcut.core.proof import GroupCheck, Proof
from channelcut.cost import BilinearCost
from channelcut.cutting.apply import cut
from channelcut.cutting.planning import make_plan
from channelcut.proof.prover import verify

MOST = 3  # groups that an error names


@dataclass(frozen=True)
class GroupCuts:
    """A plan's cut, taken apart into its groups."""

    model: nn.Module
    groups: Groups
    kept: NDArray[np.bool_]
    costs: Mapping[str, BilinearCost]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def prove(self, part: Sequence[Group]) -> Proof:
        """The proof of a plan that cuts these groups as the whole plan does, and no other."""
        kept = np.ones_like(self.kept)
        for group in part:
            kept[group.channels] = self.kept[group.channels]
        plan = make_plan(self.model, self.groups, kept, self.costs)
        smaller = cut(self.model, plan)
        return verify(self.model, smaller, plan, self.groups, kept, self.args, self.kwargs, training=False)

    def prove_each(self, on_progress: Callable[[int, int], None]) -> tuple[GroupCheck, ...]:
        """A check of every group that the plan cuts."""
        cuts = self._cut_groups()
        checks = []
        for done, group in enumerate(cuts, 1):
            proof = self.prove([group])
            checks.append(GroupCheck(group.name, proof.passed, proof.max_relative_error, "; ".join(proof.failures)))
            on_progress(done, len(cuts))
        return tuple(checks)

    def guilty(self) -> list[str]:
        """The names of the first few groups that cannot be proven alone, found by halving."""
        found: list[str] = []
        pending = [self._cut_groups()]
        while pending and len(found) < MOST:
            part = pending.pop(0)
            if not part or self.prove(part).passed:
                continue
            if len(part) == 1:
                found.append(part[0].name)
            else:
                half = len(part) // 2
                pending += [part[:half], part[half:]]
        return found

    def _cut_groups(self) -> list[Group]:
        return [group for group in self.groups.groups if not self.kept[group.channels].all()]
