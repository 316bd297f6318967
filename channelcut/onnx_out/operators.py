"""What torch's ONNX exporter does not do, or does not do right: operators, and folding that leaves values alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

LN2 = math.log(2)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` takes as `custom_translation_table`."""
    aten = torch.ops.aten
    return {
        aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
        aten.log_sigmoid.default: _log_sigmoid,
        aten.log_sigmoid_forward.default: lambda source: (_log_sigmoid(source),),
        aten.logaddexp.default: _logaddexp,
        aten.logaddexp2.default: lambda one, other: _scaled(
            _logaddexp(_scaled(one, LN2), _scaled(other, LN2)), 1 / LN2
        ),
    }


def fold_constants(model: Any) -> None:
    """Compute what depends on constants alone, and clear away what nothing needs, in the exporter's model."""
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common

    passes.InlinePass()(model)
    optimizer.fold_constants_ir(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    # Fused here, a layer's weight keeps its name, by which a profile knows the layer.
    kinds = ("conv", "conv_transpose", "gemm")
    fusions = [getattr(common, f"fuse_batchnorm_into_{kind}_rule") for kind in kinds]
    rewriter.rewrite(model, pattern_rewrite_rules=fusions)
    tidying: list[Any] = [
        passes.RemoveUnusedNodesPass,
        passes.RemoveUnusedFunctionsPass,
        passes.RemoveUnusedOpsetsPass,
        passes.DeduplicateInitializersPass,
        passes.CommonSubexpressionEliminationPass,
        passes.NameFixPass,
    ]
    for tidy in tidying:
        tidy()(model)


def _log_sigmoid(source: Any) -> Any:
    """-softplus(-x): the exporter's logarithm of a sigmoid is infinite below -18."""
    import onnxscript

    op = onnxscript.opset18
    return op.Neg(op.Softplus(op.Neg(source)))


def _logaddexp(one: Any, other: Any) -> Any:
    """The larger plus softplus(smaller - larger): the exporter's sum of exponentials is infinite above 88."""
    import onnxscript

    op = onnxscript.opset18
    return op.Add(op.Max(one, other), op.Softplus(op.Neg(op.Abs(op.Sub(one, other)))))


def _scaled(source: Any, factor: float) -> Any:
    import onnxscript

    op = onnxscript.opset18
    return op.Mul(source, op.CastLike(op.Constant(value_float=factor), source))


def _adaptive_max_pool2d(source: Any, output_size: Sequence[int]) -> tuple[Any]:
    """Maxima over windows from floor(i · H / n) to ceil((i + 1) · H / n) (ATen/native/AdaptivePooling.h).

    The sizes must be known. The positions of the maxima, torch's second result, are not given: a forward that reads
    them cannot be exported.
    """
    extents = list(source.shape)[2:]
    if not all(isinstance(extent, int) for extent in extents):
        raise NotImplementedError("adaptive_max_pool2d of an image whose size is open has no ONNX form")
    for axis, (extent, count) in enumerate(zip(extents, output_size, strict=True), 2):
        source = _maxima(source, axis, extent, count)
    return (source,)


def _maxima(source: Any, axis: int, extent: int, count: int) -> Any:
    import onnxscript

    op = onnxscript.opset18
    whole = [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]
    parts = []
    for start, stop in whole:
        bounds = [op.Constant(value_ints=[number]) for number in (start, stop, axis)]
        parts.append(op.ReduceMax(op.Slice(source, *bounds), op.Constant(value_ints=[axis]), keepdims=1))
    return op.Concat(*parts, axis=axis) if count > 1 else parts[0]
