"""The reference: the original with the slots of every removed channel zeroed.

Ops that mix channels without weights (a norm over them, their mean) are computed over the kept channels alone, because
zeros would count there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.graph import Node, Ref, refs
from channelcut.core.groups import Groups, Role
from channelcut.core.schema import bound_arguments
from channelcut.ops.along import axes_of
from channelcut.ops.host import State
from channelcut.ops.norm import normalised_weights
from channelcut.ops.registry import op
from channelcut.proof.compare import kept_elements
from channelcut.proof.execute import Derived


def masked_state(groups: Groups, kept: NDArray[np.bool_], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Zero every removed position of every slot.

    Positions by which channels are picked stay. A variance stays, and the direction of a normalised weight along the
    axis of its lengths, or they would become infinite; the zeros of the scale beside them are enough. Along other axes
    zeros count for nothing in a length.
    """
    directions = {found.direction: found.axis for found in normalised_weights(groups.graph)}
    picks = {index.tensor for index in groups.indices}
    removed: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    for slot in groups.slots:
        positions = torch.from_numpy(np.flatnonzero(~kept[slot.channels]))
        divides = slot.tensor.endswith("running_var") or directions.get(slot.tensor) == slot.axis
        if len(positions) and not divides and slot.tensor not in picks:
            removed[slot.tensor].append((slot.axis, positions))

    def masked(name: str, tensor: Tensor) -> Tensor:
        found = tensor.clone() if name in removed else tensor
        for axis, positions in removed.get(name, ()):
            found.index_fill_(axis, positions.to(tensor.device), 0.0)
        return found

    return Derived(state, masked)


def kept_lines(groups: Groups, kept: NDArray[np.bool_], state: State) -> dict[int, Tensor]:
    """What is kept along every axis of a computed weight that loses something, shape (extent,)."""
    masks = {(slot.tensor, slot.axis): kept[slot.channels] for slot in groups.slots}
    found = {}
    for axis, factors in enumerate(state.factors):
        line = np.ones(1, dtype=bool)
        for factor in factors:
            part = np.ones(factor.extent, dtype=bool)
            for stored in factor.stored:
                part &= masks.get((stored.name, stored.axis), True)
            line = np.logical_and.outer(line, part).reshape(-1)
        if not line.all():
            found[axis] = torch.from_numpy(line)
    return found


def of_kept_weights(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], lines: Mapping[int, Tensor]) -> Any:
    """Statistics of a computed weight, over what is kept of it along the axes that they are over."""
    assert node.target is not None
    value, rows = args[0], op(node.name).statistics_of_weights == "rows"
    given = bound_arguments(node.target, args, kwargs)
    over = [axis for axis in range(value.dim()) if axis != 1] if rows else axes_of(given.get("dim"), value.dim())
    chosen = {axis: line.nonzero().flatten().to(value.device) for axis, line in lines.items() if axis in over}
    small = value
    for axis, positions in chosen.items():
        small = small.index_select(axis, positions)
    result = node.target(small, *args[1:], **kwargs)
    if not rows:
        return result
    first = result[0] if isinstance(result, tuple) else result
    for axis, positions in chosen.items():
        shape = [value.shape[axis] if a == axis else extent for a, extent in enumerate(first.shape)]
        first = first.new_zeros(shape).index_copy(axis, positions, first)
    return (first, *result[1:]) if isinstance(result, tuple) else first


class UnequalGroups(Exception):
    """The groups of a group norm keep different numbers of channels, so that the cut one has other groups."""


def _norm_groups(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    given = bound_arguments(node.target, args, kwargs)
    return int(given.get("num_groups") or given["group"])


def _equal_groups(groups: int, mask: Tensor) -> bool:
    line = mask.movedim(1, 0).reshape(mask.shape[1], -1)[:, 0]
    counts = line.view(groups, -1).sum(1)
    return bool((counts == counts[0]).all())


def mix_kept(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor) -> Any:
    """Compute a mixing op over the kept channels of its input; removed ones come out as zero."""
    axis = op(node.name).over_kept
    assert node.target is not None
    if axis == 1:
        groups = _norm_groups(node, args, kwargs)
        if groups == mask.shape[1]:  # every channel by itself: zeros come out as zeros, and change nothing else
            return node.target(*args, **kwargs)
        if not _equal_groups(groups, mask):
            raise UnequalGroups
    if axis == "channels":
        return _reduced(node, args, kwargs, mask)
    assert isinstance(axis, int)
    # A layer norm's axis is the first that it names: any others have one element.
    sizes = list(bound_arguments(node.target, args, kwargs)["normalized_shape"]) if axis == -1 else []
    axis = (-len(sizes) if sizes else axis) % mask.dim()
    line = mask
    for other in range(mask.dim()):
        if other != axis:
            line = line.narrow(other, 0, 1)
    positions = line.reshape(-1).nonzero().flatten().to(args[0].device)
    value = args[0].index_select(axis, positions)
    # The extent itself is an argument of a layer norm, as a list, and of the dispatcher's group norm, as its fifth.
    counts = {4: len(positions)} if node.name == "aten.native_group_norm" else {}
    rest = [
        a.index_select(0, positions)
        if isinstance(a, Tensor)
        else [len(positions), *sizes[1:]]
        if isinstance(a, (list, tuple)) and list(a) == sizes
        else counts.get(i, a)
        for i, a in enumerate(args[1:], 1)
    ]
    result = node.target(value, *rest, **kwargs)
    first = result[0] if isinstance(result, tuple) else result
    full = torch.zeros_like(args[0]).index_copy(axis, positions, first)
    return (full, *result[1:]) if isinstance(result, tuple) else full


def over_kept(
    node: Node, arguments: tuple[tuple[Any, ...], dict[str, Any]], masks: Mapping[int, Tensor | None]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer or a product with zeros for what is removed, whatever the ops before made of that."""
    args, kwargs = arguments

    def kept(argument: Any, value: Any) -> Any:
        mask = masks.get(argument.index) if isinstance(argument, Ref) else None
        return value if mask is None else torch.where(mask.to(value.device), value, torch.zeros_like(value))

    return tuple(kept(argument, value) for argument, value in zip(node.args, args, strict=True)), kwargs


def _reduced(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor) -> Any:
    """A sum, mean, length or maximum over the kept elements of all axes along which channels lie."""
    varying = [axis for axis in range(mask.dim()) if not bool((mask == mask.narrow(axis, 0, 1)).all())]
    assert node.target is not None
    if len(varying) == 1:
        value = kept_elements(args[0], mask.any([a for a in range(mask.dim()) if a != varying[0]], keepdim=True))
        return node.target(value, *args[1:], **kwargs)
    mask = mask.to(args[0].device)
    last = {"max": -torch.inf, "min": torch.inf}.get(node.name[-3:], 0.0)  # what counts for nothing
    result = node.target(torch.where(mask, args[0], torch.full_like(args[0], last)), *args[1:], **kwargs)
    return result / mask.double().mean() if op(node.name).averages else result


def _names(groups: Groups, ref: Ref) -> set[str]:
    """The parameters and buffers that a value is, or is computed of alone."""
    found = groups.ids_of(ref.index)
    return set(found.names) if isinstance(found, State) else set()


def producers(groups: Groups) -> set[int]:
    """The nodes that read a parameter or buffer with a slot: what they give is compared as well.

    A wrong bias can hide behind a dead rectifier from every later layer; it cannot hide from its own layer's output.
    """
    slotted = {slot.tensor for slot in groups.slots}
    return {
        node.index
        for node in groups.graph.calls
        if isinstance(groups.channels_of(node.index), Tensor)
        and any(_names(groups, ref) & slotted for ref in refs(node.args))
    }


def consumers(groups: Groups) -> dict[int, list[Ref]]:
    """For every node that consumes channels, the values it consumes: inputs of layers and of matrix products."""
    roles = {slot.tensor for slot in groups.slots if slot.role in (Role.IN, Role.DEPTHWISE, Role.GROUP)}
    nodes = groups.graph.nodes
    found: dict[int, list[Ref]] = {}
    for node in groups.graph.calls:
        plain: Sequence[Ref] = [a for a in node.args if isinstance(a, Ref)]
        values = [r for r in plain if nodes[r.index].kind == "call" and isinstance(groups.channels_of(r.index), Tensor)]
        weights = [r for r in refs(node.args) if _names(groups, r) & roles]
        if weights and values:
            found[node.index] = values[:1]
        elif op(node.name).contracts:
            found[node.index] = values
    return found
