"""`couple`: run the rules over the graphs of one model and collect what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from channelcut.core.graph import Graph, Node, Ref, Site, refs
from channelcut.core.groups import Groups
from channelcut.couple import ids as I
from channelcut.couple import rules as _rules  # noqa: F401  importing fills the table
from channelcut.couple.coupler import Coupler, State
from channelcut.couple.registry import RULES, Call, activation, fixed_like, named_arguments
from channelcut.couple.solve import solve

OUTPUT_REMEDY = "outputs keep their shape: this is what the network is for"


def couple(graphs: Sequence[Graph], extra_pins: Mapping[str, str] | None = None) -> Groups:
    """Find the channels of a model and what keeps them.

    Args:
        graphs: traces of the same model (evaluation, training); the first is the one that costs and values refer to.
        extra_pins: source lines (`file.py:line`) or names of tensors whose channels must stay, with the reason; the
            probe fills it.

    Returns:
        The groups, in the order of their first slot, and every pin with its reason and place.
    """
    coupler = Coupler()
    values: Mapping[int, object] = {}
    for position, graph in enumerate(graphs):
        found = run_rules(coupler, graph, extra_pins or {})
        if position == 0:
            values = found
    for (tensor, _), slot in coupler.slots.items():
        if tensor in coupler.fixed_states:
            _pin_slot(
                coupler, slot.ids, coupler.fixed_states[tensor], "a parameter that is also used as a fixed tensor"
            )
        if tensor in (extra_pins or {}):
            _pin_slot(coupler, slot.ids, Site("parameter", tensor.rpartition(".")[0]), (extra_pins or {})[tensor])
    return solve(coupler, graphs[0], values)


def _pin_slot(coupler: Coupler, ids: torch.Tensor, site: Site, reason: str) -> None:
    coupler.node = Node(0, "call", site.op, None, site)
    coupler.pin(ids, reason)


def run_rules(coupler: Coupler, graph: Graph, extra_pins: Mapping[str, str]) -> dict[int, object]:
    """Execute a graph on ids; returns the ids of every node's value."""
    env: dict[int, Any] = {}
    for node in graph.nodes:
        coupler.node = node
        if node.kind == "state":
            env[node.index] = State(node.name, node.value.shape)
        elif node.kind in ("input", "constant"):
            env[node.index] = I.zeros(node.value.shape)
        elif node.kind == "output":
            for ref in refs(node.args):
                coupler.node = graph.nodes[ref.index]
                coupler.pin(activation(coupler, env[ref.index]), "network output", OUTPUT_REMEDY)
        else:
            env[node.index] = _call(coupler, node, env)
            if node.site.source in extra_pins and node.name != "getitem":  # its op is pinned already
                _pin_everything(coupler, node, env, extra_pins[node.site.source])
    return env


def _call(coupler: Coupler, node: Node, env: Mapping[int, Any]) -> Any:
    args, kwargs = _resolve(node.args, env), _resolve(dict(node.kwargs), env)
    function = RULES.get(node.name)
    if function is None:
        for leaf in pytree.tree_leaves((args, kwargs), is_leaf=_is_value):
            if isinstance(leaf, State):
                coupler.fix(leaf)
            elif isinstance(leaf, torch.Tensor):
                coupler.pin(leaf, "an op without a rule", f"register a rule for {node.name} (see CONTRIBUTING.md)")
        return fixed_like(node.value)
    return function(coupler, Call(node, named_arguments(node, args, kwargs), coupler))


def _pin_everything(coupler: Coupler, node: Node, env: Mapping[int, Any], reason: str) -> None:
    """Pin what goes into and comes out of a node."""
    remedy = "compute the width from a tensor's shape in the forward instead of a stored number"
    for leaf in pytree.tree_leaves((_resolve(node.args, env), env[node.index]), is_leaf=_is_value):
        if isinstance(leaf, torch.Tensor):
            coupler.pin(leaf, reason, remedy)


def _is_value(leaf: Any) -> bool:
    return isinstance(leaf, (State, torch.Tensor))


def _resolve(tree: Any, env: Mapping[int, Any]) -> Any:
    """Replace every `Ref` by its value."""
    return pytree.tree_map(lambda leaf: env[leaf.index] if isinstance(leaf, Ref) else leaf, tree)
