"""What ops write into in place."""

from __future__ import annotations

from collections.abc import Sequence

from channelcut.core.graph import Node, Ref, refs
from channelcut.core.schema import written_arguments
from channelcut.ops.registry import op


def written(nodes: Sequence[Node], node: Node) -> set[int]:
    """What an op writes into in place, and what that is a view of: `found[i] = ...` fills `found`."""
    todo, found = _targets(node), set[int]()
    while todo:
        target = nodes[todo.pop().index]
        if target.index not in found:
            found.add(target.index)
            todo += _targets(target) or (refs(target.args)[:1] if _is_view(target) else [])
    return found


def _targets(node: Node) -> list[Ref]:
    """The arguments that an op writes into."""
    return refs(written_arguments(node.target, node.args, node.kwargs))


def _is_view(node: Node) -> bool:
    """Whether a value may share the memory of the first argument."""
    return node.name == "getitem" or op(node.name).layout == "reshape" or getattr(node.target, "is_view", False)
