"""Dropout while a forward is recorded: left out, in the uncut and in every cut model alike."""

from __future__ import annotations

from typing import Any

from channelcut.tracing.functions import Table

_NAMES = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout")


def _input(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001  a replacement
    """Every dropout gives its input: a random mask couples nothing, and its ops would say that it does.

    Where it is active outside of training too, as in Monte Carlo dropout, the rest is what the forward computes.
    """
    return args[0] if args else kwargs["input"]


DROPOUT: Table = {f"{name}{ending}": _input for name in _NAMES for ending in ("", "_")}
