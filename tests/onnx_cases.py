"""Tiny ONNX graphs of one operator each, in every variant that is easy to get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


@dataclass
class Case:
    """One node: `inputs` are fed, `constants` are initializers, both by position; None leaves a position out."""

    op: str
    label: str
    inputs: dict[int, Array]
    constants: dict[int, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 17

    @property
    def name(self) -> str:
        return f"{self.op}-{self.label}-{self.opset}"

    def model(self, double: bool = False) -> onnx.ModelProto:
        arrays = {**self.inputs, **self.constants}
        if double:
            arrays = {p: widen(a) for p, a in arrays.items()}
        count = max(arrays, default=-1) + 1
        names = [f"i{p}" if p in arrays else "" for p in range(count)]
        node = helper.make_node(
            self.op, names, [f"o{n}" for n in range(self.outputs)], name=f"the_{self.op}", **self.attributes
        )
        feeds = [
            helper.make_tensor_value_info(f"i{p}", helper.np_dtype_to_tensor_dtype(arrays[p].dtype), arrays[p].shape)
            for p in self.inputs
        ]
        results = [helper.make_empty_tensor_value_info(f"o{n}") for n in range(self.outputs)]
        stored = [numpy_helper.from_array(arrays[p], f"i{p}") for p in self.constants]
        return make(helper.make_graph([node], "case", feeds, results, stored), self.opset)

    def feeds(self, double: bool = False) -> dict[str, Array]:
        return {f"i{p}": widen(a) if double else a for p, a in self.inputs.items()}


def widen(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def make(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """A model with inferred types, because ONNX Runtime wants those of the outputs."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for mine, theirs in zip(model.graph.output, inferred.graph.output, strict=True):
        mine.CopyFrom(theirs)
    return model


def f(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(f(*shape)) + np.float32(0.1)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def conv_cases() -> list[Case]:
    x, w, b = f(2, 4, 9, 8), f(6, 4, 3, 3), f(6)
    one, grouped, cube = f(5, 3, 3), f(8, 2, 3, 3), f(2, 3, 2, 2, 2)

    def c(label: str, source: Array, weight: Array, bias: Array | None = None, **attributes: Any) -> Case:
        constants = {1: weight} if bias is None else {1: weight, 2: bias}
        return Case("Conv", label, {0: source}, constants, attributes)

    return [
        c("plain", x, w, b),
        c("strides", x, w, b, strides=[2, 1], pads=[1, 1, 1, 1]),
        c("asymmetric", x, w, None, pads=[0, 1, 2, 1]),
        c("same_upper", x, w, b, auto_pad="SAME_UPPER", strides=[2, 2]),
        c("same_lower", x, w, b, auto_pad="SAME_LOWER", strides=[2, 2]),
        c("valid", x, w, b, auto_pad="VALID", dilations=[2, 1]),
        c("groups", x, grouped, None, group=2, pads=[1, 1, 1, 1]),
        c("depthwise", x, f(4, 1, 3, 3), f(4), group=4),
        c("1d", f(2, 3, 10), one, f(5), pads=[1, 0]),
        c("3d", f(1, 3, 4, 5, 4), cube, None, pads=[1, 0, 0, 0, 0, 1]),
        Case("Conv", "computed_weight", {0: x, 1: w}, {2: b}, {"pads": [1, 1, 1, 1]}),
    ]


def transposed_cases() -> list[Case]:
    x, w = f(2, 4, 5, 6), f(4, 3, 3, 3)

    def c(label: str, source: Array, weight: Array, bias: Array | None = None, **attributes: Any) -> Case:
        constants = {1: weight} if bias is None else {1: weight, 2: bias}
        return Case("ConvTranspose", label, {0: source}, constants, attributes)

    return [
        c("plain", x, w, f(3)),
        c("strides", x, w, f(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        c("asymmetric", x, w, strides=[2, 1], pads=[0, 1, 1, 0]),
        c("same_upper", x, w, strides=[2, 2], auto_pad="SAME_UPPER"),
        c("same_lower", x, w, strides=[2, 2], auto_pad="SAME_LOWER"),
        c("output_shape", x, w, strides=[2, 2], output_shape=[10, 12]),
        c("groups", x, f(4, 2, 2, 2), f(4), group=2, dilations=[2, 1]),
        c("1d", f(1, 2, 5), f(2, 3, 4), None, strides=[2]),
        c("3d", f(1, 2, 3, 3, 3), f(2, 2, 2, 2, 2), None, strides=[2, 2, 2]),
        Case("ConvTranspose", "computed_weight", {0: x, 1: w}, {}, {"strides": [2, 2]}),
    ]


def linear_cases() -> list[Case]:
    a, b = f(3, 5), f(5, 4, seed=1)
    scaled = {"alpha": 0.5, "beta": 2.0}
    return [
        Case("Gemm", "plain", {0: a}, {1: b, 2: f(4)}),
        Case("Gemm", "transB", {0: a}, {1: f(4, 5), 2: f(4)}, {"transB": 1}),
        Case("Gemm", "transA_scaled", {0: f(5, 3)}, {1: b, 2: f(1, 4)}, {"transA": 1, **scaled}),
        Case("Gemm", "matrix_added", {0: a}, {1: b, 2: f(3, 4)}, scaled),
        Case("Gemm", "scalar_added", {0: a}, {1: b, 2: f(1)}, scaled),
        Case("Gemm", "no_bias", {0: a}, {1: b}, {"alpha": 0.5}),
        Case("Gemm", "computed", {0: a, 1: f(4, 5), 2: f(4)}, {}, {"transB": 1, **scaled}),
        Case("Gemm", "constant_left", {1: b}, {0: a, 2: f(4)}),
        Case("MatMul", "weight", {0: f(2, 3, 5)}, {1: b}),
        Case("MatMul", "weight_left", {1: f(2, 5, 3)}, {0: f(4, 5)}),
        Case("MatMul", "batched_weight", {0: f(2, 3, 5)}, {1: f(2, 5, 4)}),
        Case("MatMul", "computed", {0: f(2, 3, 5), 1: f(2, 5, 4)}),
        Case("MatMul", "vector", {0: f(5)}, {1: b}),
        Case("Einsum", "attention", {0: f(2, 3, 4), 1: f(2, 5, 4)}, {}, {"equation": "b i d, bjd -> bij"}),
    ]


def norm_cases() -> list[Case]:
    x = f(2, 4, 5, 3)
    stats = {1: f(4), 2: f(4, seed=1), 3: f(4, seed=2), 4: positive(4)}
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    return [
        Case("BatchNormalization", "2d", {0: x}, stats, {"epsilon": 1e-3}),
        Case("BatchNormalization", "1d", {0: f(2, 4, 5)}, stats),
        Case("BatchNormalization", "0d", {0: f(3, 4)}, stats),
        Case("BatchNormalization", "3d", {0: f(2, 4, 2, 3, 2)}, stats, opset=9),
        Case("InstanceNormalization", "2d", {0: x}, {1: f(4), 2: f(4, seed=1)}, {"epsilon": 1e-3}),
        Case("InstanceNormalization", "1d", {0: f(2, 4, 7)}, {1: ones, 2: zeros}),
        Case("GroupNormalization", "per_group", {0: x}, {1: f(2), 2: f(2, seed=1)}, {"num_groups": 2}, opset=18),
        Case("GroupNormalization", "per_channel", {0: x}, {1: f(4), 2: f(4, seed=1)}, {"num_groups": 2}, opset=21),
        Case("LayerNormalization", "last", {0: f(2, 5, 6)}, {1: f(6), 2: f(6, seed=1)}),
        Case("LayerNormalization", "no_bias", {0: f(2, 5, 6)}, {1: f(6)}, {"axis": -1, "epsilon": 1e-2}),
        Case("LayerNormalization", "several", {0: f(2, 5, 6)}, {1: f(5, 6), 2: f(5, 6, seed=1)}, {"axis": 1}),
        Case("PRelu", "channels", {0: x}, {1: f(4, 1, 1)}),
        Case("PRelu", "one", {0: x}, {1: f(1, 1, 1)}),
        Case("PRelu", "last_axis", {0: x}, {1: f(3)}),
        Case("PRelu", "computed", {0: x, 1: f(4, 1, 1)}),
    ]


def pool_cases() -> list[Case]:
    x = f(2, 3, 9, 8)
    k, two = {"kernel_shape": [3, 3]}, {"kernel_shape": [2, 2]}
    return [
        Case("MaxPool", "plain", {0: x}, {}, {**k, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        Case("MaxPool", "asymmetric", {0: x}, {}, {**k, "pads": [0, 1, 2, 1]}),
        Case("MaxPool", "ceil", {0: x}, {}, {**k, "strides": [2, 2], "ceil_mode": 1}),
        Case("MaxPool", "ceil_padded", {0: x}, {}, {**k, "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
        Case("MaxPool", "wide_padding", {0: x}, {}, {**k, "pads": [2, 2, 2, 2]}),
        Case("MaxPool", "dilated", {0: x}, {}, {**k, "dilations": [2, 2]}),
        Case("MaxPool", "same_upper", {0: x}, {}, {**two, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        Case("MaxPool", "same_lower", {0: x}, {}, {**two, "auto_pad": "SAME_LOWER"}),
        Case("MaxPool", "1d", {0: f(2, 3, 9)}, {}, {"kernel_shape": [2], "strides": [2]}),
        Case("MaxPool", "3d", {0: f(1, 2, 4, 5, 4)}, {}, {"kernel_shape": [2, 2, 2]}),
        Case("AveragePool", "plain", {0: x}, {}, {**k, "strides": [2, 2]}),
        Case("AveragePool", "padding_left_out", {0: x}, {}, {**k, "pads": [1, 1, 1, 1]}),
        Case("AveragePool", "padding_counted", {0: x}, {}, {**k, "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        Case("AveragePool", "asymmetric", {0: x}, {}, {**k, "pads": [0, 1, 2, 1]}),
        Case("AveragePool", "asymmetric_counted", {0: x}, {}, {**k, "pads": [0, 1, 2, 1], "count_include_pad": 1}),
        Case("AveragePool", "same_upper", {0: x}, {}, {**k, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        Case("AveragePool", "same_lower", {0: x}, {}, {**two, "auto_pad": "SAME_LOWER"}),
        Case("AveragePool", "ceil", {0: x}, {}, {**k, "strides": [2, 2], "ceil_mode": 1}),
        Case(
            "AveragePool", "ceil_counted", {0: x}, {},
            {**k, "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1}, opset=19,
        ),
        Case("AveragePool", "1d", {0: f(2, 3, 9)}, {}, {"kernel_shape": [3], "pads": [1, 0]}),
        Case("AveragePool", "3d", {0: f(1, 2, 4, 5, 4)}, {}, {"kernel_shape": [2, 2, 2]}),
        Case("GlobalAveragePool", "2d", {0: x}),
        Case("GlobalAveragePool", "1d", {0: f(2, 3, 5)}),
        Case("GlobalMaxPool", "2d", {0: x}),
    ]  # fmt: skip


def unary_cases() -> list[Case]:
    x, p = f(2, 3, 4) * 3, positive(2, 3, 4)
    plain = "Abs Ceil Cos Erf Exp Floor HardSwish Mish Neg Relu Round Sigmoid Sign Sin Softplus Softsign Tan Tanh Atan"
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    nan = np.array([1, np.nan, np.inf, -1], np.float32)
    return [
        *[Case(op, "plain", {0: x}, opset=20) for op in plain.split()],
        *[Case(op, "plain", {0: p}) for op in ("Log", "Sqrt", "Reciprocal")],
        Case("Round", "halves", {0: halves}),
        Case("IsNaN", "plain", {0: nan}),
        Case("LeakyRelu", "default", {0: x}),
        Case("LeakyRelu", "alpha", {0: x}, {}, {"alpha": 0.2}),
        Case("Elu", "alpha", {0: x}, {}, {"alpha": 0.7}),
        Case("Celu", "alpha", {0: x}, {}, {"alpha": 0.7}),
        Case("Selu", "default", {0: x}),
        Case("Selu", "custom", {0: x}, {}, {"alpha": 1.2, "gamma": 0.9}),
        Case("ThresholdedRelu", "alpha", {0: x}, {}, {"alpha": 0.6}),
        Case("HardSigmoid", "default", {0: x}),
        Case("HardSigmoid", "torch", {0: x}, {}, {"alpha": 1 / 6, "beta": 0.5}),
        Case("Gelu", "exact", {0: x}, opset=20),
        Case("Gelu", "tanh", {0: x}, {}, {"approximate": "tanh"}, opset=20),
        Case("Clip", "attributes", {0: x}, {}, {"min": -0.5, "max": 6.0}, opset=6),
        Case("Clip", "inputs", {0: x}, {1: scalar(-0.5), 2: scalar(6)}),
        Case("Clip", "only_max", {0: x}, {2: scalar(1)}),
        Case("Clip", "computed", {0: x, 1: scalar(-1)}, {2: scalar(1)}),
        Case("Clip", "whole_numbers", {0: ints(-5, 0, 5, 9)}, {1: np.array(0), 2: np.array(6)}),
        Case("Identity", "plain", {0: x}),
        Case("Dropout", "inference", {0: x}),
        Case("Dropout", "old", {0: x}, {}, {"ratio": 0.3}, opset=10),
    ]


def arithmetic_cases() -> list[Case]:
    x, y, channels = f(2, 3, 4), f(2, 3, 4, seed=1), f(3, 1)
    whole, other = ints(-7, -3, 0, 4, 9), ints(2, -2, 3, -3, 4)
    floats, dividers = f(6) * 5, f(6, seed=1)
    cases = [Case(op, "two", {0: x, 1: y}) for op in ("Add", "Sub", "Mul", "Div")]
    cases += [Case(op, "number", {0: x}, {1: scalar(2.5)}) for op in ("Add", "Sub", "Mul", "Div")]
    cases += [Case(op, "number_first", {1: x}, {0: scalar(2.5)}) for op in ("Add", "Sub", "Mul", "Div")]
    cases += [Case(op, "channels", {0: x}, {1: channels}) for op in ("Add", "Sub", "Mul", "Div")]
    cases += [Case(op, "higher_rank", {0: f(4)}, {1: f(1, 1, 1)}) for op in ("Add", "Mul")]
    cases += [Case(op, "three", {0: x, 1: y, 2: channels}) for op in ("Sum", "Mean", "Max", "Min")]
    cases += [Case(op, "one", {0: x}) for op in ("Sum", "Max")]
    cases += [
        Case(op, label, {0: x, 1: np.where(y > 0, x, y)}, opset=opset)
        for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
        for label, opset in (("two", 16),)
    ]
    truth, lies = x > 0, y > 0
    cases += [Case(op, "two", {0: truth, 1: lies}) for op in ("And", "Or", "Xor")]
    return [
        *cases,
        Case("Not", "plain", {0: truth}),
        Case("Less", "number", {0: x}, {1: scalar(0.1)}),
        Case("Greater", "number_first", {1: x}, {0: scalar(0.1)}),
        Case("Div", "whole_numbers", {0: whole}, {1: other}),
        Case("Mod", "sign_of_divisor", {0: whole}, {1: other}),
        Case("Mod", "fmod", {0: floats}, {1: dividers}, {"fmod": 1}),
        Case("Pow", "number", {0: x}, {1: scalar(2)}),
        Case("Pow", "number_base", {1: x}, {0: scalar(2)}),
        Case("Pow", "mixed_types", {0: positive(3)}, {1: ints(1, 2, 3)}),
        Case("Pow", "whole_base", {0: ints(1, 2, 3)}, {1: scalar(2)}),
        Case("Where", "two", {0: truth, 1: x, 2: y}),
        Case("Where", "number", {0: truth, 1: x}, {2: scalar(-3)}),
        Case("Where", "numbers", {0: truth}, {1: scalar(1), 2: scalar(0)}),
        Case("Where", "constant_mask", {1: x, 2: y}, {0: truth}),
        Case("Cast", "to_int", {0: x * 3}, {}, {"to": TensorProto.INT64}),
        Case("Cast", "to_bool", {0: np.round(x)}, {}, {"to": TensorProto.BOOL}),
        Case("Cast", "to_float", {0: whole}, {}, {"to": TensorProto.FLOAT}),
        Case("CastLike", "to_int", {0: x * 3, 1: whole}),
    ]


def shape_cases() -> list[Case]:
    x = f(2, 6, 4, 4)
    return [
        Case("Reshape", "heads", {0: x}, {1: ints(2, 2, -1, 16)}),
        Case("Reshape", "copied", {0: x}, {1: ints(0, 0, -1)}),
        Case("Reshape", "flat", {0: x}, {1: ints(2, -1)}),
        Case("Reshape", "everything", {0: x}, {1: ints(-1)}),
        Case("Reshape", "mixed", {0: x}, {1: ints(4, 3, 4, 4)}),
        Case("Reshape", "across", {0: x}, {1: ints(3, 4, 16)}),
        Case("Reshape", "units", {0: f(1, 6, 1, 1)}, {1: ints(6)}),
        Case("Reshape", "new_units", {0: f(2, 6)}, {1: ints(1, 2, 6, 1, 1)}),
        Case("Reshape", "scalar", {0: f(1, 1)}, {1: ints()}),
        Case("Reshape", "allowzero", {0: f(2, 3)}, {1: ints(3, -1)}, {"allowzero": 1}),
        Case("Flatten", "default", {0: x}),
        Case("Flatten", "zero", {0: x}, {}, {"axis": 0}),
        Case("Flatten", "negative", {0: x}, {}, {"axis": -1}),
        Case("Flatten", "all", {0: x}, {}, {"axis": 4}),
        Case("Squeeze", "all", {0: f(1, 3, 1, 2)}, opset=11),
        Case("Squeeze", "attribute", {0: f(1, 3, 1, 2)}, {}, {"axes": [0, -2]}, opset=11),
        Case("Squeeze", "input", {0: f(1, 3, 1, 2)}, {1: ints(2)}, opset=13),
        Case("Unsqueeze", "attribute", {0: f(3, 2)}, {}, {"axes": [0, 3]}, opset=11),
        Case("Unsqueeze", "input", {0: f(3, 2)}, {1: ints(-1, 0)}, opset=13),
        Case("Transpose", "default", {0: f(2, 3, 4)}),
        Case("Transpose", "order", {0: x}, {}, {"perm": [0, 2, 3, 1]}),
        Case("Expand", "grows", {0: f(3, 1)}, {1: ints(2, 1, 6)}),
        Case("Expand", "shorter_shape", {0: f(2, 1, 4)}, {1: ints(3, 1)}),
        Case("Tile", "plain", {0: f(2, 3)}, {1: ints(2, 2)}),
        Case("Shape", "plain", {0: x}),
        Case("Shape", "part", {0: x}, {}, {"start": 1, "end": -1}),
        Case("Size", "plain", {0: x}),
        Case("Constant", "floats", {}, {}, {"value_floats": [1.0, 2.0]}),
        Case("Constant", "int", {}, {}, {"value_int": 3}),
        Case("Constant", "tensor", {}, {}, {"value": numpy_helper.from_array(f(2, 3))}),
        Case("ConstantOfShape", "zeros", {}, {0: ints(2, 3)}),
        Case("ConstantOfShape", "ones", {}, {0: ints(2)}, {"value": numpy_helper.from_array(ints(1))}),
        Case("Range", "whole", {}, {0: np.array(2), 1: np.array(9), 2: np.array(3)}),
        Case("Range", "float", {}, {0: scalar(1), 1: scalar(2), 2: scalar(0.25)}),
    ]


def movement_cases() -> list[Case]:
    x = f(2, 6, 4, 4)
    vector = f(9)
    return [
        Case("Concat", "channels", {0: x, 1: f(2, 3, 4, 4)}, {}, {"axis": 1}),
        Case("Concat", "negative_axis", {0: x, 1: x}, {}, {"axis": -1}),
        Case("Concat", "constant", {0: f(1, 3, 4)}, {1: f(1, 2, 4)}, {"axis": 1}),
        Case("Split", "attribute", {0: x}, {}, {"axis": 1, "split": [2, 4]}, 2, opset=11),
        Case("Split", "equal", {0: x}, {}, {"axis": 1}, 3, opset=11),
        Case("Split", "input", {0: x}, {1: ints(1, 2, 3)}, {"axis": -3}, 3, opset=13),
        Case("Split", "equal_input", {0: x}, {1: ints(3, 3)}, {"axis": 1}, 2, opset=13),
        Case("Split", "common_width", {0: f(2, 32, 3)}, {1: ints(8, 8, 16)}, {"axis": 1}, 3, opset=13),
        Case("Split", "num_outputs", {0: f(7, 2)}, {}, {"num_outputs": 3}, 3, opset=18),
        Case("Split", "one", {0: x}, {}, {"axis": 1}, 1, opset=13),
        Case("Slice", "attributes", {0: x}, {}, {"starts": [1, 0], "ends": [5, -1], "axes": [1, 3]}, opset=9),
        Case("Slice", "default_axes", {0: x}, {1: ints(0, 2), 2: ints(1, 4)}),
        Case("Slice", "steps", {0: x}, {1: ints(1), 2: ints(2**63 - 1), 3: ints(-1), 4: ints(2)}),
        Case("Slice", "backwards", {0: vector}, {1: ints(-1), 2: ints(-(2**63)), 3: ints(0), 4: ints(-1)}),
        Case("Slice", "backwards_part", {0: vector}, {1: ints(7), 2: ints(1), 3: ints(0), 4: ints(-2)}),
        Case("Slice", "backwards_end", {0: vector}, {1: ints(6), 2: ints(-8), 3: ints(0), 4: ints(-3)}),
        Case("Slice", "empty", {0: vector}, {1: ints(5), 2: ints(2)}),
        Case("Slice", "out_of_range", {0: vector}, {1: ints(-20), 2: ints(20)}),
        Case("Gather", "one", {0: x}, {1: np.array(2)}, {"axis": 1}),
        Case("Gather", "negative", {0: x}, {1: np.array(-1)}, {"axis": -1}),
        Case("Gather", "range", {0: x}, {1: ints(1, 2, 3)}, {"axis": 1}),
        Case("Gather", "stride", {0: x}, {1: ints(0, 2, 4)}, {"axis": 1}),
        Case("Gather", "any_order", {0: x}, {1: ints(3, 0, -1)}, {"axis": 1}),
        Case("Gather", "matrix", {0: x}, {1: np.array([[0, 1], [2, 1]])}, {"axis": 2}),
        Case("Gather", "computed", {0: x, 1: ints(1, -1)}, {}, {"axis": 1}),
        Case("Gather", "embedding", {1: np.array([[0, 3], [2, 1]])}, {0: f(5, 4)}),
        Case("GatherElements", "constant", {0: f(3, 4)}, {1: np.array([[0, -1], [2, 1]])}, {"axis": 1}),
        Case("GatherElements", "computed", {0: f(3, 4), 1: np.array([[0, -1], [2, 1]])}, {}, {"axis": 0}),
        Case("GatherND", "elements", {0: f(3, 4)}, {1: np.array([[0, 1], [2, 3]])}),
        Case("GatherND", "slices", {0: f(3, 4, 2)}, {1: np.array([[1], [2]])}),
        Case("ScatterND", "put", {0: f(3, 4), 2: f(2, seed=1)}, {1: np.array([[0, 1], [2, 3]])}),
        Case("ScatterND", "slices", {0: f(3, 4)}, {1: np.array([[2]]), 2: f(1, 4)}),
        Case("ScatterND", "add", {0: f(3), 2: f(2)}, {1: np.array([[1], [1]])}, {"reduction": "add"}, opset=16),
        Case("ScatterElements", "put", {0: f(3, 4), 2: f(1, 2)}, {1: np.array([[1, -1]])}, {"axis": 1}),
        Case("ScatterElements", "add", {0: f(3), 2: f(2)}, {1: ints(1, 1)}, {"reduction": "add"}, opset=16),
        Case("Pad", "attribute", {0: x}, {}, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}, opset=10),
        Case("Pad", "input", {0: x}, {1: ints(0, 1, 1, 2, 0, 2, 3, 0), 2: scalar(-1)}),
        Case("Pad", "crop", {0: x}, {1: ints(0, 0, -1, 0, 0, 0, 1, -1)}),
        Case("Pad", "reflect", {0: x}, {1: ints(0, 0, 1, 2, 0, 0, 3, 0)}, {"mode": "reflect"}),
        Case("Pad", "edge", {0: x}, {1: ints(0, 0, 1, 2, 0, 0, 3, 0)}, {"mode": "edge"}),
        Case("Pad", "axes", {0: x}, {1: ints(1, 2), 3: ints(-1)}, opset=18),
        Case("Pad", "nothing", {0: x}, {1: ints(*[0] * 8)}),
        Case("DepthToSpace", "dcr", {0: f(2, 8, 2, 3)}, {}, {"blocksize": 2}),
        Case("DepthToSpace", "crd", {0: f(2, 8, 2, 3)}, {}, {"blocksize": 2, "mode": "CRD"}),
        Case("Col2Im", "plain", {0: f(2, 12, 15)}, {1: ints(4, 6), 2: ints(2, 2)}, opset=18),
        Case(
            "Col2Im",
            "strided",
            {0: f(2, 27, 9)},
            {1: ints(6, 6), 2: ints(3, 3)},
            {"strides": [2, 2], "pads": [1, 1, 1, 1]},
            opset=18,
        ),
        Case(
            "Col2Im",
            "dilated",
            {0: f(2, 12, 24)},
            {1: ints(6, 8), 2: ints(2, 2)},
            {"dilations": [2, 2]},
            opset=18,
        ),
        Case("SpaceToDepth", "plain", {0: f(2, 3, 4, 6)}, {}, {"blocksize": 2}),
        Case("Trilu", "upper", {0: f(4, 4)}),
        Case("Trilu", "lower", {0: f(4, 4)}, {1: np.array(1)}, {"upper": 0}),
        Case("CumSum", "plain", {0: f(3, 4)}, {1: np.array(1)}),
        Case("CumSum", "reverse", {0: f(3, 4)}, {1: np.array(-1)}, {"reverse": 1, "exclusive": 1}),
    ]


def search_cases() -> list[Case]:
    x = f(2, 5, 4)
    return [
        Case("TopK", "largest", {0: x}, {1: ints(3)}, {"axis": 1}, 2),
        Case("TopK", "smallest", {0: x}, {1: ints(2)}, {"largest": 0}, 2),
        Case("ArgMax", "default", {0: x}),
        Case("ArgMax", "last", {0: x}, {}, {"axis": -1, "keepdims": 0}),
        Case("ArgMin", "axis", {0: x}, {}, {"axis": 1}),
    ]


def reduce_cases() -> list[Case]:
    x = positive(2, 3, 4)
    names = "Mean Sum Max Min Prod L1 L2 SumSquare LogSum LogSumExp".split()
    cases = [Case(f"Reduce{n}", "all", {0: x}, opset=11) for n in names]
    cases += [Case(f"Reduce{n}", "axes", {0: x}, {}, {"axes": [1, -1], "keepdims": 0}, opset=11) for n in names]
    cases += [Case(f"Reduce{n}", "input", {0: x}, {1: ints(0, -1)}, opset=18) for n in names]
    return [
        *cases,
        Case("ReduceSum", "input", {0: x}, {1: ints(-1)}, {"keepdims": 0}, opset=13),
        Case("ReduceSum", "noop", {0: x}, {}, {"noop_with_empty_axes": 1}, opset=13),
        Case("Softmax", "last", {0: x}),
        Case("Softmax", "axis", {0: x}, {}, {"axis": 1}),
        Case("Softmax", "together", {0: x}, opset=11),
        Case("Softmax", "old_last", {0: x}, {}, {"axis": 2}, opset=11),
        Case("LogSoftmax", "axis", {0: x}, {}, {"axis": -2}),
        Case("LogSoftmax", "together", {0: x}, {}, {"axis": 0}, opset=11),
    ]


def resize_cases() -> list[Case]:
    x = f(1, 2, 5, 6)
    up, uneven = np.array([1, 1, 2, 2], np.float32), np.array([1, 1, 0.6, 1.7], np.float32)

    def c(label: str, scales: Array | None = None, sizes: Sequence[int] | None = None, **attributes: Any) -> Case:
        constants = {2: scales} if scales is not None else {3: ints(1, 2, *(sizes or ()))}
        return Case("Resize", label, {0: x}, constants, attributes)

    modes = "asymmetric half_pixel pytorch_half_pixel align_corners".split()
    roundings = "floor ceil round_prefer_floor round_prefer_ceil".split()
    nearest = [
        c(f"nearest_{m}_{r}_{label}", *size, mode="nearest", coordinate_transformation_mode=m, nearest_mode=r)
        for m in modes
        for r in roundings
        for label, size in (("up", (up,)), ("uneven", (uneven,)), ("sizes", (None, (7, 4))))
    ]
    smooth = [
        c(f"{mode}_{m}_{label}", *size, mode=mode, coordinate_transformation_mode=m)
        for mode in ("linear", "cubic")
        for m in ("half_pixel", "pytorch_half_pixel", "align_corners")
        for label, size in (("up", (up,)), ("uneven", (uneven,)), ("sizes", (None, (7, 4))))
    ]
    return [
        *nearest,
        *smooth,
        Case("Resize", "opset10", {0: x}, {1: up}, {"mode": "nearest"}, opset=10),
        Case("Resize", "axes", {0: x}, {3: ints(10, 3)}, {"axes": [2, 3], "mode": "linear"}, opset=18),
        Case("Resize", "antialias", {0: x}, {3: ints(1, 2, 8, 9)}, {"mode": "linear", "antialias": 1}, opset=18),
        Case("Resize", "linear_1d", {0: f(1, 2, 5)}, {2: np.array([1, 1, 2], np.float32)}, {"mode": "linear"}),
        Case("Resize", "same", {0: x}, {2: np.ones(4, np.float32)}),
        Case("Upsample", "nearest", {0: x}, {1: up}, opset=9),
    ]


def recurrent_cases() -> list[Case]:
    """Five moments of three items with four numbers, six units."""

    def c(op: str, label: str, *left_out: int, moved: Sequence[int] = (), **attributes: Any) -> Case:
        gates, count = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if attributes.get("direction") == "bidirectional" else 1
        arrays = {
            0: f(5, 3, 4), 1: f(count, gates * 6, 4), 2: f(count, gates * 6, 6), 3: f(count, gates * 12),
            4: np.array([5, 5, 5], np.int32), 5: f(count, 3, 6), 6: f(count, 3, 6),
        }  # fmt: skip
        present = {p: a for p, a in arrays.items() if p not in left_out and (p < 6 or op == "LSTM")}
        if op == "GRU":
            attributes.setdefault("linear_before_reset", 1)
        fed = {p: a for p, a in present.items() if p == 0 or p in moved}
        constants = {p: a for p, a in present.items() if p not in fed}
        return Case(op, label, fed, constants, {"hidden_size": 6, **attributes}, outputs=3 if op == "LSTM" else 2)

    kinds, directions = ("LSTM", "GRU", "RNN"), ("forward", "reverse", "bidirectional")
    return [
        *(c(kind, direction, 4, 5, 6, direction=direction) for kind in kinds for direction in directions),
        *(c(kind, "no_bias", 3, 4, 5, 6) for kind in kinds),
        *(c(kind, f"states_{direction}", direction=direction) for kind in kinds for direction in directions),
        *(c(kind, "states_of_the_data", 4, moved=(5, 6)) for kind in kinds),
        c("LSTM", "one_state", 4, 6, direction="bidirectional"),
        c("RNN", "relu", 4, 5, activations=["Relu"]),
        c("LSTM", "named", 4, 5, 6, activations=["Sigmoid", "Tanh", "Tanh"]),
    ]


CASES = [
    *conv_cases(), *transposed_cases(), *linear_cases(), *norm_cases(), *pool_cases(), *unary_cases(),
    *arithmetic_cases(), *shape_cases(), *movement_cases(), *search_cases(), *reduce_cases(), *resize_cases(),
    *recurrent_cases(),
]  # fmt: skip
