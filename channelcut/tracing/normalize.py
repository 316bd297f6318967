"""`torch.nn.functional.normalize` while a forward is recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NormalizeMode(TorchFunctionMode):
    """The same quotient, broadcast: torch's own function repeats the length for each channel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run any other function."""
        given = dict(kwargs or {})
        if func is torch.nn.functional.normalize and given.pop("out", None) is None:
            return _quotient(*args, **given)
        return func(*args, **kwargs or {})


def _quotient(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:  # noqa: A002  torch's names
    length: Tensor = input.norm(p, dim, keepdim=True).clamp_min(eps)
    return input / length
