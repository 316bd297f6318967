"""Criteria that read images: how much the outputs of the network change where a channel is scaled.

A channel is scaled by its gate: by its parameters in norms, or, where it passes none, by the weights that produce it.
By Euler's theorem Σ w · dL/dw over these is the derivative of L by a factor on the channel. Group Fisher takes the
weights that read the channel, of every layer that does, instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.graph import Graph, specs
from channelcut.core.groups import Groups, Role
from channelcut.core.inputs import Inputs
from channelcut.core.labels import Targets
from channelcut.core.sensitivity import Weighing, differentiable, images_in, images_of, projections, run
from channelcut.ops.zeros import idle

Scores = NDArray[np.float64]
Gates = Sequence[tuple[Role, ...]]
NORMS: Gates = ((Role.NORM,), (Role.OUT, Role.BIAS, Role.DEPTHWISE, Role.GROUP), (Role.PARAM,), (Role.IN,))
READERS: Gates = ((Role.IN,), *NORMS[:-1])


@dataclass(frozen=True)
class Sample:
    """The images that a criterion reads.

    batches: inputs of the network's forward.
    weighing: what of its outputs counts.
    seed: of the random projections of the outputs, which stand in the place of labels.
    targets: labels and their loss, in the place of `batches` and projections.
    report: called as report(images done, images in all).
    """

    batches: Sequence[Inputs]
    weighing: Weighing = field(default_factory=Weighing)
    seed: int = 0
    report: Callable[[int, int], None] | None = None
    targets: Targets | None = None

    @property
    def images(self) -> int:
        """How many there are."""
        if self.targets is not None:
            return self.targets.size
        return sum(images_in(batch) for batch in self.batches)

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """A number for each image, whose gradients say what matters: of its labels, or a projection of the outputs."""
        if self.targets is not None:
            yield from self.targets.losses(model)
            return
        weighed = projections(model, self.batches, self.weighing, self.seed)
        for place, image in enumerate(self.singles()):
            with torch.enable_grad():
                found = weighed.of(run(model, image), place)
            yield found

    def singles(self) -> Iterator[Inputs]:
        """One image after another, each a batch."""
        for batch in self.batches:
            for image in range(images_in(batch)):
                yield images_of(batch, image, image + 1)


@dataclass(frozen=True)
class Gate:
    """One parameter by whose axis channels are scaled, and which of its positions belong to them."""

    tensor: str
    axis: int
    positions: NDArray[np.int64]
    channels: NDArray[np.int64]


def gates_of(groups: Groups, order: Gates, parameters: set[str]) -> list[Gate]:
    """The parameters by which every channel is scaled: of the first roles in `order` that it has any in."""
    level = np.full(groups.channel_count, len(order))
    ranks = {role: rank for rank, roles in enumerate(order) for role in roles}
    parameters = parameters - idle(groups.graph)
    slots = [slot for slot in groups.slots if slot.tensor in parameters]
    for slot in slots:
        np.minimum.at(level, slot.channels, ranks[slot.role])
    free = groups.group_of() >= 0
    found = []
    for slot in slots:
        positions = np.flatnonzero(free[slot.channels] & (level[slot.channels] == ranks[slot.role]))
        if len(positions):
            found.append(Gate(slot.tensor, slot.axis, positions, slot.channels[positions]))
    return found


def derivatives(groups: Groups, model: nn.Module, sample: Sample, order: Gates) -> NDArray[np.float64]:
    """The derivative of a projection of the outputs, or of the task loss, by a factor on each channel, shape (images,
    channels).

    One image runs at a time, forward and backward, so that memory is that of a training step on one image.

    Raises:
        UserError: an output or a gradient is not finite, or no gradient reaches any channel.
    """
    clone = differentiable(model, parameters=True)
    parameters = {name: p for name, p in clone.named_parameters() if p.requires_grad}
    gates = gates_of(groups, order, set(parameters))
    found = np.zeros((sample.images, groups.channel_count))
    for place, loss in enumerate(sample.losses(clone)):
        for parameter in parameters.values():
            parameter.grad = None
        torch.autograd.backward(loss)
        for gate in gates:
            parameter = parameters[gate.tensor]
            if parameter.grad is not None:
                product = (parameter.detach() * parameter.grad).movedim(gate.axis, 0)
                line = product.reshape(len(product), -1).sum(1).double().cpu().numpy()
                np.add.at(found[place], gate.channels, line[gate.positions])
        if sample.report is not None:
            sample.report(place + 1, sample.images)
    if not np.isfinite(found).all():
        raise UserError(
            "The gradients of the network's outputs, or of its loss, are not finite on the calibration images, so no "
            "importance can be computed of them. Check the images, how they are prepared and their labels, or take an "
            "importance that reads weights alone, such as l2."
        )
    return found


def fisher(groups: Groups, model: nn.Module, sample: Sample) -> Scores:
    """Mean over images of (dL/d factor)²: the diagonal of Fisher information (Theis et al. 2018, arXiv:1801.05787)."""
    return _mean(np.square(derivatives(groups, model, sample, NORMS)))


def taylor(groups: Groups, model: nn.Module, sample: Sample) -> Scores:
    """Mean over images of |dL/d factor|: the first-order change (Molchanov et al. 2019, arXiv:1906.10771)."""
    return _mean(np.abs(derivatives(groups, model, sample, NORMS)))


def group_fisher(groups: Groups, model: nn.Module, sample: Sample) -> Scores:
    """Fisher of all layers that read a channel, by the memory of its activations (Liu 2021, arXiv:2108.00708)."""
    return _mean(np.square(derivatives(groups, model, sample, READERS))) / activation_memory(groups)


def _mean(values: NDArray[np.float64]) -> Scores:
    """The mean over images, shape (channels,)."""
    found: Scores = values.mean(0)
    return found


def activation_memory(groups: Groups) -> Scores:
    """Elements of all layers' outputs that a channel is, for one image, shape (channel_count,); at least 1."""
    found = np.zeros(groups.channel_count)
    for work in groups.work:
        shapes = specs(groups.graph.nodes[work.node].value) if work.node >= 0 else []
        if len(work.rows) and shapes:
            np.add.at(found, work.rows, np.prod(shapes[0].shape) / len(work.rows) / batch_of(groups.graph))
    return np.maximum(found, 1.0)


def batch_of(graph: Graph) -> int:
    """The images of the example that was traced."""
    sizes = [spec.shape[0] for node in graph.nodes if node.kind == "input" for spec in specs(node.value) if spec.shape]
    return max(1, sizes[0]) if sizes else 1
