"""Execute a graph on ids: the rule of every op in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import torch

from channelcut.core.graph import Graph, Node, Ref, refs
from channelcut.core.trees import leaves, mapped_only
from channelcut.coupling.collect import Coupler, State
from channelcut.ops import catalogue as _rules  # noqa: F401  importing fills the table
from channelcut.ops import ids as I
from channelcut.ops.registry import RULES, Call, activation, fixed_like, named_arguments
from channelcut.tracing.settled import UNSETTLED

Adapt = Callable[[Node, dict[str, Any]], tuple[Node, dict[str, Any]]]
DECIDES = "read where values decide how many values there are"
OUTPUT_REMEDY = "outputs keep their shape: this is what the network is for"


def run_rules(coupler: Coupler, graph: Graph, free_outputs: Sequence[str] = ()) -> dict[int, Any]:
    """Execute a graph on ids; returns the ids of every node's value."""
    env: dict[int, Any] = {}
    coupler.graph = graph
    for node in graph.nodes:
        coupler.node = node
        if node.kind == "output":
            _outputs(coupler, graph, node, env, free_outputs)
        elif node.kind == "call":
            env[node.index] = run_rule(coupler, node, env)
        else:
            env[node.index] = beginning(node)
    return env


def beginning(node: Node) -> State | torch.Tensor:
    """What stands for a parameter, buffer, input or constant."""
    return State(node.name, node.value.shape) if node.kind == "state" else I.zeros(node.value.shape)


def run_rule(coupler: Coupler, node: Node, env: Mapping[int, Any], adapt: Adapt | None = None) -> Any:
    """The ids of the value of a call; `adapt(node, arguments)` may change what the rule gets to see."""
    args, kwargs = resolve(node.args, env), resolve(dict(node.kwargs), env)
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


def resolve(tree: Any, env: Mapping[int, Any]) -> Any:
    """Replace every `Ref` by its value."""
    return mapped_only(Ref, lambda ref: env[ref.index], tree)


def _outputs(coupler: Coupler, graph: Graph, node: Node, env: Mapping[int, Any], free_outputs: Sequence[str]) -> None:
    """Pin what the network returns, but for outputs whose channels nobody counts."""
    found = refs(node.args)
    names = graph.outputs or ("",) * len(found)
    for ref, name in zip(found, names, strict=True):
        if not any(fnmatch(name, pattern) for pattern in free_outputs):
            coupler.node = graph.nodes[ref.index]
            reason = DECIDES if name == UNSETTLED else "network output"
            coupler.pin(activation(coupler, env[ref.index]), reason, "" if name == UNSETTLED else OUTPUT_REMEDY)
