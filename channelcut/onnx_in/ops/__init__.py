"""The lowerings, one file a family. Importing this package fills the table."""

from channelcut.onnx_in.ops import (
    indexing,
    layers,
    logic,
    movement,
    normalisation,
    pointwise,
    pooling,
    recurrent,
    reduce,
    resize,
    shapes,
)

__all__ = [
    "indexing", "layers", "logic", "movement", "normalisation", "pointwise", "pooling", "recurrent", "reduce",
    "resize", "shapes",
]  # fmt: skip
