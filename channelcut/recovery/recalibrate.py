"""Batch-norm recalibration: the statistics of the cut network, measured anew on unlabelled inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.record import add_change
from channelcut.core.result import Recalibration
from channelcut.recovery.batches import batch_length, run_batch


def recalibrate(
    model: nn.Module, batches: Sequence[Any], on_progress: Callable[[int, int], None] | None = None
) -> tuple[nn.Module, Recalibration]:
    """A copy of `model` whose running means and variances are the averages over `batches`.

    Removing channels changes what later layers receive; for a layer without its old inputs the stored statistics are
    wrong, and correcting them costs a few forward passes and no labels (Li et al. 2020, EagleEye, arXiv:2007.02491).

    Args:
        model: a cut network; it is not changed.
        batches: inputs as `channelcut.prune` takes them, or as (args, kwargs), each (N, ...), at least one; batches of
            16 or more give steadier variances.
        on_progress: called with (batches done, batches in all).
    """
    start = time.perf_counter()
    clone = private_copy(model).eval()
    norms = [m for m in clone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average over all batches
        norm.train()
    for done, batch in enumerate(batches, 1):
        run_batch(clone, batch)
        if on_progress is not None:
            on_progress(done, len(batches))  # outside of what is caught: it may cancel with any exception
    for name, buffer in clone.named_buffers():
        if buffer.is_floating_point() and not bool(torch.isfinite(buffer).all()):
            raise UserError(
                f"After recalibration {name} is not finite: the calibration inputs hold NaN, infinity or values far "
                "outside of what the network was trained on. Check the images and how they are prepared."
            )
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    images = sum(batch_length(batch) for batch in batches)
    add_change(clone, {"step": "recalibrate", "images": images, "layers": len(norms)})
    return clone.eval(), Recalibration(images, len(norms), time.perf_counter() - start)
