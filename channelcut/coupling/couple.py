"""`couple`: run the rules over the graphs of one model, and settle what they say into groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from channelcut.core.graph import Graph
from channelcut.core.groups import Groups, Role
from channelcut.coupling.blocks import Blocks
from channelcut.coupling.collect import collect
from channelcut.coupling.counts import UnequalLanes
from channelcut.coupling.facts import CoupleOptions
from channelcut.coupling.probe import Forward, Probe, StaleTrace
from channelcut.coupling.replay import replay
from channelcut.coupling.result import groups_of
from channelcut.coupling.settle import Settling, equations, free_channels

CHEAP = (equations, replay)


def couple(
    graphs: Sequence[Graph],
    options: CoupleOptions | None = None,
    forward: Forward | None = None,
    again: Callable[[], Graph] | None = None,
) -> Groups:
    """Find the channels of a model and what keeps them.

    Args:
        graphs: traces of the same model (evaluation, training); the first is the one that costs and values refer to.
        options: see `CoupleOptions`.
        forward: runs a cut copy of the model and says where that fails; without it nothing is probed.
        again: traces the uncut model once more. A library may keep for all its models what the first trace has
            computed, such as position embeddings of a size; a forward that runs other ops may only have found that.

    Returns:
        The groups, in the order of their first slot, and every pin with its reason and place.

    Raises:
        RuleError: a rule of an op is wrong.
    """
    settling = _freest(graphs, options or CoupleOptions())
    cheap = (*CHEAP, UnequalLanes())
    checks = (*cheap, Blocks(settling, cheap))
    if forward is None:
        return groups_of(settling.without_held(settling.settle(checks)))
    try:
        return groups_of(settling.without_held(settling.settle((*checks, Probe(settling, forward, again, checks)))))
    except StaleTrace as stale:
        return couple([stale.graph, *graphs[1:]], options, forward)


def _freest(graphs: Sequence[Graph], options: CoupleOptions) -> Settling:
    """The facts to settle, in the reading that leaves most channels free.

    Grouped convolutions of which no whole group could go may lose channels of every group instead, and tensors of
    positions whose channels all stay may lose positions by themselves.
    """
    settling = Settling.of(collect(graphs, options))
    facts = settling.facts
    grouped = [slot for slot in facts.slots.values() if slot.role is Role.GROUP and options.grouped == "auto"]
    picking = [slot for slot in facts.slots.values() if slot.tensor in facts.indices]
    if not grouped and not picking:
        return settling
    draft = settling.without_held(settling.settle(CHEAP))
    offsets, alone = (
        frozenset(s.tensor for s in slots if draft.partition.pinned[draft.partition.channels(s.ids)].all())
        for slots in (grouped, picking)
    )
    best, free = settling, free_channels(draft)
    readings = {(offsets, frozenset[str]()), (frozenset[str](), alone), (offsets, alone)}
    for chosen, others in sorted(readings, key=lambda sets: tuple(map(len, sets))):
        if chosen or others:
            other = Settling.of(collect(graphs, replace(options, offsets=chosen, alone=others)))
            found = free_channels(other.settle(CHEAP))
            best, free = (other, found) if found > free else (best, free)
    return best
