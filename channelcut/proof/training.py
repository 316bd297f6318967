"""One training step: the cut model still runs in training mode and every gradient is finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.core.copies import cloned, doubled, private_copy
from channelcut.core.entries import called
from channelcut.core.randomness import OwnRandom
from channelcut.core.trees import opened

NO_TARGETS = " in evaluation mode (the original does not run in training mode without targets)"


def training_step(
    cut_model: nn.Module, original: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> str:
    """Run one forward and backward of a copy of `cut_model`, in training mode where the original can.

    Batch norm needs more than one value a channel in training mode: where the batch does not give them, it is doubled.
    Returns `passed`, what was done instead, or `failed: reason`.
    """
    for training, note in ((True, ""), (False, NO_TARGETS)):
        for inputs in ((args, dict(kwargs or {})), doubled((args, dict(kwargs or {})))):
            error = _step(cut_model, inputs, training=training)
            if error is None:
                return f"passed{note}"
            if _step(original, inputs, training=training) is None:
                return f"failed: {error}"
    return "not possible (the original has no gradients on these inputs either)"


def _step(model: nn.Module, inputs: Any, *, training: bool) -> str | None:
    """The reason why a step fails, or None."""
    clone = private_copy(model).train(training).requires_grad_(True)
    try:
        with torch.enable_grad(), OwnRandom():
            outputs = called(clone, cloned(inputs))
            leaves = [o for o in pytree.tree_leaves(opened(outputs)) if isinstance(o, Tensor) and o.requires_grad]
            if not leaves:
                return "no output depends on a parameter"
            torch.stack([leaf.float().pow(2).mean() for leaf in leaves]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001  the user's forward may raise anything; the reason is returned
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    bad = [n for n, p in clone.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    return f"the gradient of {bad[0]} is not finite" if bad else None
