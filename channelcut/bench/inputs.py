"""Random, image-like inputs for any runner: never zeros."""

from __future__ import annotations

from typing import Any

import numpy as np

from channelcut.core.errors import UserError
from channelcut.engine.protocol import Array
from channelcut.onnx_out.inputs import random_array


def inputs_for(runner: Any, batch: int, seed: int, size: tuple[int, int] | None = None) -> tuple[dict[str, Array], int]:
    """Return inputs by name, and how many items one call computes.

    `runner`: has `inputs`, name to (shape, dtype). An open first axis gets `batch`, open height and width of an image
    get `size`. Raises `UserError` for other open axes, or a runner that does not tell its inputs.
    """
    expected = getattr(runner, "inputs", None)
    if not expected:
        raise UserError("This backend's runner does not tell its inputs, so none can be made for the benchmark.")
    generator = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, (shape, dtype) in expected.items():
        known = {0: batch, **(dict(zip((2, 3), size, strict=True)) if size and len(shape) == 4 else {})}
        opened = [axis for axis, extent in enumerate(shape) if extent is None or extent < 0]
        if not set(opened) <= set(known):
            raise UserError(
                f"Input {name!r} has open axes besides the batch: {shape}. Give the height and width to run at "
                "(--size 640x640), or export with the resolution that you deploy."
            )
        extents = [known[axis] if axis in opened else extent for axis, extent in enumerate(shape)]
        made[name] = random_array(extents, dtype, generator)
    return made, next((a.shape[0] for a in made.values() if a.ndim), 1)


def described(runner: Any) -> str:
    """The inputs in words."""
    return ", ".join(f"{name} {shape} {np.dtype(dtype)}" for name, (shape, dtype) in runner.inputs.items())
