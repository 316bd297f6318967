"""What depends on how values lie in memory, which a cut may change without changing what is computed."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode


class ContiguousLinear(TorchFunctionMode):
    """Gives linear layers contiguous inputs: of others torch makes other ops, with the same result.

    A value of several heads of one channel each may be contiguous where one of two channels each is not.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Copy the input of a linear layer where it is not contiguous."""
        if getattr(func, "__name__", "") == "linear" and args and not args[0].is_contiguous():
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))
