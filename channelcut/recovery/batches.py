"""Calibration data as batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from channelcut.core.errors import UserError
from channelcut.core.inputs import Inputs
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
