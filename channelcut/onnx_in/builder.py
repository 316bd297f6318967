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
from channelcut.onnx_in.reader import OnnxGraph, captured, tensor_of
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
        self._uses: Counter[str] = Counter(model.outputs)
        self._expect(model.nodes)
        self._absorbed: set[int] = set()
        self._layers: dict[Any, tuple[str, nn.Module]] = {}
        self._parameters: dict[tuple[int, str], tuple[Value, nn.Parameter]] = {}
        self._attributes: dict[int, tuple[Value, fx.Node]] = {}
        self._index = 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def placeholder(self, name: str, example: Tensor) -> None:
        """Add an input of the network; its name in `forward` is the file's, made an identifier."""
        node = self.graph.placeholder(identifier(name))
        self.values[name] = self._dynamic(example, node, name)
        self.shapes[name] = tuple(example.shape)

    def step(self, node: Any) -> None:
        """Lower one node and forget the inputs that nobody needs any more."""
        inputs = [self.values[name] if name else None for name in node.input]
        if node.op_type == "If":
            outputs: Sequence[Value] = self._branch(Call(self, node, inputs, self._index))
        elif id(node) in self._absorbed:
            outputs = [next(v for v in inputs if v is not None and v.node is not None)]
        else:
            found = lower(Call(self, node, inputs, self._index))
            outputs = [found] if isinstance(found, Value) else found
        for name, value in zip(node.output, outputs, strict=False):
            value.name = value.name or name
            self.values[name] = value
            if value.node is not None:
                value.node.meta.setdefault("value", name)
            if isinstance(value.data, Tensor):
                self.shapes[name] = value.shape
        self._forget([*node.input, *captured(node)])
        self._index += 1

    def _branch(self, call: Call) -> list[Value]:
        """Lower the branch of an `If` that is taken; its condition has to follow from shapes and constants."""
        condition = call[0]
        if condition.node is not None or condition.tensor.numel() != 1:
            call.refuse(
                f"decides by {call.node.input[0]!r}, a value of the data; a condition that follows from the input's "
                "shape or from constants can be imported"
            )
        branch = call.attribute("then_branch" if bool(condition.tensor.item()) else "else_branch")
        for item in branch.initializer:
            self.values[item.name] = Value(tensor_of(item, self.model.path), name=item.name)
        names = [output.name for output in branch.output]
        self._expect(branch.node, names)
        for node in branch.node:
            self.step(node)
        outputs = [self.values[name] for name in names]
        self._forget(names)
        return outputs

    def _expect(self, nodes: Sequence[Any], kept: Sequence[str] = ()) -> None:
        """Count the uses of every value by the nodes and what is inside them; `kept` are used as results."""
        self._uses.update(kept)
        for name in kept:
            self.consumers[name].append(None)
        for node in nodes:
            names = [*node.input, *captured(node)]
            self._uses.update(names)
            for name in dict.fromkeys(names):
                self.consumers[name].append(node)

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._uses[name] -= 1
            if name and self._uses[name] == 0:
                self.values.pop(name, None)

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

    def layer(
        self, call: Call, module: nn.Module, weight: Value, source: Value, key: tuple[Any, ...], state: Any = None
    ) -> Value:
        """Call a layer on `source`. A layer with the same `key` (its weights and settings) is used again.

        `state`: what a recurrent layer starts from, one value or a tuple.
        """
        known = self._layers.get(key)
        if known is None:
            path = self.names.claim(layer_path(weight.name, call.name, call.kind, call.index))
            _place(self.root, path, module.eval())
            known = self._layers[key] = (path, module)
        path, module = known
        inputs = (source,) if state is None else (source, state)
        data = module(*_mapped(lambda value: value.data, inputs))
        if all(value.node is None for value in pytree.tree_leaves(inputs)):
            return Value(data)
        return self._dynamic(data, self.graph.call_module(path, _mapped(self._link, inputs)))

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


def _mapped(change: Callable[[Value], Any], inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a layer, a state of two values among them, changed one by one."""
    changed: tuple[Any, ...] = pytree.tree_map(change, inputs)
    return changed


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
