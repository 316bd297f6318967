"""A graph, executed one node at a time, with values dropped after their last use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from channelcut.core.graph import Graph, Node, Ref
from channelcut.core.schema import writes
from channelcut.core.trees import mapped
from channelcut.ops.registry import op
from channelcut.ops.writes import written


def writes_values(node: Node) -> bool:
    """Whether a node writes into a value that it was given, statistics of a norm aside."""
    return writes(node.target) and not op(node.name).statistics


class Execution:
    """Runs the nodes of one graph, in `order` (by default the graph's own).

    `env` holds the values that later nodes still need, and those in `keep`. Parameters and buffers are read where they
    are used, layer by layer, unless something writes into them.
    """

    def __init__(
        self,
        graph: Graph,
        state: Mapping[str, Tensor],
        inputs: Sequence[Any],
        keep: Iterable[int] = (),
        order: Sequence[Node] | None = None,
    ) -> None:
        self.graph = graph
        self.state = state
        self.inputs = iter([leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)])
        self.env: dict[int, Any] = {}
        writers = [node for node in graph.calls if writes_values(node)]
        self._written = {index for node in writers for index in written(graph.nodes, node)}
        self._last = {ref.index: node.index for node in order or graph.nodes for ref in node.inputs}
        self._last.update(dict.fromkeys((*keep, *graph.unsettled), len(graph.nodes)))

    def cast(self, value: Any) -> Any:
        """A value in the type that is computed in."""
        return value.detach() if isinstance(value, Tensor) and not value.requires_grad else value

    def shared(self, tensor: Tensor) -> bool:
        """Whether a parameter or buffer is to be kept from what is written elsewhere, by a copy."""
        return not tensor.is_floating_point()

    def value(self, index: int) -> Any:
        """The value of a node that has run."""
        node = self.graph.nodes[index]
        if node.kind == "state" and index not in self.env:
            return self.cast(self.state[node.name].detach())
        return self.env[index]

    def arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments, with values for references, in the type that is computed in."""
        resolve = lambda leaf: self.cast(self.value(leaf.index) if isinstance(leaf, Ref) else leaf)  # noqa: E731
        args, kwargs = mapped(resolve, (tuple(node.args), dict(node.kwargs)))
        return args, kwargs

    def start(self, node: Node) -> None:
        """Take in an input, a constant, or a parameter that is written into: the user's own must not be reached."""
        if node.kind == "state":
            tensor = self.state[node.name].detach()
            if node.index in self._written or (self._written and self.shared(tensor)):
                self.finish(node, self.cast(tensor.clone()))
        elif node.kind == "constant":
            self.finish(node, self.cast(self.graph.constants[node.name]).clone())
        else:
            self.finish(node, self.cast(next(self.inputs)).clone())

    def compute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call."""
        assert node.target is not None
        if op(node.name).layout == "reshape" and isinstance(args[1], (list, tuple)):
            return args[0].reshape(args[1])  # the layout of another run may differ from the recorded one
        if op(node.name).statistics and not self.graph.training:
            args = tuple(a.clone() if isinstance(a, Tensor) and i in (3, 4) else a for i, a in enumerate(args))
        return node.target(*args, **kwargs)

    def finish(self, node: Node, value: Any) -> None:
        """Store a value and drop those that nobody needs any more."""
        self.env[node.index] = value
        for ref in node.inputs:
            if self._last.get(ref.index) == node.index:
                self.env.pop(ref.index, None)
        if node.index not in self._last:
            self.env.pop(node.index, None)

    def step(self, node: Node) -> None:
        """Run a node of whatever kind; outputs have nothing to run."""
        if node.kind == "call":
            self.finish(node, self.compute(node, *self.arguments(node)))
        elif node.kind != "output":
            self.start(node)
