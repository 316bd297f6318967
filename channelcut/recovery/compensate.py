"""Compensation: the layers behind a cut are refitted, to give what they gave, from what is left of their inputs.

Each layer is a ridge regression towards its old weights, on what the cut network, compensated up to there, hands it;
the target is what the original's layer gave, and where that is added to something, what makes the sums equal (in the
spirit of He et al. 2017, arXiv:1707.06168, and Luo et al. 2017, arXiv:1707.06342).

It takes one pass: the original leaves its layers' outputs at sampled positions, then all batches go through the cut
network side by side, and a layer is solved before it computes. Positions count for how much the network's outputs
depend on them: squared gradients of random projections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from channelcut.core.graph import specs
from channelcut.core.inputs import Inputs
from channelcut.core.randomness import OwnRandom
from channelcut.core.result import Compensation, Refit
from channelcut.core.sensitivity import images_in
from channelcut.ops.execute import Execution
from channelcut.recovery import rows
from channelcut.recovery.layers import Layer, layers_of, reordered
from channelcut.recovery.ridge import RIDGES, Equations
from channelcut.recovery.targets import Objective, Pair, Target, targets

MOST_INPUTS = 8192  # unknowns of one output: their equations take half a GiB
HELD_BACK = 5  # one image in so many judges the refits, and makes none
_UNREAD = "no output that counts depends on it in a way that gradients tell"
_CONSTANT, _NO_GAIN = "its inputs are constant", "a refit does not lower its error on the images held back"


def rows_of_image(layer: Layer, weight: Tensor, images: int) -> int:
    """How many positions of each image make a refit well determined, without taking longer than it must."""
    inputs = rows.matrix(weight, layer.geometry).shape[1]
    return max(16, -(-min(max(30_000, 10 * inputs), 100_000) // images))


def refit(
    pair: Pair,
    batches: Sequence[Inputs],
    objective: Objective | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Compensation:
    """Refit the layers of a cut network, in place: `pair.after` are its tensors.

    Args:
        pair: the original and its cut, traced with batches of this size.
        batches: inputs of both, (N, ...), all of one size, two images at least.
        objective: says what matters, see `targets`.
        on_progress: called with (steps done, steps in all): a step is a batch of the original, or a layer.
    """
    start = time.perf_counter()
    images = sum(map(images_in, batches))
    layers, skipped = layers_of(pair.cut, pair.plan.kept)
    refused = {layer.node: why for layer in layers if (why := _why_not(pair, layer))}
    skipped |= {layer.module: refused[layer.node] for layer in layers if layer.node in refused}
    layers = [layer for layer in layers if layer.node not in refused]
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(batches) + len(layers))

    positions = {layer.node: rows_of_image(layer, pair.after[layer.weight], images) for layer in layers}
    wanted = targets(pair, layers, batches, positions, objective, tick)
    skipped |= {layer.module: _UNREAD for layer in layers if layer.node not in wanted}
    layers = [layer for layer in layers if layer.node in wanted]
    refits = _Cut(pair, layers, batches, _held(images)).refitted(wanted, tick)
    return Compensation(images, tuple(refits), skipped, time.perf_counter() - start, weighted=objective is not None)


def _why_not(pair: Pair, layer: Layer) -> str:
    """Why a layer is left as it is; empty where it is not."""
    if rows.matrix(pair.after[layer.weight], layer.geometry).shape[1] > MOST_INPUTS:
        return f"one output has more than {MOST_INPUTS} inputs"
    axis, kept = -1 if layer.linear else 1, pair.kept(layer)
    before, after = (
        specs(graph.nodes[index].value)[0].shape[axis]
        for graph, index in ((pair.original, pair.twins[layer.node]), (pair.cut, layer.node))
    )
    return "" if (before if kept is None else len(kept)) == after else "its outputs are others than the plan says"


def _held(images: int) -> Tensor:
    """Which images are held back, (images,)."""
    found = torch.zeros(images, dtype=torch.bool)
    found[torch.randperm(images, generator=torch.Generator().manual_seed(0))[: max(1, images // HELD_BACK)]] = True
    return found


@dataclass(frozen=True)
class _Cut:
    """The cut network, about to run on all batches side by side; `held` are the images held back."""

    pair: Pair
    layers: Sequence[Layer]
    batches: Sequence[Inputs]
    held: Tensor

    def refitted(self, wanted: dict[int, Target], tick: Callable[[], None]) -> list[Refit]:
        """Solve every layer before it computes."""
        pair, waiting = self.pair, {layer.node: layer for layer in self.layers}
        order = reordered(pair.cut, self.layers)
        place = {node.index: position for position, node in enumerate(order)}
        found = []
        with torch.no_grad(), OwnRandom():
            runs = [Execution(pair.cut, pair.after, batch, order=order) for batch in self.batches]
            for node in order:
                if not waiting:
                    break
                if (layer := waiting.pop(node.index, None)) is not None:
                    there = all(place[index] < place[layer.node] for index in layer.added)
                    found.append(self._refit(layer, wanted.pop(node.index), runs, there=there))
                    tick()
                for run in runs:
                    run.step(node)
        return found

    def _refit(self, layer: Layer, target: Target, runs: Sequence[Execution], *, there: bool) -> Refit:
        """Fit a layer by all batches; `there`: what its output is added to has been computed."""
        old = self._old(layer)
        groups, inputs, outputs = old.shape
        fitted, held = (Equations.empty(groups, inputs - 1, outputs, old.device) for _ in range(2))
        first = 0
        for number, run in enumerate(runs):
            images = images_in(self.batches[number])
            read = rows.inputs(run.value(layer.read), layer, target.positions[number], self._space(layer))
            goal = self._goal(layer, target, number, run if there else None)
            back = self.held[first : first + images]
            if len(goal) != images:  # rows of several images in one: they are held back as they come
                back = torch.zeros(len(goal), dtype=torch.bool)
                back[::HELD_BACK] = len(goal) >= HELD_BACK
            for equations, mask in ((fitted, ~back), (held, back)):
                chosen = mask.to(read.device)
                x, y, weights = read[chosen], goal[chosen], target.weights[number][chosen]
                if len(x):
                    equations.add(x.flatten(0, 1), y.reshape(-1, groups, outputs), weights.flatten())
            first += images
        return self._solved(layer, target, old, fitted, held)

    def _space(self, layer: Layer) -> tuple[int, ...]:
        return () if layer.linear else specs(self.pair.cut.nodes[layer.node].value)[0].shape[2:]

    def _old(self, layer: Layer) -> Tensor:
        """The weights of a layer and behind them the shift, (groups, inputs + 1, outputs)."""
        after = self.pair.after
        found = rows.matrix(after[layer.weight].detach().double(), layer.geometry)
        shift = after[layer.bias].detach().double() if layer.bias else found.new_zeros(found.shape[0] * found.shape[2])
        return torch.cat([found, shift.reshape(found.shape[0], 1, -1)], 1)

    def _goal(self, layer: Layer, target: Target, number: int, run: Execution | None) -> Tensor:
        """What a layer has to give at the positions of a batch: so that what follows, and is added, comes out alike."""
        found = target.outputs[number].double()
        if not layer.steps and not layer.added:
            return found
        factor, shift, now, moved = self.pair.lines(layer)
        total = found * factor + shift - moved
        if (added := target.added[number]) is not None and run is not None:
            there = [rows.outputs(run.value(index), layer, images_in(self.batches[number])) for index in layer.added]
            total = total + added.double() - sum(rows.at(value, target.positions[number]).double() for value in there)
        blind = now.abs() <= 1e-6 * now.abs().max()  # of a channel that is multiplied with nothing, nothing matters
        return torch.where(blind, found, total / torch.where(blind, 1.0, now))

    def _solved(self, layer: Layer, target: Target, old: Tensor, fitted: Equations, held: Equations) -> Refit:
        """Take the ridge with the least error on the rows held back, and put what it gives, of all rows, in place."""
        assert target.channels is not None
        matters = target.channels.to(old.device).reshape(old.shape[0], old.shape[2])
        spread = float((held.spread() * matters).sum()) or 1.0

        def error(found: Tensor) -> float:
            return float((held.errors(found) * matters).sum()) / spread

        before = error(old)
        if fitted.constant():
            return Refit(layer.module, before, before, _CONSTANT)
        best, chosen = before, None
        for ridge in RIDGES:
            tried = fitted.solve(old, ridge, shifts=layer.shifts)
            if tried is not None and (after := error(tried)) < best:
                best, chosen = after, ridge
        found = None if chosen is None else (fitted + held).solve(old, chosen, shifts=layer.shifts)
        if found is None:
            return Refit(layer.module, before, before, _NO_GAIN)
        self._put(layer, found)
        return Refit(layer.module, before, best)

    def _put(self, layer: Layer, found: Tensor) -> None:
        after: Mapping[str, Tensor] = self.pair.after
        after[layer.weight].copy_(rows.as_weight(found[:, :-1], after[layer.weight], layer.geometry))
        shift = found[:, -1].flatten()
        if layer.bias:
            after[layer.bias].copy_(shift)
        elif layer.norm:  # norm(z + shift) = norm with its mean less the shift
            after[layer.norm].sub_(shift.to(after[layer.norm].dtype))
