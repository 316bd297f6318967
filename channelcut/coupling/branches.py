"""Residual branches that could go as wholes: modules that return what they are given and add something to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from channelcut.core.graph import Graph, Node, Ref, specs
from channelcut.core.schema import bound_arguments
from channelcut.ops.registry import op

_AFTER = 2  # steps behind the last sum that may stand between it and the module's result, such as an activation


@dataclass(frozen=True)
class Block:
    """A module that could be an identity.

    module: its path.
    sums: the nodes that add a branch to what the module was given, in order, and which of their two operands that is.
    nodes: all that it computes.
    """

    module: str
    sums: tuple[tuple[int, int], ...]
    nodes: frozenset[int]


def residual_blocks(graph: Graph) -> tuple[Block, ...]:
    """The modules of a forward that would return what they are given if their branches were zero, innermost ones.

    A module runs once, takes one tensor, and returns one of the same shape: what it was given, one or more branches
    added to it in a row, and perhaps an activation. Whether that leaves what was given as it is (a ReLU does where that
    is above zero) is for the proof to say.
    """
    nodes = [node for node in graph.nodes if node.kind == "call"]
    readers: dict[int, list[int]] = {}
    for node in graph.nodes:
        for ref in node.inputs:
            readers.setdefault(ref.index, []).append(node.index)
    found = {}
    for path in dict.fromkeys(path for node in nodes for path in _above(node.site.module)):
        block = _block(graph, [n for n in nodes if f"{n.site.module}.".startswith(f"{path}.")], path, readers)
        if block is not None:
            found[path] = block
    held = {path: {index for index, _ in block.sums} for path, block in found.items()}
    return tuple(
        block
        for path, block in found.items()
        if not any(
            other != path and (mine < held[path] or (mine == held[path] and other.startswith(f"{path}.")))
            for other, mine in held.items()
        )
    )


def _above(path: str) -> list[str]:
    """A module and all that it is in, the outermost first."""
    parts = path.split(".") if path else []
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _block(graph: Graph, inside: Sequence[Node], path: str, readers: dict[int, list[int]]) -> Block | None:
    own, between = {node.index for node in inside}, list[Node]()
    for node in graph.nodes[inside[0].index : inside[-1].index]:
        if node.kind == "call" and node.index not in own:
            # A module that many share, such as an activation, has the name of its first place.
            read = {r.index for r in node.inputs if _computed(graph.nodes[r.index])}
            (own.add(node.index) if read and read <= own else between.append(node))
    inside = [graph.nodes[index] for index in sorted(own)]
    given = {r.index for n in inside for r in n.inputs if r.index not in own and _computed(graph.nodes[r.index])}
    returned = [index for index in own if any(reader not in own for reader in readers.get(index, ()))]
    if between or len(given) != 1 or len(returned) != 1:
        return None
    (start,), (end,) = given, returned
    shapes = [specs(graph.nodes[index].value) for index in (start, end)]
    if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
        return None
    current, sums = start, list[tuple[int, int]]()
    while (step := _sum(graph, own, readers, current)) is not None:
        sums.append(step)
        current = step[0]
    after = [node for node in inside if node.index > current]
    unary = all(len([r for r in node.inputs if _computed(graph.nodes[r.index])]) == 1 for node in after)
    if not sums or len(after) > _AFTER or not unary:
        return None
    return Block(path, tuple(sums), frozenset(own)) if end == (after[-1].index if after else current) else None


def _computed(node: Node) -> bool:
    return node.kind in ("call", "input")


def _sum(graph: Graph, own: set[int], readers: dict[int, list[int]], current: int) -> tuple[int, int] | None:
    """The last reader of a value that adds something of the module to it, and which operand that is."""
    for index in sorted((i for i in readers.get(current, ()) if i in own), reverse=True):
        node = graph.nodes[index]
        if not op(node.name).sums or node.target is None:
            continue
        arguments = bound_arguments(node.target, node.args, dict(node.kwargs))
        operands = [value for value in node.args[:2] if isinstance(value, Ref)]
        if len(operands) != 2 or arguments.get("alpha", 1) != 1:
            continue
        other = [place for place, ref in enumerate(operands) if ref.index != current]
        if len(other) == 1 and operands[other[0]].index in own:
            return index, other[0]
    return None
