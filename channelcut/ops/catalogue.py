"""The op rules, by family. Importing this package fills the table; see CONTRIBUTING.md for how to add one."""

from channelcut.ops import attention, conv, movement, norm, pointwise, recurrent, reduce, spatial

__all__ = ["attention", "conv", "movement", "norm", "pointwise", "recurrent", "reduce", "spatial"]
