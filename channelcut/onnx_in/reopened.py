"""Extents that a file fixes and the caller chooses otherwise: allowed where no operator holds them.

Most operators compute at any size. What is written for one size fails at another, or, worse, computes something: a
resize to a stored size, a slice with a stored end, a reshape whose free axis takes up what the size should, a pooling
window as large as its image. These are found by lowering the file at both sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from channelcut.core.errors import UserError
from channelcut.onnx_in.reader import OnnxGraph, tensor_of
from channelcut.onnx_in.reshape import blocks

Shape = tuple[int, ...]
Extents = Mapping[str, Shape]

# Where each of these has its stored sizes: an input's position, or the attribute of earlier opsets.
_STORED: dict[str, tuple[int, str]] = {"Resize": (3, "sizes"), "Slice": (2, "ends"), "Reshape": (1, "shape")}
_POOLING = ("AveragePool", "MaxPool", "LpPool")
_OPEN_END = 2**31 - 1  # what exporters write for an end that is left open; later ones write 2**63 - 1


def refuse_held(model: OnnxGraph, fixed: Extents, chosen: Extents) -> None:
    """Raise `UserError` at the first operator that holds an extent; `fixed`, `chosen`: shapes of values by name."""
    for index, node in enumerate(model.nodes):
        source = node.input[0] if node.input else ""
        made = node.output[0]
        if source not in fixed or fixed[source] == chosen.get(source) or made not in fixed or made not in chosen:
            continue
        holds = _HOLDS.get(node.op_type)
        if holds is not None and holds(model, node, (fixed[source], chosen[source]), (fixed[made], chosen[made])):
            label = repr(node.name) if node.name else f"number {index}"
            raise UserError(
                f"{model.path}: the operator {node.op_type} (node {label}, output {made}) is made for the size that "
                f"the file has: it gets {_text(chosen[source])} instead of {_text(fixed[source])}, and would compute "
                "something else. Use the file's own size, or export the model again at the size that you want."
            )


def _resize(model: OnnxGraph, node: Any, _: tuple[Shape, Shape], after: tuple[Shape, Shape]) -> bool:
    return _stored(model, node) is not None and after[0] == after[1]


def _slice(model: OnnxGraph, node: Any, before: tuple[Shape, Shape], _: tuple[Shape, Shape]) -> bool:
    ends, axes = _stored(model, node), _values(model, node, 3, "axes")
    for place, end in enumerate(ends or ()):
        axis = axes[place] if axes is not None and place < len(axes) else place
        if before[0][axis] != before[1][axis] and 0 < end < _OPEN_END and end >= before[0][axis] // 2:
            return True
    return False


def _reshape(model: OnnxGraph, node: Any, before: tuple[Shape, Shape], after: tuple[Shape, Shape]) -> bool:
    """Whether what a piece of the old axes becomes is of another size than the piece."""
    if _stored(model, node) is None:
        return False
    return any(prod(before[1][old]) != prod(after[1][new]) for old, new in _pieces(before[0], after[0]))


def _pieces(old: Shape, new: Shape) -> list[tuple[slice, slice]]:
    """Pairs of old and new axes that a reshape turns into each other."""
    found: list[tuple[slice, slice]] = []
    i = j = 0
    for block in blocks(old, new) or ():
        found += [(slice(i + k, i + k + 1), slice(j + k, j + k + 1)) for k in range(block.start - i)]
        j += block.start - i
        i = block.start + len(block.old)
        found.append((slice(block.start, i), slice(j, j + len(block.new))))
        j += len(block.new)
    return [*found, *((slice(i + k, i + k + 1), slice(j + k, j + k + 1)) for k in range(len(old) - i))]


def _pooling(_: OnnxGraph, node: Any, before: tuple[Shape, Shape], __: tuple[Shape, Shape]) -> bool:
    kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [])
    return bool(kernel) and any(k > 1 and k == extent for k, extent in zip(kernel, before[0][2:], strict=False))


_HOLDS: dict[str, Callable[[OnnxGraph, Any, tuple[Shape, Shape], tuple[Shape, Shape]], bool]] = {
    "Resize": _resize, "Slice": _slice, "Reshape": _reshape, **dict.fromkeys(_POOLING, _pooling),
}  # fmt: skip


def _stored(model: OnnxGraph, node: Any) -> list[int] | None:
    """The sizes that a node has as constants of the file, if it has."""
    return _values(model, node, *_STORED[node.op_type])


def _values(model: OnnxGraph, node: Any, position: int, attribute: str) -> list[int] | None:
    for item in node.attribute:
        if item.name == attribute:
            return list(item.ints)
    name = node.input[position] if position < len(node.input) else ""
    stored = model.constants.get(name)
    if stored is None:
        made = next((other for other in model.nodes if name and name in other.output), None)
        stored = None if made is None or made.op_type != "Constant" else _constant(model, made)
    return None if stored is None else [int(value) for value in stored.reshape(-1).tolist()]


def _constant(model: OnnxGraph, node: Any) -> Tensor | None:
    for item in node.attribute:
        if item.name == "value":
            return tensor_of(item.t, model.path)
        if item.name == "value_ints":
            return torch.tensor(list(item.ints))
    return None


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
