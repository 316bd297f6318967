"""One optimisation profile: between which shapes an engine's inputs may vary, and for which it is tuned."""

from __future__ import annotations

from typing import Any

from channelcut.core.errors import UserError
from channelcut.engine.protocol import EngineOptions


def add_profile(
    session: Any, builder: Any, network: Any, config: Any, options: EngineOptions
) -> tuple[int, int, int] | None:
    """Add a profile over the open extents; returns the batch range, None where no batch is open.

    Axis 0 is the batch, `options.batch`; axes 2 and 3 of an image are `options.resolution`. Raises `UserError` for
    other open axes, or an open resolution without a range.
    """
    shapes = {}
    open_batch = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(extent < 0 for extent in shape):
            open_batch = open_batch or shape[0] < 0
            shapes[tensor.name] = tuple(_filled(tensor.name, shape, which, options) for which in range(3))
    if not shapes:
        return None
    profile = builder.create_optimization_profile()
    for name, range_ in shapes.items():
        profile.set_shape(name, *range_)
    if config.add_optimization_profile(profile) < 0:
        raise UserError(f"{session.product} refuses the ranges {shapes}: {session.errors}.")
    return options.batch if open_batch else None


def _filled(name: str, shape: tuple[int, ...], which: int, options: EngineOptions) -> tuple[int, ...]:
    """The shape with its open extents filled from the least (0), best (1) or greatest (2) of the options."""
    known = {0: options.batch[which]}
    if options.resolution is not None and len(shape) == 4:
        known |= {2: options.resolution[which][0], 3: options.resolution[which][1]}
    axes = [axis for axis, extent in enumerate(shape) if extent < 0]
    if not set(axes) <= set(known):
        raise UserError(
            f"Input {name!r} of the ONNX model is open along axes {axes}; only the batch (axis 0) may be, and the "
            "height and width of a four-axis input when a range of resolutions is given (--size). "
            "Export with the resolution that you deploy, or give the range."
        )
    return tuple(known[axis] if extent < 0 else extent for axis, extent in enumerate(shape))
