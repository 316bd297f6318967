"""One run of a module as an ONNX model, by torch's exporters."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.onnx_out.dynamic import OpenAxes, guard_probes, name_axes, watching
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.names import rename
from channelcut.onnx_out.operators import fold_constants, translations


def exported(
    module: nn.Module,
    inputs: tuple[Any, ...],
    names: tuple[Sequence[str], Sequence[str]],
    axes: OpenAxes,
    opset: int,
) -> tuple[onnx.ModelProto, list[tuple[str, tuple[Any, ...]]], str]:
    """Return the model, inputs at which what the trace assumes of sizes does not hold, and where sizes are compared."""
    if axes:
        # A forward that recomputes what it kept for another size must be seen recomputing it: a copy of it has just run
        # at the example's size, and is traced at another, of which no extent is 1 (taken for a constant).
        module = private_copy(module)
        run(module, inputs)
    traced = axes.traced(inputs) if axes else inputs
    with watching(module) as decisions:
        try:
            program = torch.export.export(
                module, traced, dynamic_shapes=(axes.shapes(inputs),) if axes else None, strict=False
            )
            result = torch.onnx.export(
                program,
                traced,
                dynamo=True,
                opset_version=opset,
                custom_translation_table=translations(),
                # Its rewriter takes a constant for 0 or 1 that is near it: `+ 1e-8` goes.
                optimize=False,
                verbose=False,
            )
            if result is not None:
                fold_constants(result.model)
        except (
            RuntimeError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            AssertionError,
            NotImplementedError,
        ) as problem:
            opened = f" with {axes.words}" if axes else ""
            hint = " What is a number in the forward (view(1, ...), a kept grid) cannot be open." if axes else ""
            raise UserError(
                f"The model {type(module.model).__name__} cannot be exported to ONNX{opened}: "
                f"{decisions.closing() or _cause(problem)}. Expected a forward without branches on tensor values, made "
                f"of operators that ONNX opset {opset} has.{hint}"
            ) from problem
    if result is None:
        raise UserError("The ONNX exporter returned nothing for this model; try a newer torch.")
    proto: onnx.ModelProto = result.model_proto
    rename(proto, *names)
    name_axes(proto, axes)
    return proto, guard_probes(program, inputs, axes), decisions.made_at()


def unrolled(
    module: nn.Module, inputs: tuple[Any, ...], names: tuple[Sequence[str], Sequence[str]], opset: int
) -> onnx.ModelProto:
    """The same where values decide shapes, as suppression does: the ops of one run, by torch's older exporter.

    Loops over the batch are as long as in this run, so that the file is for its batch size alone.

    Raises:
        UserError: it refuses the forward.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "unrolled.onnx"
            torch.onnx.export(module, inputs, file, opset_version=opset, dynamo=False)
            proto = load_onnx(file)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, NotImplementedError) as problem:
        raise UserError(
            f"The model {type(module).__name__} cannot be exported to ONNX by torch's older exporter, which "
            f"suppression in the file needs: {_cause(problem)}. Leave suppression to the caller, or use another torch."
        ) from problem
    rename(proto, *names)
    return proto


def run(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The forward's result; raises `UserError` where it does not run."""
    try:
        return model(*inputs)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as problem:
        shapes = [tuple(t.shape) for t in tensor_leaves(inputs)]
        raise UserError(
            f"The model's forward does not run on the example inputs of shapes {shapes}: "
            f"{type(problem).__name__}: {problem}. Give inputs as the model gets them in use."
        ) from problem


def _cause(problem: BaseException) -> str:
    """Return the innermost exception in one line: the exporter wraps it in pages of advice."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text[:400]}"
