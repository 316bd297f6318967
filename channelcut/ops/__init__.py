"""What is known of every op, one file a family; importing this package fills the table."""

from channelcut.ops import attention, conv, fresh, movement, norm, pointwise, recurrent, reduce, spatial, weights

__all__ = ["attention", "conv", "fresh", "movement", "norm", "pointwise", "recurrent", "reduce", "spatial", "weights"]
