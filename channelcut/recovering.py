"""`recover`: the original teaches its cut, after which that is a result like any other."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.adapters import adapter_of, images_of, preprocessing_of
from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.graph import Graph, specs
from channelcut.core.inputs import Inputs, check_callable, check_kind, check_network, check_values
from channelcut.core.plan import Plan
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.record import add_change, noticed, put_record, record_of
from channelcut.core.result import PruneResult, Recovery
from channelcut.core.tensors import architecture_fingerprint, named_tensors, weights_fingerprint
from channelcut.recovery import recalibrate
from channelcut.recovery.distil import DEFAULT, Course, RecoverOptions, Teaching, distil
from channelcut.recovery.distil.batching import Batches
from channelcut.recovery.distil.checkpoints import digest
from channelcut.recovery.distil.lesson import Lesson, Loss
from channelcut.recovery.distil.losses import comparable
from channelcut.recovery.distil.places import places
from channelcut.recovery.distil.pool import Pool, pool_of
from channelcut.recovery.distil.processes import processes
from channelcut.recovery.distil.start import drawn, rewound
from channelcut.recovery.distil.state import fill
from channelcut.recovery.images import Preprocessing

_IN_MEMORY = 1 << 30  # bytes of a library's data set that are read
_NOT_ASKED = ("workers", "device", "preprocessing", "rewind")  # of the options, what a checkpoint may differ in


def recover(
    model: nn.Module,
    result: PruneResult,
    data: Any,
    *,
    epochs: int,
    loss: Loss | None = None,
    out: str | Path | None = None,
    options: RecoverOptions = DEFAULT,
    progress: Progress | None = None,
) -> PruneResult:
    """Train a cut network with the original as its teacher; labels are not needed.

    The student learns the outputs of the original (each in units of its variation; the heads of Ultralytics' detectors
    weighted by its confidence), and what layers that lost channels compute on the channels that are left. Both run in
    evaluation mode, on the same augmented inputs. Under `torchrun` all processes share every batch (this needs the
    extra `lightning`); each of them returns the same.

    Args:
        model: the original, which is not changed.
        result: what `prune`, or an earlier recovery, made of it; it stays as it is.
        data: unlabelled inputs: a folder of images, a tensor (N, C, H, W), a data set or loader of inputs or of (input,
            label), an iterable of these or of batches, which is read once, up to 1 GiB; or, of Ultralytics' networks, a
            data.yaml, of which the `train` split alone is read. A share of them is held back and never trained on.
        epochs: how often the data is gone through.
        loss: the task's own loss, called as loss(model, batch) with the student in evaluation mode and a batch as
            `data` gives it, on the device; returns a tensor of one number that is added. What it raises comes out as it
            is.
        out: a folder for the checkpoint. Where there is one of the same recovery it is gone on with, so that the same
            call ends a training that was interrupted or killed, with the same weights (bit by bit on a CPU).
        options: see `RecoverOptions`.
        progress: called as progress(stage, done, total); where it has a method `note(stage, text)`, that hears of the
            loss and of the time left. What it raises leaves at once, behind a checkpoint.

    Returns:
        The result with the trained network, to be saved, exported or recovered again. `recovery` says how it went, and
        `plan.changes` tells of it.

    Raises:
        UserError: the result was cut from another network, the data is missing or too little of it can be read, a loss
            is not finite (the text names the batch), or the checkpoint in `out` is of another recovery.
        MissingExtraError: there are several processes, and Lightning Fabric is not installed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.prune(model, torch.rand(1, 3, 16, 16), keep=0.5)
        >>> recovered = cc.recover(model, result, torch.rand(64, 3, 16, 16), epochs=2)
        >>> recovered.recovery.after < recovered.recovery.before
        True
    """
    start = time.perf_counter()
    _check(model, result, epochs, loss, options, progress)
    watch, plan = Stopwatch(progress), _plan_from(model, result)
    all_ = processes(_device(model, options))
    example, graph = _example(result.groups.graph, model, data), result.groups.graph
    pool = _pool(model, data, example, options, labelled=loss is not None and options.task > 0, watch=watch)
    teaching = adapter_of(model).teaching(model)
    small, drawn_not = _begun(model, result.model, plan, options)
    asked = {} if out is None else _asked(model, small, plan, pool, options) | {"the epochs": str(epochs)}
    asked |= {"the number of processes": str(all_.count), "the task loss": str(loss is not None)} if asked else {}
    with watch.stage("recover"), Batches(pool, example, options, _augment(options, teaching, loss), all_) as batches:
        lesson = _lesson(model, plan, graph, batches, teaching, loss if options.task else None, options)
        course = Course(
            small, lesson, batches, teaching.fixed, epochs, options, Path(out) if out is not None else None, asked
        )

        def report(done: int, total: int, text: str) -> None:
            if all_.rank == 0:
                watch.note("recover", text)
                watch.progress("recover", done, total)

        found = distil(course, report)
        change: dict[str, Any] = {"step": "recover", "images": len(batches.trained), "steps": found.steps}
        change |= {"epochs": len(found.history), "init": options.init, "labels": lesson.task is not None}
        change |= {"loss_before": found.before, "loss_after": found.after}
        recovered = _with_weights(result.model, found.tensors, change)
        if options.batch_norm == "recalibrate":
            recovered = _recalibrated(recovered, batches, options)
    notes = (*pool.notes, *drawn_not, *_sizes(batches, options), *found.notes)
    said = Recovery(
        len(batches.trained), len(found.history), found.steps, found.before, found.after, options.init,
        lesson.task is not None, found.history, notes, pool.unreadable, time.perf_counter() - start,
    )  # fmt: skip
    record = record_of(recovered)
    assert record is not None
    changed = replace(result.plan, changes=record.plan.changes)
    seconds = {**result.seconds, **watch.seconds}
    return replace(result, model=recovered, plan=changed, recovery=said, seconds=seconds)


def _check(
    model: nn.Module, result: PruneResult, epochs: int, loss: Any, options: RecoverOptions, progress: Any
) -> None:
    check_network(model)
    check_values(model)
    check_kind(result, PruneResult, "result", "channelcut.prune")
    check_kind(options, RecoverOptions, "options", "channelcut.RecoverOptions(...)")
    check_callable(loss, "loss", "loss(model, batch)")
    check_callable(progress, "progress", "progress(stage, done, total)")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise UserError(f"epochs={epochs!r}: expected a whole number from 1 on.")
    if record_of(result.model) is None:
        raise UserError(
            f"The network of the result, a {type(result.model).__name__}, has got other shapes since it was cut (by "
            "fuse(), say). Expected it as prune returned it, trained since or not."
        )


def _plan_from(model: nn.Module, result: PruneResult) -> Plan:
    """The plan that leads from the model to the result's network: over all rounds, or of the last one."""
    found = architecture_fingerprint(model)
    for plan in (result.plan, result.step):
        if plan.fingerprint == found:
            return plan
    raise UserError(
        "This result was cut from another network than the model: the names or shapes of its parameters differ. The "
        "teacher is the original: cc.recover(model, cc.prune(model, x, ...), data, epochs=...)."
    )


def _device(model: nn.Module, options: RecoverOptions) -> torch.device:
    if options.device:
        try:
            return torch.device(options.device)
        except RuntimeError as error:
            raise UserError(f"device={options.device!r} is none: expected cpu, cuda or cuda:1, say.") from error
    given = next((tensor.device for tensor in named_tensors(model).values()), torch.device("cpu"))
    return torch.device("cuda") if given.type == "cpu" and torch.cuda.is_available() else given


def _example(graph: Graph, model: nn.Module, data: Any) -> Inputs:
    """What the network takes, as the trace saw it: tensors of the right number, types and axes."""
    others = tuple(f"{entry}." for entry in graph.entries)
    nodes = [node for node in graph.nodes if node.kind == "input" and not node.name.startswith(others)]
    tensors = [torch.zeros(spec.shape, dtype=spec.dtype) for node in nodes for spec in specs(node.value)]
    if len(tensors) > 1 and not isinstance(data, (Tensor, str, Path)):
        first = data[0] if isinstance(data, (list, tuple)) and len(data) else None
        if isinstance(first, Mapping):
            names = [name for name in inspect.signature(model.forward).parameters if name in first]
            if len(names) == len(tensors):
                return (), dict(zip(names, tensors, strict=True))
    return tuple(tensors), {}


def _pool(
    model: nn.Module, data: Any, example: Inputs, options: RecoverOptions, *, labelled: bool, watch: Stopwatch
) -> Pool:
    """What teaches; the images of a library's data set are read as that prepares them."""
    with watch.stage("images"):
        broken = 0
        given = example[0][0] if len(example[0]) == 1 else None
        how: Preprocessing | None = options.preprocessing
        if isinstance(data, (str, Path)) and given is not None and given.dim() == 4 and not Path(data).is_dir():
            limit = max(2, _IN_MEMORY // (4 * given[0].numel()))
            data, names = images_of(model, data, tuple(given.shape[1:]), how, limit)
            broken = len(names)
        found = pool_of(
            data,
            example,
            how or preprocessing_of(model),
            labelled=labelled,
            workers=options.workers,
            report=lambda done, total: watch.progress("images", done, total),
        )
        return replace(found, unreadable=found.unreadable + broken)


def _begun(
    model: nn.Module, small: nn.Module, plan: Plan, options: RecoverOptions
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network to train with the weights that it starts from, and what a reader has to know of these."""
    if options.init == "rewind" and options.rewind is not None:
        return rewound(model, small, plan, options.rewind), ()
    if options.init == "scratch":
        found, left = drawn(small, options.seed)
        names = ", ".join(left[:3])
        return found, (f"Nothing draws {names}, so that they begin as they were cut.",) if left else ()
    return small, ()


def _augment(options: RecoverOptions, teaching: Teaching, loss: Loss | None) -> tuple[str, ...]:
    if options.augment is not None:
        if loss is not None and options.task and "mosaic" in options.augment:
            raise UserError(
                "augment has 'mosaic', which puts four images together, and the labels of a task loss would not "
                "follow. Leave it out, or the loss."
            )
        return options.augment
    if loss is not None and options.task:
        return ("colour",)
    return ("flip", "scale", "colour", *(("mosaic",) if teaching.dense else ()))


def _lesson(
    model: nn.Module,
    plan: Plan,
    graph: Graph,
    batches: Batches,
    teaching: Teaching,
    task: Loss | None,
    options: RecoverOptions,
) -> Lesson:
    teacher = private_copy(model).to(batches.all.device).eval()
    numbers = batches.plain(held=True, size=options.batch)[0]
    first = batches.given([batches.pool.item(number) for number in numbers])
    found = places(teacher, plan, first.inputs, options.places if options.features else 0)
    return Lesson(teacher, found, comparable(graph), teaching, task, options)


def _asked(model: nn.Module, small: nn.Module, plan: Plan, pool: Pool, options: RecoverOptions) -> dict[str, str]:
    """What a checkpoint must have been made for."""
    first = [t.double().sum().item() for t in pytree.tree_leaves(pool.item(0)) if isinstance(t, Tensor)]
    chosen = {each.name: getattr(options, each.name) for each in fields(options) if each.name not in _NOT_ASKED}
    return {
        "the plan": digest([plan.fingerprint, plan.to_dict()["kept"], plan.dropped]),
        "the original's weights": weights_fingerprint(model),
        "the weights that it starts from": weights_fingerprint(small),
        "the data": digest([pool.size, [pool.named(number) for number in range(pool.size)], first]),
        **{f"the option {name}": str(value) for name, value in chosen.items()},
    }


def _with_weights(small: nn.Module, tensors: Mapping[str, Tensor], change: Mapping[str, Any]) -> nn.Module:
    """A copy of the cut with the weights that were learnt, which its record tells of."""
    clone, seen = private_copy(small), noticed(small)
    assert seen is not None
    put_record(clone, seen.plan, seen.rounds)
    fill(clone, tensors)
    add_change(clone, change)
    return clone.eval()


def _recalibrated(small: nn.Module, batches: Batches, options: RecoverOptions) -> nn.Module:
    device = next((tensor.device for tensor in named_tensors(small).values()), torch.device("cpu"))
    given = [
        batches.given([batches.pool.item(number) for number in numbers]).inputs
        for numbers in batches.plain(held=False, size=options.batch)
    ]
    moved = pytree.tree_map_only(Tensor, lambda t: t.to(device), given)
    return recalibrate(small, moved)[0]


def _sizes(batches: Batches, options: RecoverOptions) -> list[str]:
    """What a reader has to know of the numbers of inputs."""
    trained = len(batches.trained)
    if not batches.pool.whole and trained < options.batch:
        return [f"The data has {trained} inputs to train on, less than a batch of {options.batch}: each step has all."]
    return []
