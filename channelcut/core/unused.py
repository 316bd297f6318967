"""Parts of a model that its forward never reads, such as a head that another method trains."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from channelcut.core.graph import Graph


def unused_parameters(model: nn.Module, graphs: Sequence[Graph]) -> tuple[str, ...]:
    """The parameters that no graph reads; none where values decide how a forward goes on, because then nobody knows."""
    if any(graph.unsettled for graph in graphs):
        return ()
    read = {g.nodes[ref.index].name for g in graphs for node in g.nodes for ref in node.inputs}
    return tuple(name for name, _ in model.named_parameters() if name not in read)


def unused_modules(model: nn.Module, unused: Collection[str]) -> tuple[str, ...]:
    """The outermost modules that have parameters, all of them unused."""
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path == above or path.startswith(f"{above}.") for above in found)
        names = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if path and not inside and names and all(name in unused for name in names):
            found.append(path)
    return tuple(found)


def unused_words(unused: Sequence[str]) -> str:
    """Where unused parameters are, in a few words: their modules, or the first parts of these."""
    parts = list(dict.fromkeys(name.rpartition(".")[0] or name for name in unused))
    tops = parts if len(parts) < 4 else list(dict.fromkeys(part.partition(".")[0] for part in parts))
    return ", ".join(tops[:4]) + (f" and {len(tops) - 4} more" if len(tops) > 4 else "")


def sizes(model: nn.Module, paths: Sequence[str], apart: Collection[str] = ()) -> tuple[int, int]:
    """How many elements the parameters of a model have, and those of some of its modules; those `apart` do not."""
    counted = {name: p.numel() for name, p in model.named_parameters() if name not in apart}
    inside = (count for name, count in counted.items() if any(name.startswith(f"{path}.") for path in paths))
    return sum(counted.values()), sum(inside)
