"""`couple`: run the rules over the graphs of one model, and solve what they say for groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from channelcut.core.graph import Graph, Node, Site
from channelcut.core.groups import Groups
from channelcut.core.trees import leaves
from channelcut.coupling.collect import Coupler
from channelcut.coupling.interpret import resolve, run_rules
from channelcut.coupling.partition import Partitioner
from channelcut.coupling.sizes import Run
from channelcut.coupling.solve import solve

STORED_REMEDY = "compute the width from a tensor's shape in the forward instead of a stored number"


@dataclass(frozen=True)
class CoupleOptions:
    """How channels are coupled.

    grouped: a grouped convolution loses whole `groups`, or the same number of channels (`offsets`) of every group.
    free_outputs: patterns of paths in the forward's result (`*.feats.*`) whose channels may go, because whoever reads
        these tensors does not count them.
    """

    grouped: Literal["groups", "offsets"] = "groups"
    free_outputs: tuple[str, ...] = ()


class Coupling:
    """What the rules say about a model, to be solved with one set of pins after another.

    Args:
        graphs: traces of the same model (evaluation, training); the first is the one that costs and values refer to.
        options: see `CoupleOptions`.
    """

    def __init__(self, graphs: Sequence[Graph], options: CoupleOptions | None = None) -> None:
        self.options = options or CoupleOptions()
        coupler = Coupler(policy=self.options.grouped)
        self.runs = [Run(graph, run_rules(coupler, graph, self.options.free_outputs)) for graph in graphs]
        for (tensor, _), slot in list(coupler.slots.items()):
            if tensor in coupler.fixed_states:
                reason = "a parameter that is also used as a fixed tensor"
                _pin_slot(coupler, slot.ids, coupler.fixed_states[tensor], reason)
        self.partitioner = Partitioner(coupler)

    def groups(self, pins: Mapping[str, str] | None = None) -> Groups:
        """The groups when `pins` stay as well: source lines (`file.py:line`) or names of tensors, with the reason."""
        partitioner = self.partitioner.copy()
        if pins:
            _pin_lines(partitioner.coupler, self.runs, pins)
            _pin_tensors(partitioner.coupler, pins)
        return replace(solve(partitioner, self.runs), free_outputs=self.options.free_outputs)


def couple(
    graphs: Sequence[Graph], extra_pins: Mapping[str, str] | None = None, options: CoupleOptions | None = None
) -> Groups:
    """Find the channels of a model and what keeps them.

    Args:
        graphs: see `Coupling`.
        extra_pins: what stays as well, see `Coupling.groups`.
        options: see `CoupleOptions`.

    Returns:
        The groups, in the order of their first slot, and every pin with its reason and place.
    """
    return Coupling(graphs, options).groups(extra_pins)


def _pin_slot(coupler: Coupler, ids: torch.Tensor, site: Site, reason: str) -> None:
    coupler.node = Node(0, "call", site.op, None, site)
    coupler.pin(ids, reason)


def _pin_tensors(coupler: Coupler, pins: Mapping[str, str]) -> None:
    for (tensor, _), slot in coupler.slots.items():
        if tensor in pins:
            _pin_slot(coupler, slot.ids, Site("parameter", tensor.rpartition(".")[0]), pins[tensor])


def _pin_lines(coupler: Coupler, runs: Sequence[Run], pins: Mapping[str, str]) -> None:
    """Pin what goes into and comes out of the ops of some source lines."""
    for run in runs:
        for node in run.graph.calls:
            if node.site.source not in pins or node.name == "getitem":  # its op is pinned already
                continue
            coupler.node = node
            for leaf in leaves((resolve(node.args, run.values), run.values[node.index])):
                if isinstance(leaf, torch.Tensor):
                    coupler.pin(leaf, pins[node.site.source], STORED_REMEDY)
