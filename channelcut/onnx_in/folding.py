"""Nodes of constants alone for which there is no lowering: computed by ONNX's own reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from channelcut.onnx_in.reader import captured

if TYPE_CHECKING:
    from channelcut.onnx_in.builder import Value
    from channelcut.onnx_in.registry import Call


def fold(call: Call) -> Sequence[Value]:
    """Compute the node's outputs; raises `UserError` where the reference implementation has no such operator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if captured(call.node):
        call.refuse("holds a graph of its own that reads values from outside, which cannot be imported")
    present = {name: value for name, value in zip(call.node.input, call.inputs, strict=True) if value is not None}
    arrays = {name: value.tensor.numpy() for name, value in present.items()}
    helper = onnx.helper
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in call.node.output if name]
    graph = helper.make_graph([call.node], "constants", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.opset)])
    try:
        results = ReferenceEvaluator(model).run(None, arrays)
    except Exception as problem:  # noqa: BLE001  whatever the reference implementation raises, the node is refused
        reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        call.refuse(f"cannot be imported: it has constant inputs but cannot be computed ahead ({reason})")
    names = [name for name in call.node.output if name]
    made = {n: torch.from_numpy(np.array(r)) for n, r in zip(names, results, strict=True)}
    return [call.builder.constant(made.get(name, torch.empty(0)), name) for name in call.node.output]
