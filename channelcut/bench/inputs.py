"""Random, image-like inputs for any runner: never zeros."""

from __future__ import annotations

from typing import Any

import numpy as np

from channelcut.core.errors import UserError
from channelcut.engine.protocol import Array
from channelcut.export.inputs import random_array


def inputs_for(runner: Any, batch: int, seed: int) -> tuple[dict[str, Array], int]:
    """Return inputs by name, and how many items one call computes.

    `runner`: has `inputs`, name to (shape, dtype). An open first axis gets `batch`. Raises `UserError` for other open
    axes, or a runner that does not tell its inputs.
    """
    expected = getattr(runner, "inputs", None)
    if not expected:
        raise UserError("This backend's runner does not tell its inputs, so none can be made for the benchmark.")
    generator = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, (shape, dtype) in expected.items():
        if any(extent is None or extent < 0 for extent in shape[1:]):
            raise UserError(
                f"Input {name!r} has open axes besides the batch: {shape}. Export with the resolution that you deploy."
            )
        extents = [batch if extent is None or extent < 0 else extent for extent in shape]
        made[name] = random_array(extents, dtype, generator)
    return made, next((a.shape[0] for a in made.values() if a.ndim), 1)


def described(runner: Any) -> str:
    """The inputs in words."""
    return ", ".join(f"{name} {shape} {np.dtype(dtype)}" for name, (shape, dtype) in runner.inputs.items())
