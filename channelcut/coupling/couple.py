"""`couple`: run the rules over the graphs of one model, and settle what they say into groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from channelcut.core.graph import Graph
from channelcut.core.groups import Groups
from channelcut.coupling.collect import CoupleOptions, collect
from channelcut.coupling.probe import Forward, Probe, StaleTrace
from channelcut.coupling.replay import replay
from channelcut.coupling.result import groups_of
from channelcut.coupling.settle import Settling, equations

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
    settling = Settling.of(collect(graphs, options))
    if forward is None:
        return groups_of(settling.settle(CHEAP))
    try:
        return groups_of(settling.settle((*CHEAP, Probe(settling, forward, again, CHEAP))))
    except StaleTrace as stale:
        return couple([stale.graph, *graphs[1:]], options, forward)
