"""From the file to plain data: nodes, constants, inputs with their shapes, outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core.errors import UserError
from channelcut.onnx_out.files import load_onnx

# ONNX element types by number. Half precision is widened: it is a way to store weights, not to train them.
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.int32, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float32, 11: torch.float64, 12: torch.int64, 13: torch.int64, 16: torch.float32,
}  # fmt: skip


Shapes = Mapping[str, Sequence[int]] | Sequence[int]
"""Shape by input name, or the shape of the only input."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the network."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class OnnxGraph:
    """What the builder needs of a file. `nodes` are in execution order; `opset` is the default domain's."""

    path: Path
    nodes: tuple[Any, ...]
    constants: dict[str, Tensor]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    opset: int


def read(path: Path, input_shapes: Shapes | None = None) -> OnnxGraph:
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
    given = _by_name(input_shapes, [item.name for item in inputs], path)
    specs = tuple(_input(item, given.pop(item.name, None), path) for item in inputs)
    if given:
        raise UserError(
            f"{path} has no input {sorted(given)[0]!r}. Its inputs are: {', '.join(s.name for s in specs) or 'none'}."
        )
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


def _by_name(shapes: Shapes | None, names: Sequence[str], path: Path) -> dict[str, Sequence[int]]:
    if shapes is None or isinstance(shapes, Mapping):
        return dict(shapes or {})
    if len(names) != 1:
        raise UserError(
            f"{path} has {len(names)} inputs ({', '.join(names)}), but one shape was given. Give shapes by name: "
            "input_shapes={'name': (1, 3, 640, 640), ...}."
        )
    return {names[0]: shapes}


def _input(item: Any, given: Sequence[int] | None, path: Path) -> InputSpec:
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise UserError(
            f"{path}: the input {item.name!r} is not a tensor of numbers. Expected a network whose inputs are tensors."
        )
    if not kind.HasField("shape") and given is None:
        raise UserError(
            f"{path}: the input {item.name!r} has no shape. Give it: input_shapes={{{item.name!r}: (1, 3, 640, 640)}} "
            "in Python, --input 1x3x640x640 on the command line."
        )
    shape = _shape(item.name, kind.shape.dim, given, path) if kind.HasField("shape") else tuple(given or ())
    return InputSpec(item.name, shape, DTYPES[kind.elem_type])


def _shape(name: str, dims: Sequence[Any], given: Sequence[int] | None, path: Path) -> tuple[int, ...]:
    """The extents of an input: what the file says, else what was given, else 1 for an open batch."""
    declared = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]
    text = "x".join(str(e) if e else dims[axis].dim_param or "?" for axis, e in enumerate(declared))
    if given is not None:
        if len(given) != len(declared) or any(e not in (None, g) for e, g in zip(declared, given, strict=True)):
            raise UserError(
                f"{path}: the input {name!r} has the shape {text}, but {'x'.join(map(str, given))} was given. The "
                "extents in the file are fixed; only open axes can be chosen. Export the model again at the size that "
                "you want."
            )
        return tuple(int(g) for g in given)
    shape = [1 if axis == 0 and extent is None else extent for axis, extent in enumerate(declared)]
    if None in shape:
        example = "x".join(str(e or 640) for e in shape)
        raise UserError(
            f"{path}: axis {shape.index(None)} of the input {name!r} is open (its shape is {text}). Only an open "
            f"batch, axis 0, is filled in (with 1). Give the size to work at, for example --input {example} on the "
            f"command line or input_shapes={{{name!r}: ({', '.join(example.split('x'))})}} in Python, or export the "
            "model with a fixed size."
        )
    return tuple(extent for extent in shape if extent is not None)
