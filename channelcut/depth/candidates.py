"""Which residual blocks may go as wholes in a program of widths, and what is lost with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from channelcut.allocation import Budget, Candidate, select_layers
from channelcut.choosing import Ranked
from channelcut.core.groups import Groups
from channelcut.core.progress import Stopwatch
from channelcut.cost.bilinear import full_widths
from channelcut.coupling.branches import Block
from channelcut.depth.dropping import inside, moved_without

_PART = 0.5  # of a block's operations that have to go with its own groups


def candidates(
    scored: Ranked, found: Mapping[str, Block], budget: Budget, batches: Sequence[Any], watch: Stopwatch
) -> list[Candidate]:
    """The blocks that may go, with their losses in the unit of the losses of channels.

    What tells blocks apart is how far the outputs move without each alone, D² in deviations of the outputs. How much
    that is beside a channel is for the criterion to say: without all channels of a group in it a block adds nothing,
    so that the loss of the cheapest such group is that of the block as well. The losses are D² · κ, where κ is the
    median of these over D².

    Args:
        scored: the network with its scores and costs.
        found: its blocks, by the paths of their modules.
        budget: a limit.
        batches: inputs that outputs are compared on.
        watch: takes the time.
    """
    own = {path: inner for path, block in found.items() if (inner := _own(scored, block))}
    own = {path: inner for path, inner in own.items() if not any(o != path and inside(o, [path]) for o in own)}
    if not own:
        return []
    those = [found[path] for path in own]
    emptied, apart = scored.emptied(budget), dict[str, float]()
    with watch.stage("score blocks"):
        for done, (path, moved) in enumerate(moved_without(scored.model, scored.groups, those, batches), 1):
            watch.progress("score blocks", done, len(own))
            if np.isfinite(moved):
                apart[path] = moved**2
    ratios = [min(emptied[g] for g in own[path]) / square for path, square in apart.items() if square > 0]
    scale = float(np.median(ratios)) if ratios else 0.0
    return [Candidate(path, own[path], scale * square) for path, square in apart.items()]


def excluded_in(scored: Ranked, block: str) -> list[str]:
    """The weights in a block whose widths `exclude` holds."""
    selected = [select_layers(scored.model, scored.groups, entry, "exclude") for entry in scored.held]
    names = {scored.groups.slots[index].tensor for selection in selected for index in selection.slots}
    return sorted(name for name in names if inside(name, (block,)))


def _own(scored: Ranked, block: Block) -> tuple[int, ...]:
    """The groups whose channels are in a block alone; none where it may not go, or would leave most of its cost."""
    groups = scored.groups
    if excluded_in(scored, block.module):
        return ()
    owner = groups.group_of()
    owners: dict[bool, set[int]] = {True: set(), False: set()}
    for slot in groups.slots:
        owners[inside(slot.tensor, (block.module,))].update(owner[slot.channels].tolist())
    own = tuple(sorted(owners[True] - owners[False] - {-1}))
    if not own or (scored.shares is not None and bool((scored.shares[list(own)] > 0).any())):
        return ()
    return own if _saves(groups, block.module, own, scored) else ()


def _saves(groups: Groups, module: str, own: Sequence[int], scored: Ranked) -> bool:
    macs, full = scored.costs["macs"], full_widths(groups.groups)
    without = full.copy()
    without[list(own)] = 0
    whole = sum(work.macs for work in groups.work if inside(work.site.module, (module,)))
    return bool(macs(full) - macs(without) >= _PART * max(whole, 1.0))
