"""Scaled dot-product attention as one step.

torch decomposes it into another kernel for every device, mask and width, and into a dozen ops where query and value
have different widths. A cut changes widths, so a trace must not depend on that choice.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_ATTENTION = torch._C._nn.scaled_dot_product_attention  # whatever stands in torch.nn.functional calls this
Record = Callable[[Any, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]


class AttentionMode(TorchFunctionMode):
    """Records attention as `aten::scaled_dot_product_attention`.

    `record(target, args, kwargs, run)` makes one step of whatever ops `run` takes. Dropout is left out of the step: a
    random mask couples nothing.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record attention, also inside torch's multi-head layer, which no mode can look into; run anything else."""
        given = kwargs or {}
        if func is _ATTENTION:
            return self._whole(*args, **given)
        if func is torch._nested_tensor_from_mask_left_aligned:
            return False  # so that an encoder does not pack sequences of different lengths into a nested tensor
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **given)
        return func(*args, **given)

    @cached_property
    def _multi_head(self) -> Callable[..., Any]:
        """torch's function, over globals of its own in which attention is one step; torch's module stays as it is."""
        original = F.multi_head_attention_forward
        scope = {**original.__globals__, "scaled_dot_product_attention": self._whole}
        made = types.FunctionType(original.__code__, scope, original.__name__, original.__defaults__)
        made.__kwdefaults__ = original.__kwdefaults__
        scope[original.__name__] = made  # it hands itself to the modes that are entered before this one
        return made

    def _whole(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(_NAMES, args, strict=False)) | kwargs
        causal = bool(given.get("is_causal", False))
        positional = (given["query"], given["key"], given["value"], given.get("attn_mask"), 0.0, causal)
        options: dict[str, Any] = {"enable_gqa": True} if given.get("enable_gqa") else {}
        if given.get("scale") is not None:
            options["scale"] = float(given["scale"])
        target = torch.ops.aten.scaled_dot_product_attention.default
        return self.record(target, positional, options, lambda: _ATTENTION(*args, **kwargs))
