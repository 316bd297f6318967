"""How far rounding may move a value: as far as a small change of everything that goes into each step does.

A tensor's own deviation says nothing of that where it has one element, or where large terms cancel in it. What went
into the sum does, and a forward whose steps are all given slightly other numbers tells, whatever the steps are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from channelcut.core.graph import Node
from channelcut.core.trees import leaves, mapped
from channelcut.proof.execute import Execution

SHAKE = 1e-11
"""The relative change: what 50,000 units in the last place are, more than a sum of as many terms is rounded by."""
_SEED = 0x5EED  # of no use to anybody else: signs that go with the values would add up
_AMPLIFIED = 1e-9  # of the largest value before: where rounding moves a value further, rounding decides what it is


class Shaken:
    """A second run of the reference, each of whose steps gets arguments that are changed by `SHAKE` of themselves."""

    def __init__(self, run: Execution) -> None:
        self.run = run
        self._generator = torch.Generator().manual_seed(_SEED)
        self._largest: dict[int, float] = {}  # over a value and all that it was made of

    def arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments, changed; of a step that shares or writes into its arguments they are as they are."""
        args, kwargs = self.run.arguments(node)
        schema = getattr(node.target, "_schema", None)
        if schema is None or any(argument.alias_info is not None for argument in schema.arguments):
            return args, kwargs
        changed: tuple[tuple[Any, ...], dict[str, Any]] = mapped(self.changed, (args, kwargs))
        return changed

    def changed(self, leaf: Any) -> Any:
        """A leaf of arguments; float64 is changed by a share of itself, drawn for each element."""
        if not isinstance(leaf, Tensor) or leaf.dtype != torch.float64:
            return leaf
        signs = torch.rand(leaf.shape, generator=self._generator, dtype=torch.float64).sub_(0.5).mul_(2 * SHAKE)
        return torch.addcmul(leaf, leaf, signs.to(leaf.device))

    def seen(self, node: Node, value: Any) -> float:
        """Take note of the size of a value; returns the largest one that it was made of."""
        mine = [largest_finite(leaf) for leaf in leaves(value) if isinstance(leaf, Tensor)]
        self._largest[node.index] = max((*mine, *(self.largest(ref.index) for ref in node.inputs)), default=0.0)
        return self._largest[node.index]

    def largest(self, index: int) -> float:
        """The size of the largest value that a value was made of; of constants, which may be masks, none."""
        node = self.run.graph.nodes[index]
        if index not in self._largest:
            self._largest[index] = largest_finite(self.run.state[node.name]) if node.kind == "state" else 0.0
        return self._largest[index]


def rounding_of(reference: Tensor, shaken: Tensor, largest: float) -> float:
    """How far rounding may move a value; 0.0 where that is so far that rounding decides what the value is."""
    if reference.shape != shaken.shape:
        return 0.0
    moved = largest_finite(reference.double() - shaken.double())
    return moved if moved <= _AMPLIFIED * largest else 0.0


def largest_finite(value: Tensor) -> float:
    """The largest finite magnitude."""
    if not value.numel() or not value.dtype.is_floating_point:
        return 0.0
    return float(torch.nan_to_num(value.detach().abs(), nan=0.0, posinf=0.0, neginf=0.0).max())
