"""A graph, executed in float64 one node at a time, with values dropped after their last use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from channelcut.core.graph import Graph, Node, Ref, named_outputs, specs
from channelcut.core.schema import writes
from channelcut.core.trees import leaves, mapped
from channelcut.ops.registry import op
from channelcut.ops.writes import written
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


def _writes(node: Node) -> bool:
    """Whether a node writes into a value that it was given, statistics of a norm aside."""
    return writes(node.target) and not op(node.name).statistics


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


class Execution:
    """Runs the nodes of one graph in order.

    `env` holds the values that later nodes still need, and those in `keep`. Parameters and buffers are read where they
    are used, layer by layer, unless something writes into them.
    """

    def __init__(
        self, graph: Graph, state: Mapping[str, Tensor], inputs: Sequence[Any], keep: Iterable[int] = ()
    ) -> None:
        self.graph = graph
        self.state = state
        self.inputs = iter([leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)])
        self.env: dict[int, Any] = {}
        writers = [node for node in graph.calls if _writes(node)]
        self._written = {index for node in writers for index in written(graph.nodes, node)}
        self._last = {ref.index: node.index for node in graph.nodes for ref in node.inputs}
        self._last.update(dict.fromkeys((*keep, *graph.unsettled), len(graph.nodes)))

    def value(self, index: int) -> Any:
        """The value of a node that has run."""
        node = self.graph.nodes[index]
        if node.kind == "state" and index not in self.env:
            return to_double(self.state[node.name])
        return self.env[index]

    def arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments, with values for references and float64 for lower types."""
        resolve = lambda leaf: to_double(self.value(leaf.index) if isinstance(leaf, Ref) else leaf)  # noqa: E731
        args, kwargs = mapped(resolve, (tuple(node.args), dict(node.kwargs)))
        return args, kwargs

    def start(self, node: Node) -> None:
        """Take in an input, a constant, or a parameter that is written into: the user's own must not be reached."""
        if node.kind == "state":
            tensor = self.state[node.name].detach()
            if node.index in self._written or (self._written and tensor.dtype not in LOW):
                self.finish(node, to_double(tensor.clone()))
        elif node.kind == "constant":
            self.finish(node, to_double(self.graph.constants[node.name]).clone())
        else:
            self.finish(node, to_double(next(self.inputs)).clone())

    def compute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call."""
        assert node.target is not None
        if op(node.name).checked:  # of the type that the model has, not of float64
            return None
        if op(node.name).layout == "reshape" and isinstance(args[1], (list, tuple)):
            return args[0].reshape(args[1])  # the layout of a reference may differ from the recorded one
        if op(node.name).statistics and not self.graph.training:
            args = tuple(a.clone() if isinstance(a, Tensor) and i in (3, 4) else a for i, a in enumerate(args))
        if _takes_default_type(node, args, kwargs):
            schema = getattr(node.target, "_schema", None)
            if schema is not None and any(argument.name == "dtype" for argument in schema.arguments):
                kwargs = {**kwargs, "dtype": torch.float64}
            return mapped(to_double, node.target(*args, **kwargs))  # else it is rounded, alike in both networks
        grouped = grouped_convolution(node.name, node.target, args, kwargs)
        if grouped is not None:
            return grouped
        return node.target(*args, **kwargs)

    def finish(self, node: Node, value: Any) -> None:
        """Store a value and drop those that nobody needs any more."""
        self.env[node.index] = value
        for ref in node.inputs:
            if self._last.get(ref.index) == node.index:
                self.env.pop(ref.index, None)
        if node.index not in self._last:
            self.env.pop(node.index, None)

    def results(self) -> list[Tensor]:
        """Run everything and return the network's outputs, and what is read where values decide."""
        for node in self.graph.nodes:
            if node.kind == "call":
                self.finish(node, self.compute(node, *self.arguments(node)))
            elif node.kind != "output":
                self.start(node)
        return [self.value(index) for index in compared(self.graph)]
