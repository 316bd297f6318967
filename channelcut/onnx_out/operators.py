"""Operators that torch's ONNX exporter does not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` takes as `custom_translation_table`."""
    return {torch.ops.aten.adaptive_max_pool2d.default: _adaptive_max_pool2d}


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
