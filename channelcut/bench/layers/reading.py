"""The layers of a deployed ONNX file: which widths each has, and which channels of the trained network they are.

A layer is an operator with a weight, and what a back end may compute in the same kernel after it: an activation, the
addition of a residual. Its weight is a parameter of the trained network, by name or, where the export renamed it, by
its place among those of its shape; the parameter's slots say which channels the layer reads and writes. The share of
its channels that any other value keeps follows from the values that it is computed from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from channelcut.core.groups import Groups, Role
from channelcut.cost.kinds import DENSE, TOGETHER, LayerKind, Widths
from channelcut.cost.measured import Slot, slot_shares
from channelcut.cost.surface import Extent
from channelcut.onnx_out.files import load_onnx

Shares = NDArray[np.float64]
"""A share that is kept, as a mixture of those that slots keep: [constant, weight of each slot], shape (1 + slots,)."""

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ACTIVATIONS = {"Relu", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Elu", "Gelu", "Softplus"}
_GATES = {"Sigmoid", "HardSigmoid"}


@dataclass(frozen=True)
class Fused:
    """A step after a layer: in words, the nodes that it is made of, and the value that it ends with."""

    words: str
    nodes: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class FileLayer:
    """A layer of a file.

    name: that of its parameter in the trained network.
    kind: without what comes after it; `after` holds that, in order.
    reads, writes: the shares of its inputs' and outputs' channels that are kept.
    """

    name: str
    kind: LayerKind
    extent: Extent
    node: str
    output: str
    reads: Shares
    writes: Shares
    after: tuple[Fused, ...] = ()

    def names(self) -> set[str]:
        """All nodes and values that a kernel of this layer may be called after."""
        return {self.node, self.output} | {n for step in self.after for n in (*step.nodes, step.output)}


@dataclass
class Deployed:
    """A deployed file as layers and values.

    shares: of every value that is computed, by name. slots: what they are mixtures of. nodes: what each node writes, by
    the node's name. doubts: what could not be made out, in words. unknown: products whose weights are no
    parameters.
    """

    layers: list[FileLayer] = field(default_factory=list)
    shares: dict[str, Shares] = field(default_factory=dict)
    slots: tuple[Slot, ...] = ()
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be made out, in a few sentences."""
        if not self.unknown:
            return tuple(self.doubts)
        more = f" and {len(self.unknown) - 3} more" if len(self.unknown) > 3 else ""
        return (
            f"the weights of {', '.join(self.unknown[:3])}{more} are no parameters that were traced (the exporter may "
            "have computed them, as it transposes those of linear layers), so that their widths are taken as fixed: a "
            "plan for time expects nothing of what narrows them",
            *self.doubts,
        )


def read_deployed(path: Path, groups: Groups) -> Deployed:
    """The layers of a file, against the groups of the network that it was made of."""
    return _Reader(onnx.shape_inference.infer_shapes(load_onnx(path)), groups).read()


class _Reader:
    def __init__(self, model: onnx.ModelProto, groups: Groups) -> None:
        graph = model.graph
        self.graph, self.groups = graph, groups
        self.weights = {w.name: tuple(w.dims) for w in graph.initializer}
        self.values = {w.name: w for w in graph.initializer}
        infos = [*graph.value_info, *graph.input, *graph.output]
        self.shapes = {v.name: tuple(int(d.dim_value) for d in v.type.tensor_type.shape.dim) for v in infos}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {o.name for o in graph.output}
        self.roles = {(slot.tensor, slot.axis): slot.role for slot in groups.slots}
        self.slots = sorted(self.roles)
        self.place = {slot: number for number, slot in enumerate(self.slots, 1)}
        self.kept = slot_shares(self.slots, groups)
        self.left = _weights_in_order(groups)
        self.rough: set[str] = set()  # values of whose shares only a mean is known

    def read(self) -> Deployed:
        found = Deployed(slots=tuple(self.slots))
        whole = self._unit(0)
        found.shares |= {value.name: whole for value in self.graph.input}
        layers = self._named()
        claimed = self._residuals([node for node, _ in layers.values()])
        for node in self.graph.node:
            found.nodes[node.name] = tuple(node.output)
            key = node.output[0]
            if key in layers:
                layer = self._layer(node, layers[key][1], claimed, found)
                found.layers.append(layer)
                share = layer.writes
            else:
                share = self._mixed(node, found.shares, whole)
                products = node.op_type == "MatMul" or (node.op_type == "Split" and self._parts(share) > 1)
                if products or any(name in self.rough for name in node.input):
                    self.rough.update(node.output)
            for name in node.output:
                found.shares[name] = share
        return found

    def _named(self) -> dict[str, tuple[onnx.NodeProto, str]]:
        """Every node with a weight by its output, and the parameter that the weight is; those named alike go first."""
        nodes = [node for node in self.graph.node if self._weighted(node)]
        named: dict[str, str] = {}
        for node in nodes:
            parameter = self._by_name(node.input[1])
            if parameter is not None:
                named[node.output[0]] = parameter
        self.left = [parameter for parameter in self.left if parameter not in set(named.values())]
        for node in nodes:
            if node.output[0] not in named:
                shape = self.weights[node.input[1]]
                fits = (p for p in self.left if self.groups.shapes[p] in (shape, shape[::-1]))
                parameter = next(fits, None)
                if parameter is not None:
                    self.left.remove(parameter)
                named[node.output[0]] = parameter or ""
        return {node.output[0]: (node, named[node.output[0]]) for node in nodes}

    def _weighted(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in self.weights:
            return False
        return "Conv" in node.op_type or len(self.weights[node.input[1]]) == 2

    def _by_name(self, name: str) -> str | None:
        """The parameter of that name, perhaps below a wrapper's, if it has the weight's extents."""
        extents = sorted(self.weights[name])
        while name:
            if name in self.groups.shapes and sorted(self.groups.shapes[name]) == extents:
                return name
            name = name.partition(".")[2]
        return None

    def _layer(self, node: onnx.NodeProto, parameter: str, claimed: set[str], found: Deployed) -> FileLayer:
        kind, full = self._kind(node)
        whole = self._unit(0)
        before = self._mixed(node, found.shares, whole)
        name = parameter or node.name
        if not parameter:
            found.unknown.append(node.name)
            extent = Extent(full, DENSE, self._varies(before), False)
            return FileLayer(name, kind, extent, node.name, node.output[0], before, whole, self._after(node, claimed))
        reads, writes = (self._share(parameter, axis) for axis in self._axes(parameter, kind))
        mode = DENSE
        if full.groups > 1 and self.roles.get((parameter, 0), Role.GROUP) in (Role.DEPTHWISE, Role.GROUP):
            mode, reads, writes = TOGETHER, self._share(parameter, 0), self._share(parameter, 0)
        if not self.rough.intersection(node.input) and not np.allclose(
            reads @ self.kept, before @ self.kept, atol=1e-9
        ):
            found.doubts.append(f"{name} reads other channels than what is computed before it says")
        extent = Extent(full, mode, self._varies(reads), self._varies(writes))
        return FileLayer(name, kind, extent, node.name, node.output[0], reads, writes, self._after(node, claimed))

    def _axes(self, parameter: str, kind: LayerKind) -> tuple[int, int]:
        """The axes along which a weight reads and writes channels; products may read it along either."""
        product = kind.op == "Gemm"
        first = product and (self.roles.get((parameter, 0)) == Role.IN or self.roles.get((parameter, 1)) == Role.OUT)
        return (0, 1) if first or kind.op == "ConvTranspose" else (1, 0)

    def _unit(self, place: int) -> Shares:
        share = np.zeros(1 + len(self.slots))
        share[place] = 1.0
        return share

    def _share(self, parameter: str, axis: int) -> Shares:
        """The kept share of a parameter's axis; what is in no slot stays."""
        return self._unit(self.place.get((parameter, axis), 0))

    def _parts(self, share: Shares) -> int:
        """Of how many groups, and of what stays, a share is made."""
        return int(np.count_nonzero(share @ self.kept))

    def _varies(self, share: Shares) -> bool:
        """Whether any group has a say in it."""
        return bool((share @ self.kept)[1:].any())

    def _mixed(self, node: onnx.NodeProto, shares: Mapping[str, Shares], whole: Shares) -> Shares:
        """The share of what a node computes: the mean of its inputs', each weighted by its elements."""
        inputs = [name for name in node.input if name and name not in self.weights]
        if not inputs:
            return whole
        sizes = np.array([float(np.prod(self.shapes.get(name, (1,)))) for name in inputs])
        found: Shares = sum(s * shares.get(n, whole) for n, s in zip(inputs, sizes, strict=True)) / max(
            sizes.sum(), 1.0
        )
        return found

    def _kind(self, node: onnx.NodeProto) -> tuple[LayerKind, Widths]:
        said = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight, source = self.weights[node.input[1]], self.shapes[node.input[0]]
        if node.op_type in ("Gemm", "MatMul"):
            cout, cin = weight if said.get("transB") else weight[::-1]
            return LayerKind("Gemm", source[:-1], ()), Widths(cin, cout)
        groups = int(said.get("group", 1))
        names = ("kernel_shape", "strides", "pads", "dilations", "output_padding")
        attributes = {name: tuple(said[name]) for name in names if name in said} | {"kernel_shape": weight[2:]}
        kind = LayerKind(node.op_type, source[:1], source[2:], tuple(sorted(attributes.items())))
        cin, cout = (weight[1] * groups, weight[0]) if node.op_type == "Conv" else (weight[0], weight[1] * groups)
        return kind, Widths(cin, cout, groups)

    def _residuals(self, layers: Sequence[onnx.NodeProto]) -> set[str]:
        """The additions by the name of the layer's chain that runs into them last: one layer may claim each."""
        place = {node.output[0]: number for number, node in enumerate(self.graph.node)}
        last: dict[str, tuple[int, str]] = {}
        for node in layers:
            for step in self._chain(node):
                if step.words == "Add":
                    last[step.output] = max(last.get(step.output, (-1, "")), (place[node.output[0]], node.output[0]))
        return {f"{output} {layer}" for output, (_, layer) in last.items()}

    def _after(self, node: onnx.NodeProto, claimed: set[str]) -> tuple[Fused, ...]:
        steps = []
        for step in self._chain(node):
            if step.words == "Add" and f"{step.output} {node.output[0]}" not in claimed:
                break
            steps.append(step)
        return tuple(steps)

    def _chain(self, node: onnx.NodeProto) -> Iterator[Fused]:
        """What could be computed in the same kernel, up to one addition of a residual and what follows it."""
        value, added = node.output[0], False
        while value not in self.outputs:
            step = self._step(value)
            if step is None or (added and step.words == "Add"):
                return
            added = added or step.words == "Add"
            yield step
            value = step.output

    def _step(self, value: str) -> Fused | None:
        readers = self.readers[value]
        if len(readers) == 1:
            (node,) = readers
            if node.op_type in _ACTIVATIONS:
                return Fused(self._words(node), (node.name,), node.output[0])
            others = [name for name in node.input if name != value]
            if node.op_type == "Add" and len(others) == 1:
                if others[0] in self.weights:
                    return Fused("Bias", (node.name,), node.output[0]) if len(self.weights[others[0]]) <= 1 else None
                if self.shapes.get(others[0]) == self.shapes.get(value):
                    return Fused("Add", (node.name,), node.output[0])
        if len(readers) == 2:
            gate = next((n for n in readers if n.op_type in _GATES), None)
            product = next((n for n in readers if n.op_type == "Mul"), None)
            if gate is not None and product is not None and self.readers[gate.output[0]] == [product]:
                return Fused(f"x·{self._words(gate)}", (gate.name, product.name), product.output[0])
        return None

    def _words(self, node: onnx.NodeProto) -> str:
        """An activation with its numbers, such as `Clip(0,6)`."""
        numbers = [f"{a.name}={onnx.helper.get_attribute_value(a):g}" for a in node.attribute if a.type == a.FLOAT]
        given = [onnx.numpy_helper.to_array(self.values[n]) for n in node.input[1:] if n in self.values]
        numbers += [f"{float(v):g}" for v in given if v.size == 1]
        return f"{node.op_type}({','.join(numbers)})" if numbers else node.op_type


def _weights_in_order(groups: Groups) -> list[str]:
    """The parameters of the network's products and convolutions in the order in which they run, each once."""
    states = (_state(groups, ref.index) for work in groups.work for ref in groups.graph.nodes[work.node].inputs)
    return list(dict.fromkeys(name for name in states if len(groups.shapes.get(name, ())) > 1))


def _state(groups: Groups, index: int) -> str:
    """The parameter that a node is, or is made of alone, as a linear layer's transposed one; "" where there is none."""
    node = groups.graph.nodes[index]
    while node.kind == "call" and len(node.inputs) == 1:
        node = groups.graph.nodes[node.inputs[0].index]
    return node.name if node.kind == "state" else ""
