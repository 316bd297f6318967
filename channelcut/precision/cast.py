"""Float32 graphs with nodes in fp16 or bf16, for real and simulated.

The simulation keeps every node in float32 and rounds what it reads and writes, which is what hardware with float32
accumulators does. ONNX Runtime on the CPU runs it for both formats, though it has no bf16 convolution, and overflow
to infinity shows, which inserted casts around a whole fp16 graph can hide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from channelcut.core.errors import UserError

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TYPES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
# The first in which a convolution may be bfloat16, and the first whose Q/DQ may have fp16 scales and outputs.
_OPSETS = {"bf16": 22, "int8 beside fp16": 19}
_QDQ = {"QuantizeLinear", "DequantizeLinear"}
Places = dict[str, tuple[set[int], set[int]]]


def prepared(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a copy whose nodes have unique names, at an opset that has the precision, with inferred types.

    Raises `UserError` when the model cannot be brought to that opset.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = next((o.version for o in copy.opset_import if o.domain in {"", "ai.onnx"}), 0)
    needed = _OPSETS.get(precision, 0)
    if opset < needed:
        try:
            copy = onnx.version_converter.convert_version(copy, needed)
        except (RuntimeError, onnx.checker.ValidationError) as problem:
            raise UserError(
                f"{precision} needs ONNX opset {needed}; the model has {opset} and cannot be raised: "
                f"{' '.join(str(problem).split())[:300]} Export it again at opset {needed} or later."
            ) from problem
    used: set[str] = set()
    for number, node in enumerate(copy.graph.node):
        if not node.name or node.name in used:
            node.name = f"{node.op_type}_{number}_"
        used.add(node.name)
    return onnx.shape_inference.infer_shapes(copy)


def castable(model: onnx.ModelProto, precision: str) -> Places:
    """Return the nodes that the operator's schema lets compute in the precision: their float32 inputs and outputs.

    `model`: `prepared`. Left out: nodes with subgraphs, casts, and inputs of a fixed type, such as a resize's scales.
    """
    types = element_types(model)
    opsets = {o.domain: o.version for o in model.opset_import}
    found = {}
    for node in model.graph.node:
        if node.domain not in {"", "ai.onnx"} or any(a.HasField("g") or a.graphs for a in node.attribute):
            continue
        schema = onnx.defs.get_schema(node.op_type, opsets.get("", opsets.get("ai.onnx", 1)), "")
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        inputs = {
            i
            for i, name in enumerate(node.input)
            if types.get(name) == TensorProto.FLOAT and _formal(schema.inputs, i) in allowed
        }
        outputs = {i for i, name in enumerate(node.output) if name and types.get(name) == TensorProto.FLOAT}
        variables = {_formal(schema.inputs, i) for i in inputs}
        # Q writes no float, and DQ writes the type of its scale, which from opset 23 on is another type variable.
        typed = node.op_type in _QDQ or (outputs and all(_formal(schema.outputs, i) in variables for i in outputs))
        if inputs and typed and all(_TYPES[precision] in allowed[v] for v in variables):
            found[node.name] = (inputs, outputs)
    return found


def simulated(
    model: onnx.ModelProto, precision: str, nodes: Collection[str], places: Places | None = None
) -> onnx.ModelProto:
    """Return the float32 model in which the named nodes read and write values rounded to the precision.

    `places`: `castable`, for a caller who has it.
    """
    return _rebuilt(model, precision, nodes, places, simulate=True)


def cast(model: onnx.ModelProto, precision: str, nodes: Collection[str]) -> onnx.ModelProto:
    """Return the strongly typed model in which the named nodes compute in the precision; its interface stays float32.

    Raises `UserError` when the result is not a valid model.
    """
    result = _rebuilt(model, precision, nodes, None, simulate=False)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
        raise UserError(
            f"The model cannot be cast to {precision}: {' '.join(str(problem).split())[:300]} Expected operators that "
            f"ONNX defines for {precision}; use another precision, or export at a later opset."
        ) from problem
    return result


def _rebuilt(
    model: onnx.ModelProto, precision: str, nodes: Collection[str], places: Places | None, *, simulate: bool
) -> onnx.ModelProto:
    low, places = LOW[precision], castable(model, precision) if places is None else places
    weights = {t.name: t for t in model.graph.initializer}
    built: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    have: set[str] = set()

    def lowered(name: str) -> str:
        """Name of the value in the precision, made where it is first needed."""
        target = f"{name}.{precision}"
        if target in have:
            return target
        have.add(target)
        if name in weights and not simulate:
            values = numpy_helper.to_array(weights[name]).astype(np.float32)
            added.append(_low_tensor(values, target, low))
        elif simulate:
            built.append(helper.make_node("Cast", [name], [f"{target}.low"], name=f"{target}.low", to=low))
            built.append(helper.make_node("Cast", [f"{target}.low"], [target], name=target, to=TensorProto.FLOAT))
        else:
            built.append(helper.make_node("Cast", [name], [target], name=target, to=low))
        return target

    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.name not in nodes:
            built.append(node)
            continue
        inputs, outputs = places[node.name]
        for i in inputs:
            node.input[i] = lowered(node.input[i])
        built.append(node)
        for i in outputs:
            plain = node.output[i]
            node.output[i] = f"{plain}.raw" if simulate else f"{plain}.{precision}"
            if simulate:
                built.append(helper.make_node("Cast", [node.output[i]], [f"{plain}.low"], name=f"{plain}.low", to=low))
                built.append(
                    helper.make_node("Cast", [f"{plain}.low"], [plain], name=f"{plain}.back", to=TensorProto.FLOAT)
                )
            else:
                have.add(node.output[i])
                built.append(
                    helper.make_node("Cast", [node.output[i]], [plain], name=f"{plain}.back", to=TensorProto.FLOAT)
                )
    return _with_nodes(model, built, added)


def without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the nodes and weights that no output hangs on."""
    result = _with_nodes(model, list(model.graph.node), ())
    result.graph.value_info.extend(model.graph.value_info)
    return result


def _with_nodes(
    model: onnx.ModelProto, built: list[onnx.NodeProto], added: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """The model with other nodes, without value types; nodes and weights that nothing reads are left out."""
    graph = onnx.GraphProto(name=model.graph.name, doc_string=model.graph.doc_string)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(built):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_read(node))
    graph.node.extend(kept[::-1])
    graph.initializer.extend(t for t in (*model.graph.initializer, *added) if t.name in needed)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    result = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name, graph=graph)
    for field in ("opset_import", "metadata_props", "functions"):
        getattr(result, field).extend(getattr(model, field))
    return result


def _read(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its subgraphs read included."""
    graphs = [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
    inner = [name for g in graphs for n in g.node for name in _read(n)]
    return {*node.input, *inner, *(o.name for g in graphs for o in g.output)}


def _low_tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], name: str, low: int) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(low)
    return numpy_helper.from_array(values.astype(dtype), name)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX element type of every value with a known type."""
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return types | {t.name: t.data_type for t in graph.initializer}


def _formal(parameters: object, position: int) -> str:
    """Type of a schema's parameter; the last one may be variadic."""
    formal = list(parameters)  # type: ignore[call-overload]
    return str(formal[min(position, len(formal) - 1)].type_str)
