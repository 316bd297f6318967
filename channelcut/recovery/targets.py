"""What the layers of the original give at sampled positions, and how much that matters there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from channelcut.core.graph import Graph, Node, named_outputs
from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.randomness import OwnRandom
from channelcut.core.schema import bound_arguments
from channelcut.core.sensitivity import images_in
from channelcut.ops.execute import Execution
from channelcut.recovery import rows
from channelcut.recovery.layers import Layer, overwritten

Objective = Callable[[Sequence[Tensor], int], Tensor]
"""objective(outputs, number of the batch's first image) -> a number, whose squared gradients say what matters."""

_FLOOR = 0.02  # of the mean weight: what matters to no output still counts a little


@dataclass(frozen=True)
class Pair:
    """The forwards of the original and of its cut on batches of one size, and their tensors by name.

    twins: the original's nodes by those of the cut one.
    """

    original: Graph
    cut: Graph
    twins: Mapping[int, int]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    plan: Plan

    def kept(self, layer: Layer) -> Tensor | None:
        """The output channels of the original's layer that are left, ascending; None for all."""
        kept = self.plan.kept.get(layer.weight, {})
        device = self.after[layer.weight].device
        if not layer.geometry.transposed:
            return torch.tensor(kept[0], device=device) if 0 in kept else None
        node = self.original.nodes[self.twins[layer.node]]
        groups = int(bound_arguments(node.target, node.args, node.kwargs)["groups"])
        ahead, each = self.before[layer.weight].shape[:2]
        whole, own = torch.arange(groups), torch.tensor(kept[1]) if 1 in kept else torch.arange(each)
        if layer.geometry.groups < groups:
            whole = torch.tensor(sorted({position // (ahead // groups) for position in kept[0]}))
        return (whole[:, None] * each + own).flatten().to(device)

    def lines(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Factor and shift of what follows a layer, of the original and of its cut, on the channels that are left."""
        pick = self.kept(layer)
        zeros = torch.zeros(1, dtype=torch.float64, device=self.after[layer.weight].device)
        found = [zeros + part for part in layer.line(self.before)]
        chosen = [part if pick is None or len(part) == 1 else part[pick] for part in found]
        now, moved = layer.line(self.after)
        return chosen[0], chosen[1], zeros + now, zeros + moved


@dataclass
class Target:
    """What a layer of the original gave at sampled positions, batch by batch, on the channels that are left.

    positions, weights: (images, P). outputs, added: (images, P, channels). channels: what each matters, (channels,).
    counted: for how many positions each row stands, (images, P), until `settle` has weighed the rows by it. matter,
    places: what all positions of all images matter together, and how many they are.
    """

    positions: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    added: list[Tensor | None] = field(default_factory=list)
    channels: Tensor | None = None
    matter: float = 0.0
    places: int = 0

    def settle(self) -> None:
        """Weigh every row, once all are there: what matters to no output still counts a little.

        A little beside all images, not those of a batch: how large batches are is to change no result.
        """
        least = _FLOOR * self.matter / max(self.places, 1) + 1e-30
        self.weights = [(found + least) * count for found, count in zip(self.weights, self.counted, strict=True)]
        self.counted = []


class _Watched(Execution):
    """A run of the original that leaves some values, and what `noting[node]` makes of the gradient at a node."""

    def __init__(
        self, graph: Graph, state: Mapping[str, Tensor], batch: Inputs, wanted: Collection[int], spoilt: Collection[int]
    ) -> None:
        super().__init__(graph, state, batch, keep=[index for _, index in named_outputs(graph)])
        self.wanted, self.spoilt = wanted, spoilt
        self.seen: dict[int, Tensor] = {}
        self.noting: dict[int, Callable[[Tensor], None]] = {}

    def start(self, node: Node) -> None:
        """Inputs take gradients, so that all that is computed of them does."""
        super().start(node)
        value = self.env.get(node.index)
        if node.kind == "input" and torch.is_grad_enabled() and isinstance(value, Tensor) and value.is_floating_point():
            self.env[node.index] = value.requires_grad_().clone()  # no leaf: what follows may work in place

    def finish(self, node: Node, value: Any) -> None:
        """Note what is wanted, before anything works in place on it."""
        if node.index in self.wanted:
            self.seen[node.index] = value.detach().clone() if node.index in self.spoilt else value.detach()
            if value.requires_grad and node.index in self.noting:
                value.register_hook(self.noting[node.index])
        super().finish(node, value)


def targets(
    pair: Pair,
    layers: Sequence[Layer],
    batches: Sequence[Inputs],
    positions: Mapping[int, int],
    objective: Objective | None,
    tick: Callable[[], None],
) -> dict[int, Target]:
    """One pass of the original: targets by the node of each layer.

    Args:
        pair: both forwards.
        layers: of the cut one.
        batches: of one size.
        positions: how many to keep of each image, by the node of the layer.
        objective: its squared gradients say how much a position matters; None: all alike.
        tick: called after every batch.

    Returns:
        The targets of all layers but those that nothing depends on which `objective` counts.
    """
    found = {layer.node: Target() for layer in layers}
    kept = {layer.node: pair.kept(layer) for layer in layers}
    first = 0
    for batch in batches:
        notes = {layer.node: _Note(pair, layer, images_in(batch), kept[layer.node]) for layer in layers}
        run = _run(pair, layers, batch, notes, objective, first)
        for layer in [layer for layer in layers if layer.node in found]:
            if objective is not None and notes[layer.node].weights is None:
                del found[layer.node]  # how it may change without harm is not known
            else:
                notes[layer.node].into(found[layer.node], run, positions[layer.node], first)
        del run, notes  # before the next batch takes as much
        first += images_in(batch)
        tick()
    for target in found.values():
        target.settle()
    return found


def _run(
    pair: Pair,
    layers: Sequence[Layer],
    batch: Inputs,
    notes: Mapping[int, _Note],
    objective: Objective | None,
    first: int,
) -> Mapping[int, Tensor]:
    """One batch through the original, and back: the values that are wanted; `notes` have got the gradients."""
    wanted = {pair.twins[index] for layer in layers for index in (layer.node, *layer.added)}
    run = _Watched(pair.original, pair.before, batch, wanted, overwritten(pair.original) & wanted)
    run.noting = {pair.twins[node]: note.gradient for node, note in notes.items()}
    with torch.set_grad_enabled(objective is not None), OwnRandom():
        for node in pair.original.nodes:
            run.step(node)
        if objective is not None:
            outputs = [run.value(index) for _, index in named_outputs(pair.original)]
            objective(outputs, first).backward()  # type: ignore[no-untyped-call]
    return run.seen


@dataclass
class _Note:
    """One layer in a run of the original on so many images: squared gradients by position and by channel."""

    pair: Pair
    layer: Layer
    images: int
    kept: Tensor | None
    weights: Tensor | None = None
    channels: Tensor | None = None

    def gradient(self, gradient: Tensor) -> None:
        """Take in the gradient at the layer's output."""
        squares = self._rows(gradient.detach()).square()
        self.weights, self.channels = squares.sum(2), squares.double().sum((0, 1))

    def into(self, target: Target, seen: Mapping[int, Tensor], count: int, first: int) -> None:
        """Add this batch, from image `first` on, to a target."""
        own = self._rows(seen[self.pair.twins[self.layer.node]])
        if self.weights is None or self.channels is None:  # nobody asked what depends on it
            self.weights, self.channels = torch.ones_like(own[..., 0]), torch.ones_like(own[0, 0], dtype=torch.float64)
        positions, counted = rows.sample(self.weights, count, first)
        added = [rows.at(self._rows(seen[self.pair.twins[index]]), positions) for index in self.layer.added]
        target.positions.append(positions)
        target.counted.append(counted)
        target.weights.append(self.weights.gather(1, positions))
        target.matter += float(self.weights.sum(dtype=torch.float64))
        target.places += self.weights.numel()
        target.outputs.append(rows.at(own, positions))
        target.added.append(torch.stack(added).sum(0) if added else None)
        target.channels = self.channels if target.channels is None else target.channels + self.channels

    def _rows(self, value: Tensor) -> Tensor:
        found = rows.outputs(value, self.layer, self.images)
        return found if self.kept is None else found[..., self.kept]
