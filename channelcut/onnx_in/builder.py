"""The graph under construction. Every value carries what it is on the example: shapes are known, folding is free."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from channelcut.onnx_in.naming import Names, identifier, layer_path, path_of
from channelcut.onnx_in.reader import OnnxGraph
from channelcut.onnx_in.registry import Call, lower


@dataclass(frozen=True)
class Origin:
    """The movement that made a value, where a later one may be simplified with it: `reshape` or `permute`."""

    kind: str
    source: Value
    order: tuple[int, ...] = ()


@dataclass(eq=False)
class Value:
    """A value of the ONNX graph on the example: a constant where `node` is None, else the result of `node`."""

    data: Any
    node: fx.Node | None = None
    name: str = ""
    origin: Origin | None = None

    @property
    def tensor(self) -> Tensor:
        """The tensor on the example."""
        assert isinstance(self.data, Tensor)
        return self.data

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)


class Builder:
    """Lowers ONNX nodes in order into an fx graph over a root module that holds the layers and parameters."""

    def __init__(self, model: OnnxGraph) -> None:
        self.model = model
        self.graph, self.root, self.names = fx.Graph(), nn.Module(), Names()
        self.values = {name: Value(tensor, name=name) for name, tensor in model.constants.items()}
        self.consumers: dict[str, list[Any]] = defaultdict(list)
        for node in model.nodes:
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)
        self._uses = Counter(name for node in model.nodes for name in node.input)
        self._uses.update(model.outputs)
        self._absorbed: set[int] = set()
        self._layers: dict[Any, tuple[str, nn.Module]] = {}
        self._parameters: dict[tuple[int, str], tuple[Value, nn.Parameter]] = {}
        self._attributes: dict[int, tuple[Value, fx.Node]] = {}
        self._index = 0

    def placeholder(self, name: str, example: Tensor) -> None:
        """Add an input of the network; its name in `forward` is the file's, made an identifier."""
        node = self.graph.placeholder(identifier(name))
        self.values[name] = self._dynamic(example, node, name)

    def step(self, node: Any) -> None:
        """Lower one node and forget the inputs that nobody needs any more."""
        inputs = [self.values[name] if name else None for name in node.input]
        if id(node) in self._absorbed:
            outputs: Sequence[Value] = [next(v for v in inputs if v is not None and v.node is not None)]
        else:
            found = lower(Call(self, node, inputs, self._index))
            outputs = [found] if isinstance(found, Value) else found
        for name, value in zip(node.output, outputs, strict=False):
            value.name = value.name or name
            self.values[name] = value
        for name in node.input:
            self._uses[name] -= 1
            if name and self._uses[name] == 0:
                del self.values[name]
        self._index += 1

    def finish(self) -> fx.GraphModule:
        """Close the graph with the file's outputs and make the module."""
        results = [self._link(self.values[name]) for name in self.model.outputs]
        self.graph.output(results[0] if len(results) == 1 else tuple(results))
        whole = fx.GraphModule(self.root, self.graph)
        whole.graph.eliminate_dead_code()
        # Made again, because a module takes over only what its graph uses.
        return fx.GraphModule(whole, whole.graph, class_name="OnnxModule").eval()

    def absorb(self, node: Any) -> None:
        """Say that `node` was lowered together with the one that gives its only input from the data."""
        self._absorbed.add(id(node))

    def only_consumer(self, name: str) -> Any:
        """The one node that reads a value, or None where there are others or it is an output of the network."""
        consumers = self.consumers[name]
        return consumers[0] if len(consumers) == 1 and name not in self.model.outputs else None

    def constant(self, tensor: Tensor, name: str = "") -> Value:
        """A constant made here."""
        return Value(tensor, name=name)

    def emit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """Call a torch function on values; on constants alone it is computed and gives a constant."""
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Value)]
        positional, named = pytree.tree_map(lambda v: v.data if isinstance(v, Value) else v, (args, kwargs))
        data = function(*positional, **named)
        if all(leaf.node is None for leaf in leaves):
            return Value(data, name=leaves[0].name if len(leaves) == 1 else "")  # a weight, transposed, is a weight
        linked_args, linked_kwargs = pytree.tree_map(
            lambda v: self._link(v) if isinstance(v, Value) else v, (args, kwargs)
        )
        return self._dynamic(data, self.graph.call_function(function, linked_args, linked_kwargs))

    def layer(self, call: Call, module: nn.Module, weight: Value, source: Value, key: tuple[Any, ...]) -> Value:
        """Call a layer on `source`. A layer with the same `key` (its weights and settings) is used again."""
        known = self._layers.get(key)
        if known is None:
            path = self.names.claim(layer_path(weight.name, call.name, call.kind, call.index))
            _place(self.root, path, module.eval())
            known = self._layers[key] = (path, module)
        path, module = known
        data = module(source.data)
        if source.node is None:
            return Value(data)
        return self._dynamic(data, self.graph.call_module(path, (source.node,)))

    def parameter(self, value: Value, change: str = "", make: Callable[[Tensor], Tensor] | None = None) -> nn.Parameter:
        """The parameter of a constant, one for all its uses; `change` names what `make` does to the tensor."""
        key = (id(value), change)
        if key not in self._parameters:
            tensor = value.tensor if make is None else make(value.tensor)
            self._parameters[key] = (value, nn.Parameter(tensor.clone(memory_format=torch.contiguous_format)))
        return self._parameters[key][1]

    def items(self, value: Value, count: int) -> list[Value]:
        """The parts of a value that is a tuple."""
        import operator

        return [self.emit(operator.getitem, value, position) for position in range(count)]

    def _dynamic(self, data: Any, node: fx.Node, name: str = "") -> Value:
        if isinstance(data, Tensor):
            node.meta["shape"] = tuple(data.shape)
        return Value(data, node, name)

    def _link(self, value: Value) -> fx.Node:
        """The fx node of a value; a constant becomes a parameter (finite floats) or a buffer of the root."""
        if value.node is not None:
            return value.node
        if id(value) not in self._attributes:
            tensor = value.tensor
            trained = tensor.is_floating_point() and tensor.numel() > 1 and bool(tensor.isfinite().all())
            path = self.names.claim(path_of(value.name or f"constant_{self._index}"))
            _place(self.root, path, self.parameter(value) if trained else tensor.clone())
            node = self.graph.get_attr(path)
            node.meta["shape"] = value.shape
            self._attributes[id(value)] = (value, node)
        return self._attributes[id(value)][1]


def _place(root: nn.Module, path: str, item: nn.Module | Tensor) -> None:
    """Put a layer, parameter or buffer at a dotted path, with plain modules on the way."""
    *parents, leaf = path.split(".")
    for piece in parents:
        if piece not in root._modules:
            root.add_module(piece, nn.Module())
        root = root.get_submodule(piece)
    if isinstance(item, nn.Module):
        root.add_module(leaf, item)
    elif isinstance(item, nn.Parameter):
        root.register_parameter(leaf, item)
    else:
        root.register_buffer(leaf, item)
