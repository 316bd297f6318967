"""The public steps: analyze, plan, apply, prove; and `prune`, which is these four."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut import steps
from channelcut.adapters import calibration_of, preprocessing_of
from channelcut.allocation import Budget
from channelcut.choosing import AUTO, alignment, excludes, fine_alignment, ranked
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.detections import Detections
from channelcut.core.entries import Entries, with_entries
from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.heap import frozen_heap
from channelcut.core.inputs import (
    check_callable,
    check_kind,
    check_network,
    check_values,
    finite_inputs,
    split_inputs,
)
from channelcut.core.labels import Loss, Targets
from channelcut.core.plan import Plan, met_already
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.proof import Proof
from channelcut.core.result import PruneResult
from channelcut.cost import WidthCost, asked_cost
from channelcut.depth.pruning import pruned_with_blocks
from channelcut.labelled import rereadable, targets_of
from channelcut.passes import passes_of
from channelcut.pruning import Request
from channelcut.ranking import criterion, images_for, traced_example
from channelcut.recovery import Preprocessing, calibration_batches, check_rescale
from channelcut.restoring import check_restore
from channelcut.scoring import Importance, check_importance


@frozen_heap()
def analyze(
    model: nn.Module,
    x: Any,
    *,
    tracer: str = "auto",
    probe: bool = True,
    grouped: str = "auto",
    prunable_outputs: Sequence[str] | None = None,
    entries: Entries | None = None,
) -> Groups:
    """Find the channels of a model that can be removed together, and why the others cannot.

    Forward hooks of your own run too, several times, on copies of the model (narrower ones in the probe): they see real
    values, and what they return counts; only with torch.export do they see its own tensors.

    Args:
        model: a network; only copies of it are run.
        x: an example input as the forward takes it: a tensor such as (N, C, H, W), a tuple of positional inputs, or a
            dict of keyword inputs.
        tracer: `dispatch` (record the ops of one eager run), `export` (torch.export) or `auto` (record; where that
            refuses, export).
        probe: also run the forward of a slightly smaller copy, which finds widths that the code hard-codes.
        grouped: a grouped convolution loses whole `groups`, or as many channels (`offsets`) of every group; `auto`:
            whole groups, but where none could go.
        prunable_outputs: patterns of paths in the forward's result (`1.feats.*`) whose channels may go; by default
            those that the model's library is known not to count, which the result says; `[]` for none.
        entries: further methods that are run after `forward`, so that what it never reaches (an auxiliary head) is cut
            as well: the names of methods that take what `forward` takes, `["forward_train"]`, or the example inputs of
            each, written like `x`, `{"forward_train": (x, targets)}`. Their results stay, as those of `forward` do,
            and are named after them (`forward_train.1`). MACs are those of `forward` alone.

    Returns:
        The groups of channels that go together, and a pin with reason and place for what stays.

    Raises:
        UserError: the forward or an entry fails on its inputs or cannot be traced, an entry is no method, or the model
            is a wrapper around the network.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> groups = cc.analyze(model, torch.rand(1, 3, 16, 16))
        >>> [(group.name, group.width) for group in groups.groups]
        [('0.weight', 8)]
    """
    check_network(model)
    options = steps.AnalyzeOptions(tracer, probe, grouped, prunable_outputs)
    inputs = with_entries(model, split_inputs(x), entries)
    return steps.coupled(model, steps.traced(model, inputs, options, Stopwatch()), inputs, options, Stopwatch())


def plan(
    model: nn.Module,
    groups: Groups,
    *,
    keep: float | Mapping[str, float] | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    latency_ms: float | None = None,
    cost: WidthCost | None = None,
    exclude: Iterable[str | nn.Module] = (),
    min_channels: int = 1,
    min_keep: float = 0.1,
    align: int | str = AUTO,
    importance: Importance | None = None,
    calibration: Tensor | Iterable[Tensor] | str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    loss: Loss | Targets | str | None = None,
    detections: Detections | None = None,
    drop_unused: bool = False,
    deploy: Deploy = DEFAULT,
) -> Plan:
    """Choose the channels that stay; exactly one of `keep`, `macs`, `params`, `latency` and `latency_ms` says how many.

    Args:
        model: the network that was analyzed.
        groups: what `analyze` found in it.
        keep: the share of the channels of every group, above 0 and at most 1, or shares by pattern on the names of
            modules or parameters, such as `{"backbone.*": 0.8, "*": 0.5}`. `"*"` is for layers that no other pattern
            matches; without it they keep all. Of two patterns for a layer the later one counts; a group that several
            layers share keeps the largest of their shares. Beside `macs` or `params` such shares are the least kept.
        macs: what may remain of the multiply-accumulates for the example input: a share (at most 1) or a number (above
            1); of all widths within it, those that lose least.
        params: what may remain of the parameters: a share (at most 1) or a number (above 1).
        latency: what may remain of the time that the network takes: a share, as `cost` predicts it.
        latency_ms: the same in milliseconds, of a whole batch.
        cost: of a budget of time: a function of the widths of all groups that returns milliseconds, such as
            `channelcut.measure` returns, or `channelcut.cost.roofline.roofline` where the device is not at hand.
        exclude: layers whose outputs keep their width: patterns on the names of modules (which stand for all layers in
            them) and parameters, or modules of the model. What is coupled to them stays as well, and shows as pinned;
            what goes into them may shrink.
        min_channels: the least number of channels that each lane of a group keeps.
        min_keep: the least share of a group that `macs` or `params` leaves.
        align: kept widths are multiples of this (8 suits fp16 tensor cores); `auto`: of the step that `cost` was
            measured to have, or any where there is no `cost`.
        importance: higher is kept. Of weights: `l1`, `l2`, `bn`, `fpgm`, `random`, or `tp:NAME` for a criterion of
            torch-pruning. Of images too: `taylor`, `fisher`, `group-fisher`, `reconstruction`, `activation`, see
            [scores.md](scores.md). Or a function. By default, with images, of the detectors of a known
            library `taylor`, or `fisher` where a trial loses clearly less by it, and `fisher` of others; `l2` without.
            A function with two positional parameters is called with (tensor, slot), once for every slot, and
            returns the importance of each position along `slot.axis`, shape (extent,), or None to leave the slot out;
            one with three is called with (groups, tensors, model) and returns the importance of every channel, shape
            (groups.channel_count,). What it raises comes out as it is.
        calibration: unlabelled images that the criterion reads, as for `prune`; it takes 64 of them.
        preprocessing: how images of a folder become inputs, as for `prune`.
        loss: rank by the gradients of the task's loss on labels, image by image, and not by those of the outputs: of
            `taylor`, `fisher` and `group-fisher`. A function loss(model, batch) that returns a tensor of one number, of
            batches of one as `calibration` gives them (a loader or data set of (input, label), or batches); or
            `"library"`, where `calibration` is a data.yaml of an Ultralytics network: the labels of its `train` split,
            by Ultralytics' own loss.
        detections: of a detector whose library is not known, reads its outputs: called with what the forward returns;
            gives `scores` (N, anchors, classes) from 0 to 1 and `boxes` (N, anchors, 4), corners in pixels, see there.
        drop_unused: modules that the forward never reads, such as a head that another method trains, go as wholes: an
            `nn.Identity` stands in the place of each. `groups.unused` names their parameters; `entries` of `analyze`
            cuts them instead.
        deploy: which form of the network will run; the cost that `macs` and `params` limit is that form's.

    Returns:
        The positions that every tensor keeps, the attributes that follow, and the cost before and after.

    Raises:
        UserError: a pattern matches nothing, a number makes no sense, weights or gradients are not finite, the
            criterion reads images and there are none, nothing can be removed. A budget that is met already is a
            warning.
        BudgetError: the budget cannot be met; the text names the nearest one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)).eval()
        >>> groups = cc.analyze(model, torch.rand(1, 3, 16, 16))
        >>> plan = cc.plan(model, groups, keep=0.5, exclude=["0"])
        >>> [(group.name, group.width, group.kept) for group in plan.groups]
        [('2.weight', 8, 4)]
    """
    check_network(model)
    check_values(model)
    check_kind(groups, Groups, "groups", "channelcut.analyze")
    check_importance(importance)
    multiple = alignment(align, cost := asked_cost(cost))
    fine = fine_alignment(align, cost, timed=latency is not None or latency_ms is not None)
    budget = Budget(keep, macs, params, multiple, min_keep, min_channels, latency, latency_ms, fine)
    calibration = rereadable(calibration, twice=loss is not None)
    targets = targets_of(model, calibration, loss, traced_example(model, groups.graph, calibration), preprocessing)
    images = images_for(model, groups, calibration, preprocessing)
    chosen_by = criterion(model, importance, images, groups.deploy, targets, detections)
    scored = ranked(model, groups, keep, chosen_by, exclude, Stopwatch(), drop_unused=drop_unused, deploy=deploy)
    chosen = (scored.timed(cost) if budget.timed else scored).planned(budget, Stopwatch())
    _say_if_met(chosen, 3)
    return chosen


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Cut a model; the result is marked as unproven until `prove` has proven it.

    Args:
        model: the network that the plan was made for; it stays as it is.
        plan: from `plan`, from `Plan.from_dict`, or of a result.

    Returns:
        A copy without the channels that the plan drops. It carries a record of the plan, as plain data: a copy or a
        pickle of it does as well. Where `model` is itself such a cut, the record leads back to the original class.

    Raises:
        UserError: the plan was made for another architecture.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> groups = cc.analyze(model, torch.rand(1, 3, 16, 16))
        >>> cc.apply(model, cc.plan(model, groups, keep=0.5))
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
          (2): Conv2d(4, 4, kernel_size=(1, 1), stride=(1, 1))
        )
    """
    check_network(model)
    check_kind(plan, Plan, "plan", "channelcut.plan")
    return steps.applied(model, plan, Stopwatch())


@frozen_heap()
def prove(model: nn.Module, small: nn.Module, plan: Plan, x: Any, *, entries: Entries | None = None) -> Proof:
    """Prove in float64 that a cut computes what the original computes with the removed channels masked.

    Args:
        model: the network before the cut.
        small: what `apply(model, plan)` returned. Where its weights have been restored or trained since, and that is
            recorded, its shapes are checked and the stored proof of the cut is referred to; the proof's `note` says so.
        plan: the plan of the cut.
        x: an example input, as for `analyze`.
        entries: as for `analyze`; a plan that was made with some needs the same.

    Returns:
        The proof; where it has not passed, `failures` say why. On success `small` is marked as proven.

    Raises:
        UserError: the plan belongs to another architecture, or the forward fails on `x`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), torch.rand(1, 3, 16, 16)
        >>> plan = cc.plan(model, cc.analyze(model, x), keep=0.5)
        >>> small = cc.apply(model, plan)
        >>> cc.prove(model, small, plan, x).passed
        True
    """
    for network in (model, small):
        check_network(network)
        check_values(network)
    check_kind(plan, Plan, "plan", "channelcut.plan")
    inputs = with_entries(model, finite_inputs(split_inputs(x)), entries)
    return steps.proven_by_hand(model, small, plan, inputs)


@frozen_heap()
def prune(
    model: nn.Module,
    x: Any,
    *,
    keep: float | Mapping[str, float] | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    latency_ms: float | None = None,
    cost: WidthCost | None = None,
    exclude: Iterable[str | nn.Module] = (),
    min_channels: int = 1,
    min_keep: float = 0.1,
    align: int | str = AUTO,
    blocks: str | Iterable[str] | None = None,
    importance: Importance | None = None,
    drop_unused: bool = False,
    deploy: Deploy = DEFAULT,
    tracer: str = "auto",
    probe: bool = True,
    grouped: str = "auto",
    prunable_outputs: Sequence[str] | None = None,
    entries: Entries | None = None,
    prove: str = "whole",
    calibration: Tensor | Iterable[Tensor] | str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    loss: Loss | Targets | str | None = None,
    detections: Detections | None = None,
    rescale: str = "auto",
    restore: str = "compensate",
    passes: int | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Analyze, plan, apply and prove, then restore what is asked for; the model itself is not touched.

    Args:
        model: a trained network. Where it is itself a cut, the result's plan leads from the original class.
        x: an example input, see `analyze`.
        keep: see `plan`; exactly one of `keep`, `macs`, `params`, `latency` and `latency_ms` is given.
        macs: see `plan`.
        params: see `plan`.
        latency: see `plan`. Where `cost` was measured here, the cut is built and timed beside the original, and planned
            anew until what was measured is within 3 % of the budget; the trials stand in the plan's options.
        latency_ms: see `plan`.
        cost: see `plan`.
        exclude: see `plan`.
        min_channels: see `plan`.
        min_keep: see `plan`.
        align: see `plan`.
        blocks: residual blocks that go as wholes, before widths meet what is left of the budget: their paths, or
            `auto` for those without which least is lost within it, in one program with the widths. See `drop_blocks`.
        importance: see `plan`.
        drop_unused: see `plan`.
        deploy: see `plan`.
        tracer: see `analyze`.
        probe: see `analyze`.
        grouped: see `analyze`.
        prunable_outputs: see `analyze`.
        entries: see `analyze`; the training step of the proof runs them too.
        prove: `whole` (the cut at once) or `each` (also every group by itself, so that a failure has a name).
        calibration: inputs that the criterion reads (64 of them), and by which accuracy is restored after the proof:
            a tensor (N, C, H, W), a folder of images, an iterable of batches or of single inputs, such as a loader of
            (image, label), whose labels are left out and of which 4096 inputs are read at most; or, of Ultralytics'
            networks, a data.yaml, whose `train` split is prepared as Ultralytics does it.
        preprocessing: how images of a folder become inputs; by default as timm's data configuration of the model says.
        loss: see `plan`.
        detections: see `plan`; compensation weighs by them as well.
        rescale: whether what survives keeps its size where a mean over channels has fewer to average, or a weight norm
            fewer to divide by: `auto` (for each of the two, where that brings the outputs closer to the original's on
            the calibration inputs; without any, not at all), `always` or `never`.
        restore: what is done with the calibration inputs: `compensate` (see there; where no layer can be refitted,
            `recalibrate`), `recalibrate` (the statistics of batch norms are measured anew) or `none`.
        passes: in how many passes channels are ranked by gradients, cut and compensated, each closer to the budget; by
            default four of a detector of Ultralytics that there are images of, else one.
        progress: called as progress(stage, done, total). What it raises leaves `prune` at once.

    Returns:
        The smaller network with its plan, its proof and the groups. The proof is of the cut, before any restoring;
        `plan.changes` lists what has changed the weights since.

    Raises:
        UserError: see `analyze` and `plan`; most of a folder of images cannot be decoded; `blocks` names none.
        BudgetError: the budget cannot be met, or no cut that was timed is faster than the original by more than the
            noise; the text names the nearest one.
        ProofError: the cut could not be proven; the text names the groups to blame.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.prune(model, torch.rand(1, 3, 16, 16), macs=0.6, calibration=torch.rand(64, 3, 16, 16))
        >>> result.proof.passed, [group.kept for group in result.plan.groups]
        (True, [4])
        >>> [(change["step"], change["images"], change["layers"]) for change in result.plan.changes]
        [('compensate', 64, 1)]
    """
    check_network(model)
    check_values(model)
    check_importance(importance)
    check_callable(progress, "progress", "progress(stage, done, total)")
    if prove not in ("whole", "each"):
        raise UserError(f"prove={prove!r} is unknown: use 'whole' or 'each'.")
    check_rescale(rescale)
    check_restore(restore)
    multiple = alignment(align, cost := asked_cost(cost))
    fine = fine_alignment(align, cost, timed=latency is not None or latency_ms is not None)
    budget = Budget(keep, macs, params, multiple, min_keep, min_channels, latency, latency_ms, fine)
    options = steps.AnalyzeOptions(tracer, probe, grouped, prunable_outputs)
    given, watch, held = finite_inputs(split_inputs(x)), Stopwatch(progress), excludes(exclude)
    inputs = with_entries(model, given, entries)
    calibration = rereadable(calibration, twice=loss is not None)
    targets = targets_of(model, calibration, loss, given, preprocessing)
    calibration = calibration_of(model, calibration, given[0][0] if given[0] else None, preprocessing)
    batches = calibration_batches(calibration, given, preprocessing_of(model, preprocessing))
    chosen_by = criterion(model, importance, batches, deploy, targets, detections)
    asked = Request(
        budget, chosen_by, options, batches, cost=cost, exclude=held, drop_unused=drop_unused, deploy=deploy,
        each=prove == "each", restore=restore, rescale=rescale, passes=passes_of(passes, chosen_by, restore, blocks),
    )  # fmt: skip
    result = pruned_with_blocks(model, x, inputs, blocks, asked, watch)
    _say_if_met(result.step, 4)
    return result


def _say_if_met(plan: Plan, level: int) -> None:
    """Warn, at the caller's line, of a budget that asks for nothing."""
    if said := met_already(plan):
        warnings.warn(said, UserWarning, stacklevel=level)
