"""Coupling commutes with cutting: the analysis of a cut network is what the cut leaves of the analysis of the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.groups import Groups, Ids
from channelcut.core.trees import leaves
from channelcut.cutting import cut, make_plan
from channelcut.ops.align import align

Kept = NDArray[np.bool_]
LEAST = 2  # steps that a selection leaves


def selection(groups: Groups, seed: int) -> Kept:
    """About half of every lane, other positions in each, equal shares within a group.

    Two steps stay at least, where there are two: a single channel keeps its place whatever an op does to the order, and
    an axis of one channel looks like any other axis, so the analysis of what is left may rightly bind and pin less.
    """
    generator = np.random.default_rng(seed)
    kept = np.ones(groups.channel_count, dtype=bool)
    for group in groups.groups:
        left = min(group.width, max(LEAST, (group.width + 1) // 2))
        for lane in group.lanes:
            gone = len(lane) - left * (len(lane) // group.width)
            kept[generator.choice(lane, gone, replace=False)] = False
    return kept


def differences(model: nn.Module, inputs: Any, before: Groups, seed: int) -> list[str]:
    """Where the analysis of a cut network is another than `before`, that of the whole one, predicts; empty: nowhere.

    Channels are numbered anew, so they are compared as a partition: elements that belonged to one channel must still
    do, and only they, over all values and parameters at once. Groups and lanes must then be of the same channels.
    """
    kept = selection(before, seed)
    smaller = smaller_model(model, before, kept)
    after = cc.analyze(smaller, inputs)
    found: list[str] = []
    new_of: dict[int, dict[int, str]] = defaultdict(dict)  # predicted channel -> channels found for it, and where first
    old_of: dict[int, dict[int, str]] = defaultdict(dict)
    for name, predicted, actual in (*_values(before, after, kept), *_slots(before, after, kept)):
        if predicted.size != actual.size:
            found.append(f"{name}: {predicted.size} elements are predicted, the cut network has {actual.shape}")
            continue
        pairs = np.unique(np.stack([predicted.reshape(-1), actual.reshape(-1)]), axis=1).T
        for old, new in pairs.tolist():
            new_of[old].setdefault(new, name)
            old_of[new].setdefault(old, name)
    found += [f"what was one channel ({old}) is several: {new}" for old, new in new_of.items() if len(new) > 1]
    found += [f"what were several channels is one ({new}): {old}" for new, old in old_of.items() if len(old) > 1]
    if 0 in new_of and 0 not in new_of[0]:
        found.append(f"what was no channel is one: {new_of[0]}")
    return found or _regrouped(before, after, kept, {old: next(iter(new)) for old, new in new_of.items()})


def smaller_model(model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
    """The model with these channels alone."""
    free = {what: lambda widths: 0.0 for what in ("macs", "params")}
    return cut(model, make_plan(model, groups, kept, free))  # type: ignore[arg-type]


def _values(before: Groups, after: Groups, kept: Kept) -> Iterator[tuple[str, Ids, Ids]]:
    """The channels of every value that something reads, predicted and found.

    What nothing reads has no consequences: a recurrent layer makes zeros as wide as its state, which are no channels,
    and its one step in the graph does not take them.
    """
    read = {ref.index for node in before.graph.nodes for ref in node.inputs}
    for old, new in align(before.graph, after.graph):
        if old is None or new is None or old.kind == "output" or old.index not in read:
            continue
        name = str(old.site) if old.kind == "call" else old.name
        for a, b in zip(_tensors(before, old.index), _tensors(after, new.index), strict=True):
            yield name, _left(a, kept), b


def _tensors(groups: Groups, node: int) -> list[Ids]:
    """The channels of a node's outputs; a parameter itself has none, its axes do."""
    return [leaf.numpy() for leaf in leaves(groups.channels_of(node)) if isinstance(leaf, Tensor)]


def _slots(before: Groups, after: Groups, kept: Kept) -> Iterator[tuple[str, Ids, Ids]]:
    """The channels of every axis of a tensor that has any."""
    old, new = ({(slot.tensor, slot.axis, slot.role): slot.channels for slot in g.slots} for g in (before, after))
    nothing: Ids = np.zeros(0, dtype=np.int64)
    for key in sorted({*old, *new}):
        name = f"{key[0]}[{key[1]}] {key[2]}"
        yield name, _left(old.get(key, nothing), kept), new.get(key, nothing)


def _left(channels: Ids, kept: Kept) -> Ids:
    """What is kept, row by row; its shape is the business of who compares."""
    return channels[kept[channels]]


def _regrouped(before: Groups, after: Groups, kept: Kept, new_of: dict[int, int]) -> list[str]:
    """Where groups or lanes are made of other channels than before."""
    predicted = {
        frozenset(frozenset(new_of[c] for c in lane.tolist() if kept[c]) for lane in group.lanes): group.name
        for group in before.groups
    }
    actual = {frozenset(frozenset(lane.tolist()) for lane in group.lanes): group.name for group in after.groups}
    return [f"this group is another one in the cut network: {predicted[key]}" for key in predicted.keys() - actual] + [
        f"the cut network has another group here: {actual[key]}" for key in actual.keys() - predicted
    ]
