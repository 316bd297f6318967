"""From the file to plain data: nodes, constants, inputs with their shapes, outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core.errors import UserError
from channelcut.onnx_in.inputs import DTYPES, InputSpec, Shapes, input_specs
from channelcut.onnx_out.files import load_onnx


@dataclass(frozen=True)
class OnnxGraph:
    """What the builder needs of a file. `nodes` are in execution order; `opset` is the default domain's."""

    path: Path
    nodes: tuple[Any, ...]
    constants: dict[str, Tensor]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    opset: int


def read(path: Path, input_shapes: Shapes | None = None, size: tuple[int, int] | None = None) -> OnnxGraph:
    """Read a file whole.

    Raises:
        UserError: it is missing, damaged, or has axes without an extent; see `module_from_onnx`.
    """
    import onnx.inliner

    model = load_onnx(path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    constants = {item.name: tensor_of(item, path) for item in graph.initializer}
    if graph.sparse_initializer:
        raise UserError(
            f"{path} stores sparse weights ({graph.sparse_initializer[0].values.name!r}), which are not supported. "
            "Export the model with dense ones."
        )
    inputs = [item for item in graph.input if item.name not in constants]
    specs = input_specs(inputs, input_shapes, size, path)
    opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    return OnnxGraph(path, tuple(graph.node), constants, specs, tuple(o.name for o in graph.output), opset)


def captured(node: Any) -> list[str]:
    """The values from outside that the branches or the body of a node read, each once."""
    graphs = [graph for a in node.attribute for graph in [*([a.g] if a.HasField("g") else []), *a.graphs]]
    found: dict[str, None] = {}
    for graph in graphs:
        own = {item.name for items in (graph.input, graph.initializer) for item in items}
        own.update(name for inner in graph.node for name in inner.output)
        read = [name for inner in graph.node for name in [*inner.input, *captured(inner)]]
        found.update(dict.fromkeys(n for n in [*read, *(o.name for o in graph.output)] if n and n not in own))
    return list(found)


def tensor_of(proto: Any, path: Path) -> Tensor:
    """The tensor of a TensorProto, with half precision widened to float32."""
    import onnx

    if proto.data_type not in DTYPES:
        kind = onnx.TensorProto.DataType.Name(proto.data_type)
        raise UserError(
            f"{path}: the constant {proto.name!r} is of type {kind}, which cannot be imported. Expected floats, whole "
            "numbers or truth values; export the model unquantised, in float32."
        )
    try:
        array = onnx.numpy_helper.to_array(proto, base_dir=str(path.parent))
    except (ValueError, TypeError, OSError) as problem:
        raise UserError(
            f"{path}: the constant {proto.name!r} cannot be read ({problem}): the file is damaged, or a file of "
            "weights beside it is. Export the model again."
        ) from problem
    dtype = DTYPES[proto.data_type]
    if proto.data_type == 16:  # numpy has no bfloat16 that torch reads
        array = np.asarray(array, dtype=np.float32)
    elif proto.data_type in (4, 12, 13):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array)).to(dtype)
