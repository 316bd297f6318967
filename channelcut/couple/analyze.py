"""`couple`: run the rules over the graphs of one model and collect what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any, Literal

import torch

from channelcut.core.graph import Graph, Node, Ref, Site, refs
from channelcut.core.groups import Groups
from channelcut.core.trees import leaves, mapped_only
from channelcut.couple import ids as I
from channelcut.couple import rules as _rules  # noqa: F401  importing fills the table
from channelcut.couple.coupler import Coupler, State
from channelcut.couple.registry import RULES, Call, activation, fixed_like, named_arguments
from channelcut.couple.sizes import Run
from channelcut.couple.solve import solve
from channelcut.trace.settled import UNSETTLED

Adapt = Callable[[Node, dict[str, Any]], tuple[Node, dict[str, Any]]]
DECIDES = "read where values decide how many values there are"
OUTPUT_REMEDY = "outputs keep their shape: this is what the network is for"


@dataclass(frozen=True)
class CoupleOptions:
    """How channels are coupled.

    grouped: a grouped convolution loses whole `groups`, or the same number of channels (`offsets`) of every group.
    free_outputs: patterns of paths in the forward's result (`*.feats.*`) whose channels may go, because whoever reads
        these tensors does not count them.
    """

    grouped: Literal["groups", "offsets"] = "groups"
    free_outputs: tuple[str, ...] = ()


def couple(
    graphs: Sequence[Graph], extra_pins: Mapping[str, str] | None = None, options: CoupleOptions | None = None
) -> Groups:
    """Find the channels of a model and what keeps them.

    Args:
        graphs: traces of the same model (evaluation, training); the first is the one that costs and values refer to.
        extra_pins: source lines (`file.py:line`) or names of tensors whose channels must stay, with the reason; the
            probe fills it.
        options: see `CoupleOptions`.

    Returns:
        The groups, in the order of their first slot, and every pin with its reason and place.
    """
    options = options or CoupleOptions()
    pins = extra_pins or {}
    coupler = Coupler(policy=options.grouped)
    runs = [Run(graph, run_rules(coupler, graph, pins, free_outputs=options.free_outputs)) for graph in graphs]
    for (tensor, _), slot in list(coupler.slots.items()):
        if tensor in coupler.fixed_states:
            _pin_slot(
                coupler, slot.ids, coupler.fixed_states[tensor], "a parameter that is also used as a fixed tensor"
            )
        if tensor in pins:
            _pin_slot(coupler, slot.ids, Site("parameter", tensor.rpartition(".")[0]), pins[tensor])
    return replace(solve(coupler, runs, run_rules), free_outputs=options.free_outputs)


def _pin_slot(coupler: Coupler, ids: torch.Tensor, site: Site, reason: str) -> None:
    coupler.node = Node(0, "call", site.op, None, site)
    coupler.pin(ids, reason)


def run_rules(
    coupler: Coupler,
    graph: Graph,
    extra_pins: Mapping[str, str],
    adapt: Adapt | None = None,
    free_outputs: Sequence[str] = (),
) -> dict[int, Any]:
    """Execute a graph on ids; returns the ids of every node's value.

    `adapt(node, arguments)` may change what a rule gets to see; a replay puts the sizes of the cut network there.
    """
    env: dict[int, Any] = {}
    coupler.graph = graph
    for node in graph.nodes:
        coupler.node = node
        if node.kind == "state":
            seen = node if adapt is None else adapt(node, {})[0]
            env[node.index] = State(node.name, seen.value.shape)
        elif node.kind in ("input", "constant"):
            env[node.index] = I.zeros(node.value.shape)
        elif node.kind == "output":
            _outputs(coupler, graph, node, env, free_outputs)
        else:
            env[node.index] = _call(coupler, node, env, adapt)
            if node.site.source in extra_pins and node.name != "getitem":  # its op is pinned already
                _pin_everything(coupler, node, env, extra_pins[node.site.source])
    return env


def _outputs(coupler: Coupler, graph: Graph, node: Node, env: Mapping[int, Any], free_outputs: Sequence[str]) -> None:
    """Pin what the network returns, but for outputs whose channels nobody counts."""
    found = refs(node.args)
    names = graph.outputs or ("",) * len(found)
    for ref, name in zip(found, names, strict=True):
        if not any(fnmatch(name, pattern) for pattern in free_outputs):
            coupler.node = graph.nodes[ref.index]
            reason = DECIDES if name == UNSETTLED else "network output"
            coupler.pin(activation(coupler, env[ref.index]), reason, "" if name == UNSETTLED else OUTPUT_REMEDY)


def _call(coupler: Coupler, node: Node, env: Mapping[int, Any], adapt: Adapt | None) -> Any:
    args, kwargs = _resolve(node.args, env), _resolve(dict(node.kwargs), env)
    function = RULES.get(node.name)
    if function is None:
        for leaf in leaves((args, kwargs)):
            if isinstance(leaf, State):
                coupler.fix(leaf)
            elif isinstance(leaf, torch.Tensor):
                coupler.pin(leaf, "an op without a rule", f"register a rule for {node.name} (see docs/rules.md)")
        return fixed_like(node.value)
    arguments = named_arguments(node, args, kwargs)
    if adapt is not None:
        node, arguments = adapt(node, arguments)
    return function(coupler, Call(node, arguments, coupler))


def _pin_everything(coupler: Coupler, node: Node, env: Mapping[int, Any], reason: str) -> None:
    """Pin what goes into and comes out of a node."""
    remedy = "compute the width from a tensor's shape in the forward instead of a stored number"
    for leaf in leaves((_resolve(node.args, env), env[node.index])):
        if isinstance(leaf, torch.Tensor):
            coupler.pin(leaf, reason, remedy)


def _resolve(tree: Any, env: Mapping[int, Any]) -> Any:
    """Replace every `Ref` by its value."""
    return mapped_only(Ref, lambda ref: env[ref.index], tree)
