"""Compensation: every layer behind a cut is refitted, so that it gives what it gave, from what is left of its inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.core.graph import Graph, Node, named_outputs, specs
from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.randomness import OwnRandom
from channelcut.core.tensors import named_tensors
from channelcut.ops.execute import Execution
from channelcut.recovery import rows
from channelcut.recovery.layers import Layer, layers_of, overwritten, reordered
from channelcut.recovery.ridge import RIDGES, Equations

Objective = Callable[[Sequence[tuple[str, Tensor]], torch.Generator], Tensor]
FLOOR = 0.02


@dataclass
class Target:
    """What a layer of the original gave at sampled positions, batch by batch, on the channels that are left.

    positions, weights: (images, P); outputs, added: (images, P, channels).
    channels: how much each channel matters, (channels,).
    """

    positions: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    added: list[Tensor | None] = field(default_factory=list)
    channels: Tensor | None = None


class _Watched(Execution):
    """A run of the original that leaves layers' outputs, and by how much the network's outputs change with them."""

    def __init__(self, graph: Graph, state: Mapping[str, Tensor], inputs: Any, wanted: set[int], spoilt: set[int]) -> None:
        outputs = [index for _, index in named_outputs(graph)]
        super().__init__(graph, state, inputs, keep=outputs)
        self.wanted, self.spoilt = wanted, spoilt
        self.seen: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}

    def start(self, node: Node) -> None:
        super().start(node)
        value = self.env.get(node.index)
        if node.kind == "input" and torch.is_grad_enabled() and isinstance(value, Tensor) and value.is_floating_point():
            self.env[node.index] = value.requires_grad_(True).clone()

    def finish(self, node: Node, value: Any) -> None:
        if node.index in self.wanted:
            self.seen[node.index] = value.detach().clone() if node.index in self.spoilt else value.detach()
            if value.requires_grad:
                value.register_hook(lambda gradient: self._note(node.index, gradient))
        super().finish(node, value)

    def _note(self, index: int, gradient: Tensor) -> None:
        self.gradients[index] = gradient.detach().square()


def kept_outputs(layer: Layer, before: Tensor, groups: int, plan: Plan) -> Tensor | None:
    """The output channels of a layer's original that are left; None for all. `before` is its weight, of `groups`."""
    kept = plan.kept.get(layer.weight, {})
    if not layer.geometry.transposed:
        return torch.tensor(kept[0]) if 0 in kept else None
    each = torch.tensor(kept[1]) if 1 in kept else torch.arange(before.shape[1])
    whole = torch.arange(groups)
    if layer.geometry.groups < groups:
        whole = (torch.tensor(kept[0]) // (before.shape[0] // groups)).unique()
    return (whole[:, None] * before.shape[1] + each).flatten()


@dataclass
class Pair:
    """The original's graph and state, and the cut one's; `twins`: nodes of the original by those of the cut one."""

    original: Graph
    cut: Graph
    twins: Mapping[int, int]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    plan: Plan


def targets(
    pair: Pair, layers: Sequence[Layer], batches: Sequence[Inputs], objective: Objective | None, count: Callable[[Layer], int],
    tick: Callable[[], None],
) -> dict[int, Target]:
    nodes = {layer.node: pair.twins[layer.node] for layer in layers}
    added = {layer.node: [pair.twins[a] for a in layer.added] for layer in layers}
    wanted = {*nodes.values(), *(a for each in added.values() for a in each)}
    spoilt = overwritten(pair.original)
    found = {layer.node: Target() for layer in layers}
    kept = {}
    for layer in layers:
        groups = next((v for k, v in [("", 1)]), 1)
        groups = _groups(pair.original, nodes[layer.node])
        kept[layer.node] = kept_outputs(layer, pair.before[layer.weight], groups, pair.plan)
    named = named_outputs(pair.original)
    for number, batch in enumerate(batches):
        run = _Watched(pair.original, pair.before, batch, wanted, spoilt)
        generator = torch.Generator().manual_seed(1_000_003 * number)
        length = batch_size(batch)
        with torch.set_grad_enabled(objective is not None), OwnRandom():
            for node in pair.original.nodes:
                run.step(node)
            if objective is not None:
                objective([(name, run.value(index)) for name, index in named], generator).backward()
        for layer in layers:
            one, node = found[layer.node], nodes[layer.node]
            values = rows.outputs(run.seen[node], layer, length)
            pick = kept[layer.node]
            pick = None if pick is None else pick.to(values.device)
            squares = run.gradients.get(node)
            if squares is None:
                weights = torch.ones(values.shape[:2], device=values.device)
                channels = torch.ones(values.shape[2], dtype=torch.float64, device=values.device)
            else:
                squares = rows.outputs(squares, layer, length)
                weights = squares.sum(2)
                weights = weights + FLOOR * weights.mean()
                channels = squares.double().sum((0, 1))
            positions, weights = rows.sample(weights, count(layer), generator)
            cut = lambda t: rows.at(rows.outputs(t, layer, length), positions) if pick is None else rows.at(rows.outputs(t, layer, length), positions)[..., pick]
            one.positions.append(positions)
            one.weights.append(weights)
            one.outputs.append(cut(run.seen[node]))
            parts = [cut(run.seen[a]) for a in added[layer.node]]
            one.added.append(sum(parts) if parts else None)
            channels = channels if pick is None else channels[pick]
            one.channels = channels if one.channels is None else one.channels + channels
        tick()
    return found


def _groups(graph: Graph, index: int) -> int:
    from channelcut.core.schema import bound_arguments

    node = graph.nodes[index]
    return int(bound_arguments(node.target, node.args, node.kwargs).get("groups", 1))


def batch_size(batch: Inputs) -> int:
    return next(len(t) for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.dim())


def fit(pair: Pair, layer: Layer, target: Target, runs: Sequence[Execution], held: Tensor, available: bool) -> dict[str, Any]:
    node = pair.cut.nodes[layer.node]
    space = specs(node.value)[0].shape[2:] if not layer.linear else ()
    weight = pair.after[layer.weight]
    old = rows.matrix(weight.detach().double(), layer.geometry)
    bias = pair.after[layer.bias].detach().double() if layer.bias else torch.zeros(old.shape[0] * old.shape[2], dtype=torch.float64, device=weight.device)
    old = torch.cat([old, bias.view(old.shape[0], 1, old.shape[2])], 1)
    groups, inputs, outs = old.shape
    equations = [Equations.empty(groups, inputs - 1, outs, weight.device) for _ in range(2)]
    (a, b), pick = layer.line(pair.before), None
    c, d = layer.line(pair.after)
    picked = pair.plan.kept.get(layer.weight, {})
    del picked
    at = 0
    for number, run in enumerate(runs):
        positions = target.positions[number]
        x = rows.inputs(run.value(layer.read), layer, positions, space)
        y = _wanted(pair, layer, target, number, run, available)
        mask = held[at : at + len(y)] if len(y) == len(held) // len(runs) else torch.zeros(len(y), dtype=torch.bool)
        at += len(y)
        for which, equation in zip((~mask, mask), equations, strict=True):
            which = which.to(x.device)
            if bool(which.any()):
                equation.add(x[which].flatten(0, 1), y[which].reshape(-1, groups, outs), target.weights[number][which].flatten())
    return solve(pair, layer, target, old, equations)


def _wanted(pair: Pair, layer: Layer, target: Target, number: int, run: Execution, available: bool) -> Tensor:
    y = target.outputs[number].double()
    if not layer.steps and not layer.added:
        return y
    factor, shift = [v[target_pick(pair, layer, y)] if isinstance(v, Tensor) and len(v) != y.shape[2] else v for v in layer.line(pair.before)]
    now, moved = layer.line(pair.after)
    total = y * factor + shift - moved
    if available and layer.added:
        length = len(y)
        there = sum(rows.at(rows.outputs(run.value(a), layer, length), target.positions[number]) for a in layer.added)
        total = total + target.added[number].double() - there.double()
    if not isinstance(now, Tensor):
        return total / now
    small = now.abs() < 1e-6 * now.abs().max()
    return torch.where(small, y, total / torch.where(small, 1.0, now))


def target_pick(pair: Pair, layer: Layer, y: Tensor) -> Tensor:
    found = kept_outputs(layer, pair.before[layer.weight], _groups(pair.original, pair.twins[layer.node]), pair.plan)
    assert found is not None
    return found


def solve(pair: Pair, layer: Layer, target: Target, old: Tensor, equations: Sequence[Equations]) -> dict[str, Any]:
    fitted, held = equations
    value = target.channels.view(old.shape[0], old.shape[2]).to(old.device)
    scale = float((held.spread() * value).sum()) or 1.0
    judge = lambda found: float((held.errors(found) * value).sum()) / scale
    before = judge(old)
    best, chosen = before, None
    for ridge in RIDGES:
        found = fitted.solve(old, ridge, shifts=layer.shifts)
        if found is not None and (error := judge(found)) < best:
            best, chosen = error, ridge
    row = {"layer": layer.module, "before": before, "after": best, "ridge": chosen}
    if chosen is None:
        return row
    found = (fitted + held).solve(old, chosen, shifts=layer.shifts)
    with torch.no_grad():
        pair.after[layer.weight].copy_(rows.as_weight(found[:, :-1], pair.after[layer.weight], layer.geometry))
        if layer.bias:
            pair.after[layer.bias].copy_(found[:, -1].flatten())
        elif layer.norm:
            pair.after[layer.norm].sub_(found[:, -1].flatten().to(pair.after[layer.norm].dtype))
    return row


def run_compensation(pair: Pair, batches: Sequence[Inputs], objective: Objective | None, positions: int, tick=lambda: None):
    layers, skipped = layers_of(pair.cut, {*pair.plan.kept})
    t = time.time()
    found = targets(pair, layers, batches, objective, lambda layer: positions, tick)
    t1 = time.time() - t
    order = reordered(pair.cut, layers)
    place = {node.index: i for i, node in enumerate(order)}
    by_node = {layer.node: layer for layer in layers}
    total = sum(map(batch_size, batches))
    held = torch.zeros(total, dtype=torch.bool)
    held[torch.randperm(total, generator=torch.Generator().manual_seed(0))[: max(1, total // 5)]] = True
    report = []
    with torch.no_grad(), OwnRandom():
        runs = [Execution(pair.cut, pair.after, batch, order=order) for batch in batches]
        last = max(place[n] for n in by_node)
        for node in order[: last + 1]:
            if (layer := by_node.get(node.index)) is not None:
                available = all(place[a] < place[layer.node] for a in layer.added)
                report.append(fit(pair, layer, found.pop(layer.node), runs, held, available))
                tick()
            for run in runs:
                run.step(node)
    return report, skipped, (t1, time.time() - t - t1)
