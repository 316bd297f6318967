"""Dropout while a forward is recorded: left out, in the uncut and in every cut model alike."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

_NAMES = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout")
_DROPOUT = frozenset((*_NAMES, *(f"{name}_" for name in _NAMES)))


class WithoutDropout(TorchFunctionMode):
    """Every dropout gives its input: a random mask couples nothing, and its ops would say that it does.

    Where it is active outside of training too, as in Monte Carlo dropout, the rest is what the forward computes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run any other function."""
        if getattr(func, "__name__", "") in _DROPOUT:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **kwargs or {})
