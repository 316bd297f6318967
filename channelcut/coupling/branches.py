"""Modules that could go as wholes: they add something to what they are given, or return what is added to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from channelcut.core.graph import Graph, Node, specs
from channelcut.ops.registry import op
from channelcut.ops.writes import written
from channelcut.ops.zeros import added_to, keeps_zero

_AFTER = 2  # steps behind the last sum that may stand between it and the module's result, such as an activation
_BEFORE = 16  # steps, such as those of a norm, between what a branch is added to and what its module is given


@dataclass(frozen=True)
class Block:
    """A module that could go, with something of torch's own in its place.

    module: its path.
    sums: the nodes that add a branch to what the module was given, in order, and which of their two operands that is.
    nodes: all that it computes.
    kind: a `whole` block returns the sum, so that an identity could stand for it; a `branch` returns what is added, by
        whatever it is in, so that zeros could.
    """

    module: str
    sums: tuple[tuple[int, int], ...]
    nodes: frozenset[int]
    kind: Literal["whole", "branch"] = "whole"


def residual_blocks(graph: Graph, modules: Collection[str] | None = None) -> tuple[Block, ...]:
    """The modules of a forward that would return what they are given if their branches were zero, and such branches.

    Nothing outside a block reads its weights.

    A whole block runs once, takes one tensor, and returns one of the same shape: what it was given, one or more
    branches added to it in a row, and perhaps an activation. Whether that leaves what was given as it is (a ReLU does
    where that is above zero) is for the proof to say.

    A branch is a module with weights that runs once, takes one tensor, and returns one of the same shape and type,
    which goes into a sum alone: as it is, moved, or multiplied with weights. What it takes is the other operand of that
    sum, or what a norm or the like made of it, and it writes into nothing that it did not make.

    Of wholes in one another the innermost of those that add the same are listed, of branches the innermost, and of
    those that give the same sum its operand, that which computes most. A branch is listed where it has nothing in
    common with a whole block.

    Args:
        graph: the forward.
        modules: the paths of those that may be listed, where not all may.
    """
    nodes = [node for node in graph.nodes if node.kind == "call"]
    readers: dict[int, list[int]] = {}
    for node in graph.nodes:
        for ref in node.inputs:
            readers.setdefault(ref.index, []).append(node.index)
    wholes, branches = dict[str, Block](), dict[str, Block]()
    for path in dict.fromkeys(path for node in nodes for path in _above(node.site.module)):
        if modules is not None and path not in modules:
            continue
        part = _part(graph, [n for n in nodes if f"{n.site.module}.".startswith(f"{path}.")], readers)
        if part is None or _lends(graph, part, path, readers):
            continue
        if (block := _whole(graph, part, path, readers)) is not None:
            wholes[path] = block
        elif (block := _branch(graph, part, path, readers)) is not None:
            branches[path] = block
    held = {path: {index for index, _ in block.sums} for path, block in wholes.items()}
    found = [
        block
        for path, block in wholes.items()
        if not any(
            other != path and (mine < held[path] or (mine == held[path] and other.startswith(f"{path}.")))
            for other, mine in held.items()
        )
    ]
    return (*found, *_apart(branches.values(), found))


def _apart(branches: Iterable[Block], wholes: Sequence[Block]) -> list[Block]:
    """One branch a sum, the innermost ones, and none that has anything in common with a whole block."""
    largest: dict[tuple[tuple[int, int], ...], Block] = {}
    for block in branches:
        if not any(block.nodes & whole.nodes for whole in wholes):
            before = largest.get(block.sums)
            if before is None or len(block.nodes) >= len(before.nodes):  # a path comes after those that it is in
                largest[block.sums] = block
    return [b for b in largest.values() if not any(other.nodes < b.nodes for other in largest.values())]


def _above(path: str) -> list[str]:
    """A module and all that it is in, the outermost first."""
    parts = path.split(".") if path else []
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


@dataclass(frozen=True)
class _Part:
    """What a module computes, from one value to one value."""

    own: set[int]
    start: int
    end: int


def _part(graph: Graph, inside: Sequence[Node], readers: dict[int, list[int]]) -> _Part | None:
    own, between = {node.index for node in inside}, list[Node]()
    for node in graph.nodes[inside[0].index : inside[-1].index]:
        if node.kind == "call" and node.index not in own:
            # A module that many share, such as an activation, has the name of its first place.
            read = {r.index for r in node.inputs if _computed(graph.nodes[r.index])}
            (own.add(node.index) if read and read <= own else between.append(node))
    parts = [graph.nodes[index] for index in own]
    given = {r.index for n in parts for r in n.inputs if r.index not in own and _computed(graph.nodes[r.index])}
    returned = [index for index in own if any(reader not in own for reader in readers.get(index, ()))]
    if between or len(given) != 1 or len(returned) != 1:
        return None
    (start,), (end,) = given, returned
    shapes = [specs(graph.nodes[index].value) for index in (start, end)]
    return _Part(own, start, end) if len(shapes[0]) == 1 and shapes[0] == shapes[1] else None


def _lends(graph: Graph, part: _Part, path: str, readers: dict[int, list[int]]) -> bool:
    """Whether something outside a module reads its weights: without it they would have other names."""
    mine = [node.index for node in graph.nodes if node.kind == "state" and node.name.startswith(f"{path}.")]
    return any(reader not in part.own for index in mine for reader in readers.get(index, ()))


def _whole(graph: Graph, part: _Part, path: str, readers: dict[int, list[int]]) -> Block | None:
    current, sums = part.start, list[tuple[int, int]]()
    while (step := _sum(graph, part.own, readers, current)) is not None:
        sums.append(step)
        current = step[0]
    after = [graph.nodes[index] for index in sorted(part.own) if index > current]
    unary = all(len(node.inputs) == 1 for node in after)  # what has weights, such as a norm, changes what it is given
    if not sums or len(after) > _AFTER or not unary or part.end != (after[-1].index if after else current):
        return None
    return Block(path, tuple(sums), frozenset(part.own))


def _computed(node: Node) -> bool:
    return node.kind in ("call", "input")


def _sum(graph: Graph, own: set[int], readers: dict[int, list[int]], current: int) -> tuple[int, int] | None:
    """The last reader of a value that adds something of the module to it, and which operand that is."""
    for index in sorted((i for i in readers.get(current, ()) if i in own), reverse=True):
        found = added_to(graph.nodes[index], current)
        if found is not None and found[1] in own:
            return index, 1 - found[0]
    return None


def _branch(graph: Graph, part: _Part, path: str, readers: dict[int, list[int]]) -> Block | None:
    nodes = graph.nodes
    reads = {ref.index for index in part.own for ref in nodes[index].inputs if nodes[ref.index].kind == "state"}
    if not reads or any(written(nodes, nodes[index]) - part.own for index in part.own):
        return None
    spec, current = specs(nodes[part.start].value)[0], part.end
    while len(after := readers[current]) == 1 and (node := nodes[after[0]]).kind == "call":
        added = added_to(node, current)
        if added is not None:
            place, other = added
            fits = nodes[other].value == node.value and spec.dtype.is_floating_point
            alone = fits and node.index not in part.own and _made_of(graph, part.start, other)
            return Block(path, ((node.index, place),), frozenset(part.own), "branch") if alone else None
        if not keeps_zero(graph, node):
            return None
        current = node.index
    return None


def _made_of(graph: Graph, value: int, other: int) -> bool:
    """Whether a value is another one, or a few steps without sums over channels made it of that one alone."""
    left, seen = [value], set[int]()
    while left:
        index = left.pop()
        node, known = graph.nodes[index], op(graph.nodes[index].name)
        if index == other or index in seen or not _computed(node):
            continue
        if node.kind == "input" or known.convolves or known.affine or known.contracts or len(seen) == _BEFORE:
            return False
        seen.add(index)
        left += [ref.index for ref in node.inputs]
    return True
