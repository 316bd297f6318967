"""`couple`: run the rules over the graphs of one model, and settle what they say into groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from channelcut.core.graph import Graph
from channelcut.core.groups import Groups, Role
from channelcut.coupling.collect import collect
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
    if forward is None:
        return groups_of(settling.without_held(settling.settle(CHEAP)))
    try:
        return groups_of(settling.without_held(settling.settle((*CHEAP, Probe(settling, forward, again, CHEAP)))))
    except StaleTrace as stale:
        return couple([stale.graph, *graphs[1:]], options, forward)


def _freest(graphs: Sequence[Graph], options: CoupleOptions) -> Settling:
    """The facts to settle: grouped convolutions of which no whole group could go lose channels of every group instead,
    if that leaves more channels free.
    """
    settling = Settling.of(collect(graphs, options))
    grouped = [slot for slot in settling.facts.slots.values() if slot.role is Role.GROUP]
    if options.grouped != "auto" or not grouped:
        return settling
    draft = settling.without_held(settling.settle(CHEAP))
    stuck = [s.tensor for s in grouped if draft.partition.pinned[draft.partition.channels(s.ids)].all()]
    if not stuck:
        return settling
    other = Settling.of(collect(graphs, replace(options, offsets=frozenset(stuck))))
    return other if free_channels(other.settle(CHEAP)) > free_channels(draft) else settling
