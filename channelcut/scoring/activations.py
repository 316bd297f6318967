"""Activation energy: the mean square of what a channel gives to the layers that read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from channelcut.core.groups import Groups
from channelcut.core.sensitivity import differentiable, images_in, run
from channelcut.scoring.gradients import Sample, Scores
from channelcut.scoring.readers import Reader, readers_of


def activation_energy(groups: Groups, model: nn.Module, sample: Sample) -> Scores:
    """Mean x² over images, places and readers, divided by the mean of the lane; 1 where no layer of torch reads it."""
    clone = differentiable(model)
    total, count = np.zeros(groups.channel_count), np.zeros(groups.channel_count)

    def note(reader: Reader) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            energy = reader.rows(args[0].detach()).double().square()
            np.add.at(total, reader.channels, energy.sum(0).cpu().numpy())
            np.add.at(count, reader.channels, float(len(energy)))

        return hook

    handles = [
        clone.get_submodule(reader.path).register_forward_pre_hook(note(reader)) for reader in readers_of(groups, clone)
    ]
    try:
        done = 0
        for batch in sample.batches:
            with torch.no_grad():
                run(clone, batch)
            done += images_in(batch)
            if sample.report is not None:
                sample.report(done, sample.images)
    finally:
        for handle in handles:
            handle.remove()
    found = np.ones(groups.channel_count)
    for group in groups.groups:
        for lane in group.lanes:
            energy = total[lane] / np.maximum(count[lane], 1.0)
            mean = float(energy.mean())
            if count[lane].any() and mean > 0:
                found[lane] = energy / mean
    return found
