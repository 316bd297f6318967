"""Calibration data as batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs
from channelcut.core.randomness import OwnRandom
from channelcut.recovery.images import Preprocessing, load_images


def calibration_batches(
    calibration: Any, inputs: Inputs, preprocessing: Preprocessing | None, size: int = 32
) -> list[Tensor]:
    """Batches for recalibration: from a folder of images, a tensor (N, ...), or tensors as they are.

    Args:
        calibration: a folder, a tensor, an iterable of tensors, or None.
        inputs: the example, which says the shape that images are brought to.
        preprocessing: how images of a folder become inputs.
        size: images in a batch.

    Raises:
        UserError: a folder of images for a network that does not take one image.
    """
    if calibration is None:
        return []
    if isinstance(calibration, (str, Path)):
        first = next((a for a in (*inputs[0], *inputs[1].values()) if isinstance(a, Tensor)), None)
        if first is None or first.dim() != 4:
            raise UserError(
                "A folder of images fits a network with one image input (N, C, H, W). Pass tensors as calibration "
                "instead."
            )
        channels, height, width = (int(s) for s in first.shape[1:])
        calibration, _ = load_images(Path(calibration), (channels, height, width), preprocessing)
        calibration = calibration.to(first.device, first.dtype)
    if isinstance(calibration, Tensor):
        return [batch for batch in torch.split(calibration, size) if len(batch) > 1 or len(calibration) == 1]
    return list(calibration)


def run_batch(model: nn.Module, batch: Tensor) -> Any:
    """What a model returns for a batch of calibration inputs.

    Raises:
        UserError: the model does not take them.
    """
    try:
        with torch.no_grad(), OwnRandom():
            return model(batch)
    except (RuntimeError, ValueError, TypeError) as error:
        given = "x".join(map(str, batch.shape)) if isinstance(batch, Tensor) else f"a {type(batch).__name__}"
        raise UserError(
            f"The calibration inputs ({given}) do not run through the network: {' '.join(str(error).split())[:300]}. "
            "Expected batches of the inputs that the network takes."
        ) from error
