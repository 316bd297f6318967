"""Depth: residual blocks that go as wholes, an identity or zeros in the place of each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut import steps
from channelcut.adapters import calibration_of, preprocessing_of
from channelcut.choosing import check_fits
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.heap import frozen_heap
from channelcut.core.inputs import check_kind, check_network, check_values, finite_inputs, split_inputs
from channelcut.core.progress import Stopwatch
from channelcut.core.result import PruneResult
from channelcut.depth.dropping import dropped, named, ranked
from channelcut.depth.finding import blocks_of
from channelcut.recovery import Preprocessing, calibration_batches

_BATCHES = 2  # are enough to tell which block the outputs miss least


@frozen_heap()
def drop_blocks(
    model: nn.Module,
    x: Any,
    blocks: int | Iterable[str],
    *,
    groups: Groups | None = None,
    calibration: Tensor | Iterable[Tensor] | str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> PruneResult:
    """Leave out whole residual blocks, modules that return what they are given with something added to it, or branches.

    In the place of a block stands an `nn.Identity`, so that the class's forward runs as it is and neither a checkpoint
    nor an ONNX file shows that there was one. Where the forward of a larger module adds, as in `x + self.body(x)`, the
    branch (`body`) is what goes: `nn.Hardshrink(inf)` stands in its place, which gives zeros of the shape of what it is
    given, and an ONNX file lacks them, the addition, and what was computed for the branch alone. The cut is proven in
    float64: it computes what the original computes with the branches zero. What `prune` makes of the result is a cut of
    the original.

    Args:
        model: a trained network; it stays as it is.
        x: an example input, see `analyze`.
        blocks: the paths of modules, such as `["layer3.4"]`, or how many: those whose absence moves the outputs least
            for the multiply-accumulates that go with them, each left out alone. A branch can go where its module takes
            one tensor and returns one of its shape, which goes into the sum alone: as it is, moved, or scaled by
            weights.
        groups: what `analyze` found in the model; by default it is analyzed here.
        calibration: unlabelled images that the outputs are compared on where `blocks` is a number, as for `prune`; by
            default the example.
        preprocessing: how images of a folder become inputs, as for `prune`.

    Returns:
        The shorter network with its plan and proof. `plan.dropped` names the blocks.

    Raises:
        UserError: a path is no residual block, or there are fewer than asked for.
        ProofError: without the blocks the network does not compute what it does with their branches zero.

    Example:
        >>> import torch
        >>> import torch.nn as nn
        >>> import channelcut as cc
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        ...     def forward(self, x):
        ...         return x + self.b(torch.relu(self.a(x)))
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.drop_blocks(model, torch.rand(1, 3, 16, 16), ["1"])
        >>> result.model[1], result.plan.dropped, result.proof.passed
        (Identity(), ('1',), True)
    """
    check_network(model)
    check_values(model)
    watch, inputs = Stopwatch(), finite_inputs(split_inputs(x))
    if groups is None:
        options = steps.AnalyzeOptions()
        groups = steps.coupled(model, steps.traced(model, inputs, options, watch), inputs, options, watch)
    check_kind(groups, Groups, "groups", "channelcut.analyze")
    check_fits(model, groups)
    found = blocks_of(model, groups, inputs)
    if isinstance(blocks, int) and not isinstance(blocks, bool):
        given = calibration_of(model, calibration, inputs[0][0] if inputs[0] else None, preprocessing)
        batches = calibration_batches(given, inputs, preprocessing or preprocessing_of(model))[:_BATCHES] or [inputs]
        order = ranked(model, groups, found, batches)
        if not order:
            raise UserError(
                f"blocks={blocks}: the network has no residual block that could go. Expected one with modules whose "
                "result is added to what they are given, such as a ResNet's; others are cut in width alone, by "
                "channelcut.prune."
            )
        if not 0 < blocks <= len(order):
            raise UserError(
                f"blocks={blocks}: the network has {len(order)} residual blocks that could go. Expected a "
                "number from 1 to as many."
            )
        chosen = order[:blocks]
    else:
        chosen = named(blocks, found)
    return dropped(model, groups, [found[path] for path in chosen], inputs, watch)
