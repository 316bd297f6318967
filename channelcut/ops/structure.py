"""Is the forward of a cut model the one that was predicted? The same ops, numbers and sizes, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.footprint import Footprint
from channelcut.core.graph import Graph, Node, Site, specs
from channelcut.core.groups import Groups
from channelcut.core.ids import compact
from channelcut.core.trees import leaves
from channelcut.ops.align import Misaligned, align
from channelcut.ops.registry import op


@dataclass(frozen=True)
class Difference:
    """Where a cut forward first is another one than predicted, and what is different; `steps`: it runs other ops."""

    text: str
    site: Site
    steps: bool = False

    def __str__(self) -> str:
        return self.text


def retraced_structure(
    groups: Groups, kept: NDArray[np.bool_], traced: Callable[[bool], Graph]
) -> tuple[Graph, Difference | None]:
    """The graph of a cut model and where it differs from the prediction; `traced(warm)` makes it.

    A detector may keep what it computes from a shape, such as anchors, until the shape changes. Where the original was
    traced with that in store, the cut model runs as it does from its second forward on: `warm`.
    """
    graph = traced(False)
    difference = structure_difference(groups, kept, graph)
    if difference is not None and difference.steps:
        again = traced(True)
        if structure_difference(groups, kept, again) is None:
            return again, None
    return graph, difference


def structure_difference(groups: Groups, kept: NDArray[np.bool_], graph: Graph) -> Difference | None:
    """Compare the graph of a cut model with what the channels marked in `kept` leave of the original's."""
    try:
        pairs = align(groups.graph, graph)
    except Misaligned as error:
        return _misaligned(error)
    used = {ref.index for node in groups.graph.nodes for ref in node.inputs}
    for old, new in pairs:
        if old is None or new is None or old.kind != "call" or old.index not in used:
            continue
        place = Site(old.site.op, old.site.module, new.site.source or old.site.source)
        if _numbers(old) != _numbers(new):
            text = f"{old.site} computes with the number {_numbers(new)} where the original has {_numbers(old)}"
            return Difference(text, place)
        if len(specs(old.value)) != len(specs(new.value)):
            return Difference(f"{old.site} gives {len(specs(new.value))} values for {len(specs(old.value))}", place)
        if len(specs(old.value)) == 1:
            expected, actual = predicted_shape(groups, kept, old), specs(new.value)[0].shape
            if expected is not None and expected != actual:
                return Difference(f"{old.site} gives {actual} where the plan predicts {expected}", place)
    return None


def predicted_shape(groups: Groups, kept: NDArray[np.bool_], node: Node) -> tuple[int, ...] | None:
    """The shape of a node's value after a cut; None where it is no single tensor, or an empty one without channels."""
    if (arrived := groups.arrival(kept).values.get(node.index)) is not None:
        return tuple(arrived.shape)
    ids = groups.channels_of(node.index)
    if not isinstance(ids, Tensor) or not ids.numel():
        return None
    return Footprint.of(compact(ids).numpy(), ids.shape).kept_shape(kept)


def _misaligned(error: Misaligned) -> Difference:
    before, after = error.before, error.after
    site = before.site if before is not None else after.site if after is not None else Site()
    return Difference(
        f"the cut model runs {after.name if after else 'nothing more'} where the original runs "
        f"{before.name if before else 'nothing more'}" + (f" ({before.site})" if before is not None else ""),
        site,
        steps=True,
    )


def _numbers(node: Node) -> tuple[float, ...]:
    """The numbers that a node computes with; sizes may follow a width, these may not."""
    kinds = (float, int) if op(node.name).operands else (float,)
    found = leaves((node.args, dict(node.kwargs)))
    return tuple(float(leaf) for leaf in found if isinstance(leaf, kinds) and not isinstance(leaf, bool))
