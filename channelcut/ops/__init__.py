"""What is known of every op, one file a family; importing this package fills the table."""

from channelcut.ops import (
    along,
    attention,
    conv,
    fresh,
    indexing,
    movement,
    norm,
    pointwise,
    proportional,
    recurrent,
    reduce,
    regions,
    spatial,
    weights,
)

__all__ = [
    "along",
    "attention",
    "conv",
    "fresh",
    "indexing",
    "movement",
    "norm",
    "pointwise",
    "proportional",
    "recurrent",
    "reduce",
    "regions",
    "spatial",
    "weights",
]
