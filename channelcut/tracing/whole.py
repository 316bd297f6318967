"""Functions of torch as one step each, where the ops that they are made of say less than their name."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from channelcut.tracing.functions import Record, Table

_PAD = ("input", "pad", "mode", "value")
_DISTANCE = ("x1", "x2", "p", "compute_mode")
_BILINEAR = ("input1", "input2", "weight", "bias")
_MODES = {"use_mm_for_euclid_dist": 1, "donot_use_mm_for_euclid_dist": 2}


def whole(record: Record) -> Table:
    """Circular padding, distances and bilinear layers as `aten::pad`, `aten::cdist` and `aten::bilinear`.

    Circular padding is written piece by piece into an empty tensor; a bilinear layer and distances are sums over views.
    """

    def pad(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(_PAD, args, strict=False)) | kwargs
        if named.get("mode") != "circular":
            return func(*args, **kwargs)
        positional = (named["input"], [int(amount) for amount in named["pad"]], "circular", None)
        return record(torch.ops.aten.pad.default, positional, {}, lambda: func(*args, **kwargs))

    def distance(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(_DISTANCE, args, strict=False)) | kwargs
        mode = _MODES.get(named.get("compute_mode", ""))
        positional = (named["x1"], named["x2"], float(named.get("p", 2.0)), mode)
        return record(torch.ops.aten.cdist.default, positional, {}, lambda: func(*args, **kwargs))

    def bilinear(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(_BILINEAR, args, strict=False)) | kwargs
        positional = (named["input1"], named["input2"], named["weight"], named.get("bias"))
        return record(torch.ops.aten.bilinear.default, positional, {}, lambda: func(*args, **kwargs))

    return {F.pad: pad, torch._C._nn.pad: pad, torch.cdist: distance, F.bilinear: bilinear, torch.bilinear: bilinear}
