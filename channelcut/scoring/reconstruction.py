"""Reconstruction: what a channel takes with it that its readers cannot make up for from the channels that stay.

A layer with weights W reads features x, whose second moments on the images are S. Where the set R goes and the weights
of the kept K are refitted, its outputs miss tr(W_Rᵀ (S_RR − S_RK S_KK⁻¹ S_KR) W_R) (Optimal Brain Surgeon, Hassibi and
Stork 1993; in structures ZipLM, Kurtic et al. 2023, arXiv:2302.04089). Removing the feature that adds least, and
refitting, over and over, gives an order and the price of each: with H = S⁻¹, of c it is |w_c|² / H_cc, then
w ← w − H_·c w_c / H_cc and H ← H − H_·c H_c· / H_cc.

What a miss at an output of the layer counts is how much the network's outputs depend on it: rows of S are weighted by
the squared gradients of random projections of the network's outputs there, and W by the second moments of these
gradients over the layer's outputs (as in K-FAC, Martens and Grosse 2015, arXiv:1503.05671), which makes prices of all
layers comparable. The prices of all layers that read a channel add up, and other groups count as kept. Of a kernel with
several taps each is taken as if it read the features of its own place alone: the neighbours of a place, by which a
refit can do more, are left out, so that S has as many rows as there are channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from channelcut.core.groups import Groups, Ids, Role
from channelcut.core.sensitivity import differentiable, projections, run, watched
from channelcut.scoring.gradients import Sample, Scores, fisher
from channelcut.scoring.readers import Reader, readers_of

_RIDGE = 1e-2  # of the mean of the diagonal: what is nearly a combination of others is not taken for one
_BLOCKS = 128  # steps in which a lane is eliminated at most


@dataclass
class Moments:
    """Of a reader: the weighted moments of its features, shape (features, features), and of its output gradients."""

    features: Tensor
    mean: Tensor
    gradients: Tensor
    weight: float = 0.0

    def add(self, rows: Tensor, weights: Tensor, gradients: Tensor) -> None:
        """Take in rows of features (n, features) with weights (n,), and gradients at outputs (m, outputs)."""
        weighted = rows * weights[:, None]
        self.features += weighted.T @ rows
        self.mean += weighted.sum(0)
        self.gradients += gradients.T @ gradients
        self.weight += float(weights.sum())

    def centred(self) -> Tensor:
        """The moments about the mean: a constant is made up for by a bias, or by the statistics of a norm."""
        return self.features - torch.outer(self.mean, self.mean) / max(self.weight, 1e-30)


@dataclass
class Elimination:
    """A reader while features go: the inverse of its moments, and the factor of its weights as they are refitted."""

    channels: Ids
    inverse: Tensor
    weights: Tensor

    def price(self, lane: Ids) -> Scores:
        """What each channel of a lane that is still there adds if it goes next, shape (len(lane),)."""
        single = self.weights.square().sum(1) / self.inverse.diagonal().clamp_min(1e-30)
        found = np.zeros(len(lane))
        inside = np.isin(self.channels, lane)
        np.add.at(found, np.searchsorted(lane, self.channels[inside]), single[torch.from_numpy(inside)].cpu().numpy())
        return found

    def remove(self, channels: Ids) -> None:
        """Refit without these."""
        places = torch.from_numpy(np.flatnonzero(np.isin(self.channels, channels)))
        if not len(places):
            return
        columns = self.inverse[:, places]
        block = columns[places]
        block = block + 1e-12 * block.diagonal().mean() * torch.eye(len(places), dtype=block.dtype)
        solved = torch.linalg.solve(block, torch.cat([columns.T, self.weights[places]], 1))
        update, weights = solved[:, : len(self.inverse)], solved[:, len(self.inverse) :]
        self.weights = self.weights - columns @ weights
        self.inverse = self.inverse - columns @ update
        self.weights[places] = 0.0
        self.inverse[places] = 0.0
        self.inverse[:, places] = 0.0


def reconstruction(groups: Groups, model: nn.Module, sample: Sample) -> Scores:
    """What the outputs lose with a channel after its readers have been refitted, in the order in which channels go.

    Channels that no convolution or linear layer reads alone, such as the queries and keys of attention, cannot be made
    up for by a refit: theirs is the loss of Fisher's criterion.
    """
    readers = readers_of(groups, model)
    found = fisher(groups, model, sample)
    moments = measured(model, sample, readers)
    whole = [
        eliminated(reader, model.get_submodule(reader.path), moments[reader.path], sample.images)
        for reader in readers
        if reader.path in moments
    ]
    covered = _read_by(groups, readers)
    for group in groups.groups:
        for lane in group.lanes:
            mine = [one for one in whole if np.isin(one.channels, lane).any()]
            if mine and covered[lane].all():
                found[lane] = prices(lane, mine)
    return found


def _read_by(groups: Groups, readers: list[Reader]) -> NDArray[np.bool_]:
    """Which channels are read by these alone, of all weights that mix them, shape (channel_count,)."""
    known = {f"{reader.path}.weight" for reader in readers}
    read, other = np.zeros(groups.channel_count, dtype=bool), np.zeros(groups.channel_count, dtype=bool)
    for slot in groups.slots:
        if slot.role is Role.IN:
            (read if slot.tensor in known else other)[slot.channels] = True
    return read & ~other


def prices(lane: Ids, readers: list[Elimination]) -> Scores:
    """The price of every channel of a lane, shape (len(lane),), ascending in the order in which they go."""
    states = [Elimination(r.channels, r.inverse, r.weights) for r in readers]
    found = np.full(len(lane), np.inf)
    left = np.ones(len(lane), dtype=bool)
    size = -(-len(lane) // _BLOCKS)
    highest = 0.0
    while left.any():
        each = np.sum([state.price(lane) for state in states], axis=0)
        order = np.flatnonzero(left)[np.argsort(each[left], kind="stable")][:size]
        highest = max(highest, float(each[order].max()))
        found[order] = highest
        left[order] = False
        if left.any():
            for state in states:
                state.remove(lane[order])
    return found


def eliminated(reader: Reader, layer: nn.Module, moments: Moments, images: int) -> Elimination:
    """The start of an elimination: nothing has gone yet."""
    second = moments.centred() / images
    ridge = _RIDGE * float(second.diagonal().mean()) + 1e-30
    inverse = torch.linalg.inv(second + ridge * torch.eye(len(second), dtype=second.dtype))
    gradients = moments.gradients / max(moments.weight, 1e-30)
    values, vectors = torch.linalg.eigh(gradients)
    root = vectors * values.clamp_min(0.0).sqrt()  # G = root rootᵀ
    weight = reader.weight(layer).cpu().double()  # (outputs, features, taps)
    factor = torch.einsum("ofk,or->fkr", weight, root).flatten(1)
    if factor.shape[1] > factor.shape[0]:  # the same products in as few columns as there are features
        values, vectors = torch.linalg.eigh(factor @ factor.T)
        factor = vectors * values.clamp_min(0.0).sqrt()
    return Elimination(reader.channels, inverse, factor)


def measured(model: nn.Module, sample: Sample, readers: list[Reader]) -> dict[str, Moments]:
    """The moments of every layer that reads channels, by its path, but those that the outputs do not depend on."""
    clone = differentiable(model)
    weighed = projections(clone, sample.batches, sample.weighing, sample.seed)
    by_path = {reader.path: reader for reader in readers}
    found: dict[str, Moments] = {}
    for place, image in enumerate(sample.singles()):
        with watched(clone, list(by_path), inputs=True) as seen, torch.enable_grad():
            weighed.of(run(clone, image), place).backward()  # type: ignore[no-untyped-call]
        for call in seen:
            if call.gradient is not None and call.given is not None:
                _add(found, by_path[call.path], call.given, call.gradient)
    return found


def _add(found: dict[str, Moments], reader: Reader, given: Tensor, gradient: Tensor) -> None:
    line = reader.line(gradient.dim())
    weights = gradient.square().mean(line, keepdim=True)
    if reader.axis < 0 and given.shape[2:] != gradient.shape[2:]:  # a stride: places between get what is nearest
        share = float(np.prod(gradient.shape[2:]) / np.prod(given.shape[2:]))
        weights = F.interpolate(weights, given.shape[2:], mode="nearest") * share
    outputs = gradient.movedim(line, -1).flatten(0, -2).cpu().double()
    rows, features = reader.rows(given).cpu().double(), len(reader.channels)
    if reader.path not in found:
        empty: Any = lambda *shape: torch.zeros(*shape, dtype=torch.float64)  # noqa: E731
        found[reader.path] = Moments(
            empty(features, features), empty(features), empty(outputs.shape[1], outputs.shape[1])
        )
    found[reader.path].add(rows, weights.flatten().cpu().double(), outputs)
