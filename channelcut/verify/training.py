"""One training step: the cut model still runs in training mode and every gradient is finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.trace.modes import private_copy


def training_step(
    cut_model: nn.Module, original: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> str:
    """Run one forward and backward of a copy of `cut_model` in training mode.

    Returns `passed`, `failed: reason`, or, where the original needs targets to run in training mode, what was done
    instead.
    """
    error = _step(cut_model, args, kwargs, training=True)
    if error is None:
        return "passed"
    if _step(original, args, kwargs, training=True) is None:
        return f"failed: {error}"
    error = _step(cut_model, args, kwargs, training=False)
    if error is None:
        return "passed in evaluation mode (the original does not run in training mode without targets)"
    if _step(original, args, kwargs, training=False) is not None:
        return "not possible (the original has no gradients on these inputs either)"
    return f"failed: {error}"


def _step(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, *, training: bool) -> str | None:
    """The reason why a step fails, or None."""
    clone = private_copy(model).train(training).requires_grad_(True)
    # Batch norm needs more than one value a channel in training mode, and a 1×1 map of one image has only one.
    doubled = pytree.tree_map_only(
        Tensor, lambda t: torch.cat([t, t]) if t.dim() > 1 else t, (args, dict(kwargs or {}))
    )
    try:
        with torch.enable_grad():
            outputs = clone(*doubled[0], **doubled[1])
            leaves = [o for o in pytree.tree_leaves(outputs) if isinstance(o, Tensor) and o.requires_grad]
            if not leaves:
                return "no output depends on a parameter"
            torch.stack([leaf.float().pow(2).mean() for leaf in leaves]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001  the user's forward may raise anything; the reason is returned
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    bad = [n for n, p in clone.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    return f"the gradient of {bad[0]} is not finite" if bad else None
