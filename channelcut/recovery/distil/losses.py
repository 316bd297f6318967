"""Losses between what a teacher and its student compute, in units of the teacher's own variation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from channelcut.core.graph import Graph, named_outputs, specs, tensor_paths
from channelcut.ops.registry import op


@dataclass(frozen=True)
class Teaching:
    """What is known of a library's networks that helps to teach a cut of one.

    output: output(the teacher's result, the student's) -> the loss between them, 0 where they agree and about 1 where
        the student knows nothing, or None for results that it does not know; without it every output is compared by
        itself.
    fixed: patterns of the names of parameters that no training changes.
    dense: whether the outputs say where things are, so that mosaics teach.
    """

    output: Callable[[Any, Any], Tensor | None] | None = None
    fixed: tuple[str, ...] = ()
    dense: bool = False


def comparable(graph: Graph) -> tuple[str, ...]:
    """The paths of the outputs that stand for the same thing in teacher and student, whatever the values.

    What is behind a sort or a top-k has another order where values differ a little, so that its rows compare nothing.
    """
    ordered: set[int] = set()
    for node in graph.nodes:
        known = op(node.name)
        chosen = node.kind == "call" and (known.ties or known.decides is not None)
        if chosen or any(ref.index in ordered for ref in node.inputs):
            ordered.add(node.index)
    if graph.unsettled:
        return ()
    return tuple(path for path, index in named_outputs(graph) if index not in ordered)


def says_where(graph: Graph) -> bool:
    """Whether any output has places beside its images and channels, as those of detectors and segmenters have."""
    found = (spec for _, index in named_outputs(graph) for spec in specs(graph.nodes[index].value))
    return any(spec.dtype.is_floating_point and len(spec.shape) > 2 for spec in found)


def outputs_of(result: Any, paths: Sequence[str]) -> dict[str, Tensor]:
    """The floating outputs of a result under these paths."""
    return {path: leaf for path, leaf in tensor_paths(result) if path in paths and leaf.is_floating_point()}


def relative(student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """Mean squared difference over `scale`, the variance of the teacher's."""
    return (student.float() - teacher.float()).square().mean() / scale


def variance(values: Tensor) -> Tensor:
    """The scale of a loss on values (N, ...): the mean over all places of their variance from input to input.

    Where inputs make no difference it is the variance of all values, their mean square, or 1.
    """
    values = values.detach().double()
    found = values.var(0).mean() if values.dim() and len(values) > 1 else values.var(correction=0)
    if not found > 0:
        found = values.var(correction=0)
    if not found > 0:
        found = values.square().mean()
    return (found if found > 0 else found.new_ones(())).float()
