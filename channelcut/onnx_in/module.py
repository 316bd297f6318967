"""`module_from_onnx`: read the file, lower node by node, rewrite what fixes widths without need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx

from channelcut.core.inputs import check_path
from channelcut.onnx_in import ops  # noqa: F401  fills the table of operators
from channelcut.onnx_in.builder import Builder
from channelcut.onnx_in.inputs import Shapes
from channelcut.onnx_in.reader import OnnxGraph, read
from channelcut.onnx_in.reopened import refuse_held
from channelcut.onnx_in.rewrite import slices_to_chunks


def module_from_onnx(
    path: str | Path, input_shapes: Shapes | None = None, size: tuple[int, int] | None = None
) -> fx.GraphModule:
    """Turn an ONNX file into a module that computes the same, has layers and parameters, and can be trained.

    Where an operator has weights it becomes a layer of torch.nn, named after its weight or its node; other float
    constants become parameters, the rest buffers or numbers. What follows from the input's shape is folded, reshapes
    are written without the channels' extents where the shapes allow it, and slices or splits into equal parts
    become `chunk`. Half precision becomes float32.

    Args:
        path: the file; weights in files beside it are read as well.
        input_shapes: the shape of the one input, or shapes by input name: where the file leaves axes other than the
            batch open (an open batch is 1), or where it fixes extents that you want otherwise.
        size: height and width for what the file leaves open and `input_shapes` does not say.

    Returns:
        A module in evaluation mode. Its forward takes the inputs in the file's order and returns the one output, or a
        tuple in the file's order; `meta["input_names"]` and `meta["output_names"]` hold the file's names, which an
        export uses again.

    Raises:
        UserError: the file is damaged, has open axes, uses what the table of operators does not have, or has an
            operator that holds an extent which `input_shapes` wants otherwise.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from torch import nn
        >>> import channelcut as cc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.onnx"
        ...     _ = cc.export(nn.Conv2d(3, 8, 3).eval(), path, torch.rand(1, 3, 16, 16))
        ...     cc.from_onnx(path, (1, 3, 32, 32))(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 8, 30, 30])
    """
    check_path(path, "path")
    model = read(Path(path), input_shapes, size)
    builder = _built(model)
    fixed = replace(model, inputs=tuple(replace(spec, shape=spec.stored) for spec in model.inputs))
    if fixed.inputs != model.inputs:
        refuse_held(model, _built(fixed).shapes, builder.shapes)
    module = builder.finish()
    slices_to_chunks(module)
    module.meta["input_names"] = [spec.name for spec in model.inputs]
    module.meta["output_names"] = list(model.outputs)
    return module.eval()


def _built(model: OnnxGraph) -> Builder:
    builder = Builder(model)
    with torch.no_grad():
        for tensor, spec in zip(_examples(model), model.inputs, strict=True):
            builder.placeholder(spec.name, tensor)
        for node in model.nodes:
            builder.step(node)
    return builder


def example_inputs_from_onnx(
    path: str | Path, input_shapes: Shapes | None = None, size: tuple[int, int] | None = None
) -> tuple[Tensor, ...]:
    """Example inputs for the file's inputs, in their order: uniform in [0, 1) where they are float, else zeros.

    Raises:
        UserError: the file is damaged, or leaves an axis open that is neither the batch nor in `input_shapes` or
            `size`; see `module_from_onnx`.
    """
    check_path(path, "path")
    return _examples(read(Path(path), input_shapes, size))


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
