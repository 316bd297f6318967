"""Functions of torch as one step each, where the ops that they are made of say less than their name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Record = Callable[[Any, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]
_PAD = ("input", "pad", "mode", "value")
_DISTANCE = ("x1", "x2", "p", "compute_mode")
_MODES = {"use_mm_for_euclid_dist": 1, "donot_use_mm_for_euclid_dist": 2}


class WholeMode(TorchFunctionMode):
    """Records circular padding, distances and bilinear layers as `aten::pad`, `aten::cdist` and `aten::bilinear`.

    Circular padding is written piece by piece into an empty tensor; a bilinear layer and distances are sums over views.
    `record(target, args, kwargs, run)` makes one step of whatever ops `run` takes.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record such a function; run anything else."""
        given = kwargs or {}

        def run() -> Any:
            return func(*args, **given)

        if func is F.pad or func is torch._C._nn.pad:
            named = dict(zip(_PAD, args, strict=False)) | given
            if named.get("mode") == "circular":
                target = torch.ops.aten.pad.default
                amounts = [int(amount) for amount in named["pad"]]
                return self.record(target, (named["input"], amounts, "circular", None), {}, run)
        if func is torch.cdist:
            named = dict(zip(_DISTANCE, args, strict=False)) | given
            positional = (
                named["x1"],
                named["x2"],
                float(named.get("p", 2.0)),
                _MODES.get(named.get("compute_mode", "")),
            )
            return self.record(torch.ops.aten.cdist.default, positional, {}, run)
        if func is F.bilinear or func is torch.bilinear:
            named = dict(zip(("input1", "input2", "weight", "bias"), args, strict=False)) | given
            positional = (named["input1"], named["input2"], named["weight"], named.get("bias"))
            return self.record(torch.ops.aten.bilinear.default, positional, {}, run)
        return run()
