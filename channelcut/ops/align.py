"""Which step of the original is which step of the cut model.

Both run the same ops, but a copy that only changes the layout depends on strides, and those on widths: such a step may
stand on one side alone.
"""

from __future__ import annotations

from collections.abc import Collection

from channelcut.core.graph import Graph, Node
from channelcut.ops.registry import op

Pair = tuple[Node | None, Node | None]


class Misaligned(Exception):
    """The two graphs run different ops; holds the first pair."""

    def __init__(self, before: Node | None, after: Node | None) -> None:
        super().__init__()
        self.before, self.after = before, after


def align(before: Graph, after: Graph, gone: Collection[int] = (), come: Collection[int] = ()) -> list[Pair]:
    """Pairs of the same step, with None where a layout copy has no partner; raises `Misaligned`.

    A parameter that nobody reads may have been dropped. One that one of the two reads is a step of both: where values
    decide, a norm of no boxes reads other parameters than a norm of some. `gone`: steps of the original alone;
    `come`: those of the cut model alone.
    """
    pairs: list[Pair] = []
    i = j = 0
    lone = {ref.index for index in gone for ref in before.nodes[index].inputs}
    lone -= {ref.index for node in before.nodes if node.index not in gone for ref in node.inputs}
    read = {node.name for graph in (before, after) for node in graph.alive if node.kind == "state"}
    read -= {before.nodes[index].name for index in lone}
    first, second = (
        [node for node in graph.nodes if node.kind != "state" or node.name in read] for graph in (before, after)
    )
    while i < len(first) or j < len(second):
        old = first[i] if i < len(first) else None
        new = second[j] if j < len(second) else None
        if old is not None and old.index in gone:
            pairs.append((old, None))
            i += 1
        elif new is not None and new.index in come:
            pairs.append((None, new))
            j += 1
        elif old is not None and new is not None and _same(old, new):
            pairs.append((old, new))
            i, j = i + 1, j + 1
        elif old is not None and op(old.name).layout == "copy":
            pairs.append((old, None))
            i += 1
        elif new is not None and op(new.name).layout == "copy":
            pairs.append((None, new))
            j += 1
        else:
            raise Misaligned(old, new)
    return pairs


def _same(old: Node, new: Node) -> bool:
    if old.kind != new.kind:
        return False
    return old.name == new.name or (op(old.name).layout == op(new.name).layout == "reshape")
