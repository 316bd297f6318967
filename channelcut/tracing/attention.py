"""Scaled dot-product attention as one step.

torch decomposes it into another kernel for every device, mask and width, and into a dozen ops where query and value
have different widths. A cut changes widths, so a trace must not depend on that choice.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from channelcut.tracing.functions import Record, Table

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_ATTENTION = torch._C._nn.scaled_dot_product_attention  # whatever stands in torch.nn.functional calls this


def attention(record: Record) -> Table:
    """Attention as `aten::scaled_dot_product_attention`, also inside torch's multi-head layer, which no mode can see.

    Dropout is left out of the step: a random mask couples nothing.
    """

    def whole(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(_NAMES, args, strict=False)) | kwargs
        causal = bool(given.get("is_causal", False))
        positional = (given["query"], given["key"], given["value"], given.get("attn_mask"), 0.0, causal)
        options: dict[str, Any] = {"enable_gqa": True} if given.get("enable_gqa") else {}
        if given.get("scale") is not None:
            options["scale"] = float(given["scale"])
        target = torch.ops.aten.scaled_dot_product_attention.default
        return record(target, positional, options, lambda: _ATTENTION(*args, **kwargs))

    return {
        _ATTENTION: lambda func, args, kwargs: whole(*args, **kwargs),  # noqa: ARG005
        F.multi_head_attention_forward: lambda func, args, kwargs: _multi_head(whole)(*args, **kwargs),  # noqa: ARG005
        # so that an encoder does not pack sequences of different lengths into a nested tensor
        torch._nested_tensor_from_mask_left_aligned: lambda func, args, kwargs: False,  # noqa: ARG005
    }


def _multi_head(whole: Callable[..., Any]) -> Callable[..., Any]:
    """torch's function, over globals of its own in which attention is one step; torch's module stays as it is."""
    original = F.multi_head_attention_forward
    scope = {**original.__globals__, "scaled_dot_product_attention": whole}
    made = types.FunctionType(original.__code__, scope, original.__name__, original.__defaults__)
    made.__kwdefaults__ = original.__kwdefaults__
    scope[original.__name__] = made  # it hands itself to modes that the user has entered
    return made
