"""Padding of sliding windows: ONNX's explicit and automatic pads, and the part that a torch layer cannot do itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from channelcut.onnx_in.builder import Value
from channelcut.onnx_in.registry import Call

Pads = list[tuple[int, int]]
"""Before and after, for every spatial axis."""


def setting(call: Call, name: str, count: int) -> list[int]:
    """Strides or dilations: one number for every spatial axis, 1 by default."""
    return [int(v) for v in call.attribute(name) or [1] * count]


def padding(call: Call, source: Value, kernel: Sequence[int]) -> Pads:
    """The pads of a convolution or pool over `source` (N, C, spatial...)."""
    count = len(kernel)
    auto = call.attribute("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0)] * count
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = setting(call, "strides", count), setting(call, "dilations", count)
        pads = []
        for size, k, s, d in zip(source.shape[2:], kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            pads.append(split_padding(total, auto == "SAME_UPPER"))
        return pads
    flat = [int(v) for v in call.attribute("pads") or [0] * (2 * count)]
    return list(zip(flat[:count], flat[count:], strict=True))


def split_padding(total: int, more_after: bool) -> tuple[int, int]:
    """Halves of a padding; the odd element goes to the end or to the beginning."""
    less, more = total // 2, total - total // 2
    return (less, more) if more_after else (more, less)


def symmetric(pads: Pads) -> bool:
    """Whether a torch layer can do this padding itself."""
    return all(before == after >= 0 for before, after in pads)


def padded(call: Call, source: Value, pads: Pads, value: float = 0.0) -> Value:
    """`source` with its trailing axes padded."""
    flat = [amount for before, after in reversed(pads) for amount in (before, after)]
    return call.emit(F.pad, source, flat, "constant", value) if any(flat) else source
