"""Ops that give s · f(x) for s · x where s is positive: how a factor gets from a mean to the weights that read it."""

from __future__ import annotations

from channelcut.ops.registry import know

know(
    "aten.relu", "aten.relu_", "aten.leaky_relu", "aten.leaky_relu_", "aten.abs", "aten.neg", "aten.dropout",
    "aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten._to_copy", "aten.to", "aten.avg_pool2d",
    "aten.max_pool2d", "aten.adaptive_avg_pool2d", "aten._adaptive_avg_pool2d", "aten.upsample_nearest2d",
    "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.reflection_pad2d", "aten.replication_pad2d",
    proportional="stays",
)  # fmt: skip
know(
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.squeeze", "aten.unsqueeze", "aten.flatten", "aten.expand",
    "aten.permute", "aten.transpose", "aten.t",
    proportional="moves",
)  # fmt: skip
know("aten.cat", proportional="joins")
know("aten.mul", "aten.div", proportional="by a number")
know("aten.linear", "aten.addmm", "aten.mm", affine=True)
know("aten.mean", averages=True)
