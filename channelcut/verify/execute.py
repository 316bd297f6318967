"""A graph, executed in float64 one node at a time, with values dropped after their last use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from channelcut.core.graph import Graph, Node, Ref, refs
from channelcut.core.trees import mapped
from channelcut.trace.layout import RESHAPES

LOW = (torch.float16, torch.bfloat16, torch.float32)


def to_double(value: Any) -> Any:
    """Floating tensors and floating dtype arguments become float64; everything else stays."""
    if isinstance(value, Tensor):
        return value.detach().double() if value.dtype in LOW else value.detach()
    return torch.float64 if value in LOW and isinstance(value, torch.dtype) else value


def _writes(node: Node) -> bool:
    """Whether a node writes into a value that it was given, statistics of a norm aside."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and not node.name.endswith("batch_norm")


class Execution:
    """Runs the nodes of one graph in order; `env` holds the values that later nodes still need, and those in `keep`."""

    def __init__(
        self, graph: Graph, state: Mapping[str, Tensor], inputs: Sequence[Any], keep: Iterable[int] = ()
    ) -> None:
        self.graph = graph
        self.state = state
        self.inputs = iter([leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)])
        self.env: dict[int, Any] = {}
        self._writes = any(_writes(node) for node in graph.calls)
        self._last = {ref.index: node.index for node in graph.nodes for ref in refs((node.args, dict(node.kwargs)))}
        self._last.update(dict.fromkeys(keep, len(graph.nodes)))

    def arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments, with values for references and float64 for lower types."""
        resolve = lambda leaf: to_double(self.env[leaf.index] if isinstance(leaf, Ref) else leaf)  # noqa: E731
        args, kwargs = mapped(resolve, (tuple(node.args), dict(node.kwargs)))
        return args, kwargs

    def source(self, node: Node) -> Tensor:
        """The value of an input, parameter, buffer or constant; what writes in place must not reach the user's."""
        if node.kind == "state":
            value = self.state[node.name].detach()
            return to_double(value).clone() if self._writes else value  # float64 where it is used, layer by layer
        if node.kind == "constant":
            return to_double(self.graph.constants[node.name]).clone()  # type: ignore[no-any-return]
        return to_double(next(self.inputs)).clone()  # type: ignore[no-any-return]

    def compute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call."""
        assert node.target is not None
        if node.name == "aten._assert_tensor_metadata":  # of the type that the model has, not of float64
            return None
        if node.name in RESHAPES and isinstance(args[1], (list, tuple)):
            return args[0].reshape(args[1])  # the layout of a reference may differ from the recorded one
        if node.name.endswith("batch_norm") and not self.graph.training:
            args = tuple(a.clone() if isinstance(a, Tensor) and i in (3, 4) else a for i, a in enumerate(args))
        return node.target(*args, **kwargs)

    def finish(self, node: Node, value: Any) -> None:
        """Store a value and drop those that nobody needs any more."""
        self.env[node.index] = value
        for ref in refs((node.args, dict(node.kwargs))):
            if self._last.get(ref.index) == node.index:
                self.env.pop(ref.index, None)
        if node.index not in self._last:
            self.env.pop(node.index, None)

    def outputs(self) -> list[Tensor]:
        """Run everything and return the network's outputs."""
        for node in self.graph.nodes:
            if node.kind == "output":
                return [self.env[ref.index] for ref in refs(node.args)]
            value = self.compute(node, *self.arguments(node)) if node.kind == "call" else self.source(node)
            self.finish(node, value)
        return []
