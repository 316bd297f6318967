"""`torch.nn.functional.normalize` while a forward is recorded."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from channelcut.tracing.functions import Table


def _broadcast(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same quotient, broadcast: torch's own function repeats the length for each channel."""
    if kwargs.get("out") is not None:
        return func(*args, **kwargs)
    return _quotient(*args, **{name: value for name, value in kwargs.items() if name != "out"})


def _quotient(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:  # noqa: A002  torch's names
    length: Tensor = input.norm(p, dim, keepdim=True).clamp_min(eps)
    return input / length


NORMALIZE: Table = {functional.normalize: _broadcast}
