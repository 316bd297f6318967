"""Rescaling: what survives a cut keeps the size that it had, where the class of a layer would change it.

A removed channel counts for nothing in the mean over channels, so that the mean is of fewer, and in the length that a
weight norm divides by, so that the surviving weights grow. Both can be undone: by the weights that read the mean, times
kept / total, and by the length `g`, times the share of the direction's length that is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.graph import Graph
from channelcut.core.plan import Plan
from channelcut.core.record import add_change
from channelcut.core.result import Rescaling
from channelcut.core.tensors import named_tensors, select
from channelcut.ops.norm import normalised_weights
from channelcut.recovery.batches import run_batch
from channelcut.recovery.means import Mean, readers_of

_BATCHES = 2  # are enough to tell which of two networks is closer


@dataclass(frozen=True)
class Rescale:
    """One kind of rescaling: factors by the name of a tensor of the cut network, in a shape that broadcasts to it."""

    kind: str
    factors: Mapping[str, Tensor]


def check_rescale(choice: str) -> None:
    """Refuse what is no choice.

    Raises:
        UserError: it is none of `auto`, `always` and `never`.
    """
    if choice not in ("auto", "always", "never"):
        raise UserError(
            f"rescale={choice!r} is unknown: use 'auto' (where calibration shows that it is closer to the original), "
            "'always' or 'never'."
        )


def rescales(model: nn.Module, plan: Plan, graph: Graph, means: Sequence[Mean]) -> list[Rescale]:
    """What can be rescaled after a cut of `model` by `plan`: weight norms in `graph`, and readers of these means."""
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    lengths = {}
    for weight in normalised_weights(graph):
        axes, whole = plan.kept.get(weight.direction, {}), tensors[weight.direction].double()
        if set(axes) - {weight.axis % whole.dim()}:
            others = [axis for axis in range(whole.dim()) if axis != weight.axis % whole.dim()]
            rows = select(whole, {a: p for a, p in axes.items() if a not in others})
            before = torch.linalg.vector_norm(rows, dim=others, keepdim=True)
            after = torch.linalg.vector_norm(select(whole, axes), dim=others, keepdim=True)
            lengths[weight.length] = torch.where(before > 0, after / before, torch.ones_like(before))
    readers: dict[str, Tensor] = {}
    for mean in means:
        found = readers_of(graph, mean.node)
        for name, axis, columns in found or ():
            factor = torch.ones(tensors[name].shape[axis], dtype=torch.float64)
            factor[columns] = mean.kept / mean.total
            factor = factor.view([-1 if a == axis else 1 for a in range(tensors[name].dim())])
            factor = select(factor, {a: p for a, p in plan.kept.get(name, {}).items() if a == axis})
            readers[name] = readers[name] * factor if name in readers else factor
    return [Rescale(kind, factors) for kind, factors in (("weight_norm", lengths), ("mean", readers)) if factors]


def rescale(
    model: nn.Module, smaller: nn.Module, found: Sequence[Rescale], batches: Sequence[Any], *, always: bool
) -> tuple[nn.Module, Rescaling | None]:
    """A copy of `smaller` with what is to be rescaled; itself and None where nothing is.

    Args:
        model: the original.
        smaller: its cut; it is not changed.
        found: what `rescales` found.
        batches: inputs by which the outputs are compared.
        always: whether to keep a kind also where the outputs do not come closer.
    """
    batches = batches[:_BATCHES]
    original = private_copy(model).eval()
    wanted = [outputs_of(original, batch) for batch in batches]
    best, chosen = smaller, []
    first = least = distance(smaller, batches, wanted)
    for kind in found:
        candidate = _scaled(best, kind.factors)
        now = distance(candidate, batches, wanted)
        if always or now < least:
            best, least = candidate, now
            chosen.append(kind)
    if not chosen:
        return smaller, None
    done = Rescaling({kind.kind: tuple(kind.factors) for kind in chosen}, first, least)
    change = {"step": "rescale", **{kind: list(names) for kind, names in done.tensors.items()}}
    add_change(best, change | ({"distance_before": first, "distance_after": least} if batches else {}))
    return best, done


def _scaled(model: nn.Module, factors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with some of its tensors multiplied."""
    clone = private_copy(model)
    tensors = named_tensors(clone)
    with torch.no_grad():
        for name, factor in factors.items():
            tensors[name].copy_(tensors[name].double() * factor.to(tensors[name].device))
    return clone


def outputs_of(model: nn.Module, batch: Any) -> list[Tensor]:
    """The floating outputs of a network on a batch, in float64."""
    leaves = pytree.tree_leaves(run_batch(model, batch))
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def distance(model: nn.Module, batches: Sequence[Any], wanted: Sequence[Sequence[Tensor]]) -> float:
    """How far outputs are from those that are wanted, in deviations of each of these; NaN with none to compare."""
    clone = private_copy(model).eval()
    found = []
    for batch, outputs in zip(batches, wanted, strict=True):
        for mine, theirs in zip(outputs, outputs_of(clone, batch), strict=False):
            if mine.shape == theirs.shape and mine.numel():
                scale = float(mine.std(correction=0)) or float(mine.abs().max()) or 1.0
                found.append(float((mine - theirs).pow(2).mean().sqrt()) / scale)
    return sum(found) / len(found) if found else float("nan")
