"""What of a traced forward is deployed: only that counts as cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from channelcut.core.deployed import Deploy
from channelcut.core.graph import Graph, is_named, named_outputs
from channelcut.core.groups import Groups
from channelcut.ops.zeros import needed, without_zeros


def deployed_costs(model: nn.Module, groups: Groups, deploy: Deploy, modules: Sequence[str]) -> Groups:
    """The groups with the work of the deployed form alone, and the parameters that it lacks.

    Args:
        model: the trainable network.
        groups: its coupling.
        deploy: which outputs are read.
        modules: the paths of what deployment leaves out.
    """
    if not modules and not deploy.outputs:
        return replace(groups, deploy=deploy)  # a network of one head may still be deployed with suppression
    gone = {name for name, _ in model.named_parameters() if any(name.startswith(f"{path}.") for path in modules)}
    read = _needed(groups.graph, deploy.outputs)
    nodes = groups.graph.nodes
    reading = {ref.index for index in read for ref in nodes[index].inputs}
    unread = {node.name for node in nodes if node.kind == "state" and node.index not in reading}
    parameters = {name for name, _ in model.named_parameters()}
    gone |= unread & parameters
    work = tuple(
        w for w in groups.work if w.node in read and not any(nodes[r.index].name in gone for r in nodes[w.node].inputs)
    )
    return replace(groups, work=work, undeployed=tuple(sorted(gone)), deploy=deploy)


def deployed_nodes(groups: Groups) -> set[int]:
    """The calls that the deployed form runs: those that its outputs need, but for what reads parameters it lacks."""
    nodes, gone = groups.graph.nodes, set[int]()
    for node in nodes:
        reads = [nodes[ref.index] for ref in node.inputs]
        values = [other.index for other in reads if other.kind in ("input", "call")]
        if any(other.name in groups.undeployed for other in reads) or (values and gone.issuperset(values)):
            gone.add(node.index)
    zeros = without_zeros(groups.graph)
    read = _needed(groups.graph, groups.deploy.outputs, zeros) - gone
    return {index for index in read if nodes[index].kind == "call" and index not in zeros}


def _needed(graph: Graph, patterns: Sequence[str], zeros: Mapping[int, int | None] | None = None) -> set[int]:
    """The nodes that the outputs so named are computed from; those of all outputs without a pattern."""
    named = {index for path, index in named_outputs(graph) if not patterns or is_named(path, patterns)}
    return needed(graph, named, zeros or {})
