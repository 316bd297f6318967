"""`module_from_onnx`: read the file, lower node by node, rewrite what fixes widths without need."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, fx

from channelcut.core.inputs import check_path
from channelcut.onnx_in import ops  # noqa: F401  fills the table of operators
from channelcut.onnx_in.builder import Builder
from channelcut.onnx_in.reader import OnnxGraph, Shapes, read
from channelcut.onnx_in.rewrite import slices_to_chunks


def module_from_onnx(path: str | Path, input_shapes: Shapes | None = None) -> fx.GraphModule:
    """Turn an ONNX file into a module that computes the same, has layers and parameters, and can be trained.

    Where an operator has weights it becomes a layer of torch.nn, named after its weight or its node; other float
    constants become parameters, the rest buffers or numbers. What follows from the input's shape is folded, reshapes
    are written without the channels' extents where the shapes allow it, and slices or splits into equal parts
    become `chunk`. Half precision becomes float32.

    Args:
        path: the file; weights in files beside it are read as well.
        input_shapes: the shape of the one input, or shapes by input name, where the file leaves axes other than the
            batch open; an open batch is 1.

    Returns a module in evaluation mode. Its forward takes the inputs in the file's order and returns the one output, or
    a tuple in the file's order; `meta["input_names"]` and `meta["output_names"]` hold the file's names, which an export
    uses again.

    Raises:
        UserError: the file is damaged, has open axes, or uses what the table of operators does not have.
    """
    check_path(path, "path")
    model = read(Path(path), input_shapes)
    builder = Builder(model)
    with torch.no_grad():
        for tensor, spec in zip(_examples(model), model.inputs, strict=True):
            builder.placeholder(spec.name, tensor)
        for node in model.nodes:
            builder.step(node)
    module = builder.finish()
    slices_to_chunks(module)
    module.meta["input_names"] = [spec.name for spec in model.inputs]
    module.meta["output_names"] = list(model.outputs)
    return module.eval()


def example_inputs_from_onnx(path: str | Path, input_shapes: Shapes | None = None) -> tuple[Tensor, ...]:
    """Example inputs for the file's inputs, in their order: uniform in [0, 1) where they are float, else zeros.

    Raises:
        UserError: the file is damaged, or leaves an axis open that is neither the batch nor in `input_shapes`.
    """
    check_path(path, "path")
    return _examples(read(Path(path), input_shapes))


def _examples(model: OnnxGraph) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.rand(spec.shape, generator=generator, dtype=spec.dtype)
        if spec.dtype.is_floating_point
        else torch.zeros(spec.shape, dtype=spec.dtype)
        for spec in model.inputs
    )


from_onnx = module_from_onnx
"""The name under which the package offers it: `channelcut.from_onnx`."""
