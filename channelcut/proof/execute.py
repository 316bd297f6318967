"""A graph, executed in float64 one node at a time, with values dropped after their last use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from channelcut.core.graph import Graph, Node, named_outputs, specs
from channelcut.core.trees import leaves, mapped
from channelcut.ops import execute
from channelcut.ops.registry import op
from channelcut.proof.grouped import grouped_convolution

LOW = (torch.float16, torch.bfloat16, torch.float32)
_COMPLEX = (torch.complex32, torch.complex64)


def to_double(value: Any) -> Any:
    """Floating tensors and floating dtype arguments become float64; everything else stays."""
    if isinstance(value, Tensor):
        if value.dtype in _COMPLEX:
            return value.detach().to(torch.complex128)
        return value.detach().double() if value.dtype in LOW else value.detach()
    if isinstance(value, torch.dtype) and value in _COMPLEX:
        return torch.complex128
    return torch.float64 if value in LOW and isinstance(value, torch.dtype) else value


def _takes_default_type(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a node makes floating values of none, such as a grid, in the type that torch's default is.

    The default is of the whole process, so it is left alone.
    """
    given = leaves((args, dict(kwargs)))
    named = any(isinstance(leaf, torch.dtype) for leaf in given)  # by position or by keyword: it is float64 by now
    if named or not any(spec.dtype in LOW for spec in specs(node.value)):
        return False
    return not any(isinstance(leaf, Tensor) and leaf.dtype.is_floating_point for leaf in given)


class Derived(Mapping[str, Tensor]):
    """Tensors that are made of others each time they are read, so that no second network is kept in memory."""

    def __init__(self, state: Mapping[str, Tensor], make: Callable[[str, Tensor], Tensor]) -> None:
        self.state, self.make = state, make

    def __getitem__(self, name: str) -> Tensor:
        """Make the tensor of this name."""
        return self.make(name, self.state[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.state)

    def __len__(self) -> int:
        """Count the names."""
        return len(self.state)


def compared(graph: Graph) -> list[int]:
    """The nodes whose values a network is compared by: its outputs, and what is read where values decide."""
    return [*(index for _, index in named_outputs(graph)), *graph.unsettled]


class Execution(execute.Execution):
    """Runs the nodes of one graph in order, in float64."""

    def cast(self, value: Any) -> Any:
        """Float64 for lower types."""
        return to_double(value)

    def shared(self, tensor: Tensor) -> bool:
        """Those that are not copied when they become float64."""
        return tensor.dtype not in LOW

    def compute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call."""
        assert node.target is not None
        if op(node.name).checked:  # of the type that the model has, not of float64
            return None
        if _takes_default_type(node, args, kwargs):
            schema = getattr(node.target, "_schema", None)
            if schema is not None and any(argument.name == "dtype" for argument in schema.arguments):
                kwargs = {**kwargs, "dtype": torch.float64}
            return mapped(to_double, node.target(*args, **kwargs))  # else it is rounded, alike in both networks
        grouped = grouped_convolution(node.name, node.target, args, kwargs)
        return super().compute(node, args, kwargs) if grouped is None else grouped

    def results(self) -> list[Tensor]:
        """Run everything and return the network's outputs, and what is read where values decide."""
        for node in self.graph.nodes:
            self.step(node)
        return [self.value(index) for index in compared(self.graph)]
