"""The steps after a proof: what survives keeps its size, and what a proof says once weights have been restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.adapters import weighing_of
from channelcut.core.accelerator import accelerator, device_of
from channelcut.core.copies import private_copy
from channelcut.core.detections import Detections, DetectionsError
from channelcut.core.entries import FORWARD, call_entry
from channelcut.core.errors import ChannelcutError, UserError
from channelcut.core.graph import tensor_paths
from channelcut.core.groups import Groups
from channelcut.core.heap import frozen_heap
from channelcut.core.inputs import Inputs, check_callable, check_kind, check_network, check_values
from channelcut.core.plan import Plan
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.proof import Proof
from channelcut.core.randomness import OwnRandom
from channelcut.core.record import Record, add_change, noticed, put_record, record_of
from channelcut.core.result import Compensation, PruneResult, Recalibration, Rescaling
from channelcut.core.sensitivity import Weighing, images_in, images_of, projections
from channelcut.core.tensors import named_tensors
from channelcut.coupling.branches import residual_blocks
from channelcut.cutting import PlanContext, carried
from channelcut.cutting.apply import check_plan, check_weights
from channelcut.ops.align import Misaligned, align
from channelcut.ranking import images_for
from channelcut.recovery import Preprocessing, cut_means, recalibrate, rescale, rescales
from channelcut.recovery.batches import EXPECTED, Batches, mapped, run_batch
from channelcut.recovery.chunks import (
    LARGEST,
    alike,
    bytes_of_image,
    flat,
    joined,
    of_size,
    others,
    tensors_of,
    usable_memory,
)
from channelcut.recovery.compensate import refit
from channelcut.recovery.targets import Objective, Pair
from channelcut.tracing import trace

_HELD = 1.5  # times what an image's values take: the values of both networks, and what is made of them


def rescaled(
    smaller: nn.Module, plan: Plan, batches: Sequence[Any], choice: str, watch: Stopwatch
) -> tuple[nn.Module, Rescaling | None]:
    """The cut model with what survives in the size that it had, and what was rescaled; see `channelcut.prune`."""
    context = _context(plan)
    means = cut_means(context.groups, context.kept)
    found = rescales(context.model, plan, context.groups.graph, means)
    if choice == "never" or not found or (choice == "auto" and not batches):
        return smaller, None
    with watch.stage("rescale"):
        return rescale(context.model, smaller, found, batches, always=choice == "always")


def restored(model: nn.Module, smaller: nn.Module, plan: Plan, record: Record) -> Proof:
    """The stored proof of a cut whose weights have been restored since, after a look at its shapes."""
    stored = record.rounds[-1]["proof"]
    words = f"the weights have been changed since the cut ({', '.join(record.since)})"
    if stored is None:
        proof = Proof(False, float("nan"), 0.0, 0.0, (), "not run", "own")
        return replace(proof, failures=(f"{words}, and the cut was not proven before; prove what apply returned",))
    actual = named_tensors(smaller)
    wrong = [
        f"{name} has not the shape that the plan names"
        for name, tensor in named_tensors(model).items()
        if not plan.drops(name) and (name not in actual or tuple(actual[name].shape) != plan.shape(name, tensor.shape))
    ]
    note = f"{words}: its shapes were checked, all else is the stored proof of the unrestored cut"
    return replace(Proof.from_dict(stored), passed=not wrong, failures=tuple(wrong[:5]), note=note)


RESTORES = ("compensate", "recalibrate", "none")


def check_restore(choice: str) -> None:
    """Refuse what is no choice.

    Raises:
        UserError: it is none of `compensate`, `recalibrate` and `none`.
    """
    if choice not in RESTORES:
        raise UserError(
            f"restore={choice!r} is unknown: use 'compensate' (refit what reads fewer channels, on images), "
            "'recalibrate' (batch-norm statistics alone) or 'none'."
        )


@dataclass(frozen=True)
class Restoring:
    """What is asked of a cut after its proof.

    batches: what calibrates.
    restore, rescale: see `channelcut.prune`.
    detections: reads what the outputs detect.
    """

    batches: Sequence[Inputs]
    restore: str
    rescale: str
    detections: Detections | None = None


@dataclass(frozen=True)
class Restored:
    """A cut network after the proof, and what was done to it."""

    model: nn.Module
    rescaling: Rescaling | None = None
    compensation: Compensation | None = None
    recalibration: Recalibration | None = None


def restored_by(
    smaller: nn.Module,
    plan: Plan,
    asked: Restoring,
    watch: Stopwatch,
    towards: tuple[nn.Module, Plan] | None = None,
) -> Restored:
    """The cut model, rescaled, and then restored as is asked for; where no layer can be refitted, recalibrated.

    Where nothing was removed nothing has to be restored: the statistics of the training are better than those of some
    images.

    Args:
        smaller: the cut.
        plan: that led to it.
        asked: with what, and how.
        watch: takes the time.
        towards: the network that compensation reproduces, and the plan that leads from it to the cut, where another was
            cut before; by default that which `plan` was made for.
    """
    whole = plan if towards is None else towards[1]
    if whole.after == whole.before:
        return Restored(smaller, None)
    batches = asked.batches
    smaller, rescaling = rescaled(smaller, plan, batches, asked.rescale, watch)
    if not batches or asked.restore == "none":
        return Restored(smaller, rescaling)
    compensation = None
    if asked.restore == "compensate":
        context = _context(plan)
        original = context.model if towards is None else towards[0]
        if (halfway := context.halfway) is not None and rescaling is None:  # sizes are of the original's weights
            original, whole = halfway.model, halfway.rest(plan)
            smaller = carried(halfway, smaller, whole)
        weighing = weighing_of(original, context.groups.deploy, asked.detections)
        smaller, compensation = compensated(original, smaller, whole, batches, weighing, watch)
        if compensation.refitted:
            return Restored(smaller, rescaling, compensation)
    with watch.stage("recalibrate"):
        report: Callable[[int, int], None] = lambda done, total: watch.progress("recalibrate", done, total)  # noqa: E731
        smaller, recalibration = recalibrate(smaller, batches, report)
    return Restored(smaller, rescaling, compensation, recalibration)


def _again(
    model: nn.Module, result: PruneResult, batches: Sequence[Inputs], detections: Detections | None, watch: Stopwatch
) -> Restored:
    """The cut network of a result, compensated, see `channelcut.compensate`.

    Raises:
        UserError: the result is of another network, or holds no cut any more.
    """
    check_plan(model, result.step)
    check_weights(model, result.step)
    record = noticed(result.model)
    if record is None:
        raise UserError(
            "The network of this result carries no record of its cut: its shapes have been changed since. Expected a "
            "result as channelcut.prune returned it, trained since or not."
        )
    clone = private_copy(result.model)
    put_record(clone, record.plan, record.rounds, record.weights)
    weighing = weighing_of(model, result.groups.deploy, detections)
    clone, done = compensated(model, clone, result.step, batches, weighing, watch)
    return Restored(clone, None, done, result.recalibration)


def compensated(
    model: nn.Module, smaller: nn.Module, plan: Plan, batches: Sequence[Inputs], weighing: Weighing, watch: Stopwatch
) -> tuple[nn.Module, Compensation]:
    """A copy of the cut network with its layers refitted; itself where that cannot be, and why.

    Args:
        model: the original; it is not changed.
        smaller: its cut; it is not changed.
        plan: of the cut.
        batches: unlabelled inputs.
        weighing: what of the outputs counts.
        watch: takes the time.
    """
    unread = len(batches.unreadable) if isinstance(batches, Batches) else 0
    if not flat(batches):
        return smaller, Compensation(refused="its inputs are nested, or have no batch axis")
    for other in others(batches):  # of inputs that no network takes the forward complains
        run_batch(smaller, other)
    every = joined(batches)
    if not all(bool(t.isfinite().all()) for t in tensors_of(every) if t.is_floating_point()):
        raise UserError("The calibration inputs hold NaN or infinity. Look at the images and how they are prepared.")
    images = images_in(every)
    if images < 2 or alike(every):
        why = "there is one image" if images < 2 else "all images are the same"
        why += ": the equations of a refit would be singular"
        return smaller, Compensation(images, refused=why, unreadable=unread)
    with watch.stage("compensate"):
        clone, done = _refitted(model, smaller, plan, every, weighing, watch)
    done = replace(done, unreadable=unread)
    if not done.refitted:
        return smaller, done
    for name, tensor in named_tensors(clone).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"After compensation {name} is not finite: the calibration inputs hold NaN, infinity or values far "
                "outside of what the network was trained on. Check the images and how they are prepared."
            )
    add_change(clone, done.to_change())
    return clone, done


class _Left(Exception):
    """What a callback raises leaves the run, whatever it is."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


def _refitted(
    model: nn.Module, smaller: nn.Module, plan: Plan, every: Inputs, weighing: Weighing, watch: Stopwatch
) -> tuple[nn.Module, Compensation]:
    """A copy with refitted layers, weighted by what matters where gradients tell that; or why there is none.

    Computed on a GPU where there is one, and where that fails on the device of the network.
    """
    own, why = device_of(model), ""

    def report(done: int, total: int) -> None:
        try:
            watch.progress("compensate", done, total)
        except Exception as error:
            raise _Left(error) from error

    for device, weighted in dict.fromkeys(((accelerator(model), True), (own, True), (own, False))):
        try:
            original, clone = (private_copy(network).eval().to(device) for network in (model, smaller))
            pair, batches = _pair(original, clone, plan, mapped(every, partial(Tensor.to, device=device)))
            objective = _objective(original, batches, weighing) if weighted else None
            done = refit(pair, batches, objective, report)
            return clone.to(own), done
        except _Left as left:
            raise left.reason from None
        except DetectionsError as error:
            if device == own:
                raise
            why = str(error)
        except torch.OutOfMemoryError:
            why = f"{device.type} has not enough memory"
        except (ChannelcutError, Misaligned, RuntimeError) as error:  # gradients lead nowhere, or no batches are taken
            why = " ".join(str(error).split())[:300] or "the original and the cut network run different ops"
    return smaller, Compensation(images_in(every), refused=f"both networks do not run side by side on batches: {why}")


def _pair(original: nn.Module, smaller: nn.Module, plan: Plan, every: Inputs) -> tuple[Pair, list[Inputs]]:
    """Both forwards on batches of one size, and these."""
    memory = usable_memory(next((p.device for p in original.parameters()), torch.device("cpu")))
    kept, live = bytes_of_image(trace(original, *images_of(every, 0, 2)), 2)
    images = min(images_in(every), max(2, int(memory / (_HELD * max(live, 1)))))
    batches = of_size(every, images, max(1, min(LARGEST, int(memory / (_HELD * max(kept, 1))))))
    graphs = trace(original, *batches[0]), trace(smaller, *batches[0])
    if any(graph.unsettled for graph in graphs):
        raise UserError("values decide how the forward goes on")
    blocks = residual_blocks(graphs[0], plan.dropped)
    gone, zeroed = {node for block in blocks for node in block.nodes}, {b.module for b in blocks if b.kind == "branch"}
    come = {node.index for node in graphs[1].nodes if node.kind == "call" and node.site.module in zeroed}
    twins = {new.index: old.index for old, new in align(*graphs, gone, come) if old is not None and new is not None}
    return Pair(*graphs, twins, named_tensors(original), named_tensors(smaller), plan), batches


def _objective(model: nn.Module, batches: Sequence[Inputs], weighing: Weighing) -> Objective:
    """What the network's outputs tell of what matters."""
    weighed = projections(model, batches, weighing)
    with torch.no_grad(), OwnRandom():
        result = call_entry(model, FORWARD, batches[0])
    count = len(tensor_paths(result))

    def objective(outputs: Sequence[Tensor], first: int) -> Tensor:
        values = iter(outputs)
        same = pytree.tree_map_only(Tensor, lambda _: next(values), result) if len(outputs) == count else list(outputs)
        return weighed.of(same, first)

    return objective


@frozen_heap()
def compensate(
    model: nn.Module,
    result: PruneResult,
    images: Any,
    *,
    preprocessing: Preprocessing | None = None,
    detections: Detections | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Refit the layers behind a cut on unlabelled images, so that they give what the original's gave.

    In forward order, each is a ridge regression towards the weights that it has, weighted by how much the network's
    outputs depend on each position; where its output is added to something, their sum is reproduced. A refit that does
    not lower the error on the images held back (a fifth) is not taken.

    Args:
        model: the network that was given to `prune`; it stays as it is.
        result: what `prune` returned, with `restore="none"` or `"recalibrate"` say; it stays as it is.
        images: as the calibration of `prune`; 64 help, 256 or 512 are better.
        preprocessing: see `prune`.
        detections: see `plan`.
        progress: called as progress(stage, done, total).

    Returns:
        The result with the compensated network; `compensation` has the error of each layer before and after, or says
        why there was none.

    Raises:
        UserError: the images do not fit, most of a folder of them cannot be decoded, or the result is of another
            network.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.prune(model, torch.rand(1, 3, 16, 16), keep=0.5)
        >>> cc.compensate(model, result, torch.rand(64, 3, 16, 16)).compensation.refitted
        1
    """
    check_network(model)
    check_values(model)
    check_kind(result, PruneResult, "result", "channelcut.prune")
    check_callable(progress, "progress", "progress(stage, done, total)")
    check_callable(detections, "detections", "detections(outputs)")
    if images is None:
        raise UserError(f"images is None, and a compensation reads some. {EXPECTED}")
    watch, batches = Stopwatch(progress), images_for(model, result.groups, images, preprocessing)
    done = _again(model, result, batches, detections, watch)
    return replace(as_result(done, result, watch), rescaling=result.rescaling)


def unrestored(small: nn.Module, step: Plan, proof: Proof, groups: Groups) -> PruneResult:
    """A cut as a result; its plan leads from the original class, over all rounds."""
    record = record_of(small)
    assert record is not None
    return PruneResult(small, record.plan if len(record.rounds) > 1 else step, proof, groups, step)


def as_result(done: Restored, cut: PruneResult, watch: Stopwatch) -> PruneResult:
    """The result of a cut, with the network as it was restored."""
    record = record_of(done.model)
    assert record is not None
    chosen = record.plan if len(record.rounds) > 1 else replace(cut.step, changes=record.plan.changes)
    return replace(
        cut, model=done.model.eval(), plan=chosen, recalibration=done.recalibration, rescaling=done.rescaling,
        compensation=done.compensation, seconds=watch.seconds,
    )  # fmt: skip


def _context(plan: Plan) -> PlanContext:
    assert isinstance(plan.context, PlanContext)
    return plan.context
