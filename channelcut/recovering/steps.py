"""The steps of a recovery: what is asked for is checked, put together, taught, and written down."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from channelcut.adapters import Adapter, adapter_of, images_of, preprocessing_of, teaching_of
from channelcut.adapters.user_file import UserFile
from channelcut.core.accelerator import accelerator, device_of
from channelcut.core.copies import private_copy
from channelcut.core.described import described
from channelcut.core.detections import Detections
from channelcut.core.errors import UserError
from channelcut.core.graph import Graph, specs
from channelcut.core.inputs import Inputs, check_callable, check_kind, check_network, check_path, check_values, evenly
from channelcut.core.labels import Loss
from channelcut.core.plan import Plan
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.record import Record, add_change, noticed, put_record, record_of
from channelcut.core.result import PruneResult, Recovery
from channelcut.core.tensors import architecture_fingerprint, named_tensors, weights_fingerprint
from channelcut.cutting.apply import check_weights
from channelcut.recovery import recalibrate
from channelcut.recovery.batches import MOST, mapped, run_batch, taken
from channelcut.recovery.distil import DEFAULT, Course, RecoverOptions, Teaching, distil
from channelcut.recovery.distil.batching import Batches
from channelcut.recovery.distil.checkpoints import digest
from channelcut.recovery.distil.lesson import Lesson
from channelcut.recovery.distil.losses import comparable, says_where
from channelcut.recovery.distil.options import UNTOLD
from channelcut.recovery.distil.penalty import Penalty
from channelcut.recovery.distil.places import places
from channelcut.recovery.distil.pool import Pool, Reading, pool_of
from channelcut.recovery.distil.processes import processes
from channelcut.recovery.distil.start import drawn, rewound
from channelcut.recovery.distil.state import fill
from channelcut.recovery.images import unreadable_words

_LOOKED_AT = 32  # items of the data, by which a run that goes on knows it
_SMALL = 8  # inputs in a step where batch norms stay
_IN_MEMORY = 1 << 30  # bytes of a library's data set that are read
_NOT_ASKED = (*UNTOLD, "preprocessing", "rewind")  # of the options, what a checkpoint's other parts say


@dataclass(frozen=True)
class Training:
    """What `channelcut.recover` is called with beside a model and its cut; it says what each of them means.

    owner: the adapter that has labels, where it is another than that of the model's library.
    notes: what a reader of the report has to know of the data.
    detections: reads what the outputs detect.
    """

    data: Any
    epochs: int
    loss: Loss | None = None
    out: str | Path | None = None
    options: RecoverOptions = DEFAULT
    progress: Progress | None = None
    owner: Adapter | None = None
    notes: tuple[str, ...] = ()
    detections: Detections | None = None

    def __post_init__(self) -> None:
        check_kind(self.options, RecoverOptions, "options", "channelcut.RecoverOptions(...)")
        check_callable(self.loss, "loss", "loss(model, batch)")
        check_callable(self.detections, "detections", "detections(outputs)")
        check_callable(self.progress, "progress", "progress(stage, done, total)")
        if self.out is not None:
            check_path(self.out, "out")
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 1:
            raise UserError(f"epochs={self.epochs!r}: expected a whole number from 1 on.")
        if self.task is not None and "mosaic" in (self.options.augment or ()):
            raise UserError(
                "augment has 'mosaic', which puts four images together, and the labels of a task loss would not "
                "follow. Leave it out, or the loss."
            )

    @property
    def task(self) -> Loss | None:
        """The task loss, where it has a weight."""
        return self.loss if self.options.task else None

    def trained(self, pupil: Pupil, dense: bool) -> RecoverOptions:
        """The options, with what is left open: norms stay of compensated cuts, and where outputs say where things are.

        Norms: ResNet-56 at 1 / 2.5 of its MACs, compensated, three epochs of 4,096 images at 1e-3, comes from 95.2 % of
        1,000 others to 97.1 by the statistics of batches and to 97.6 with its own. Where outputs say where things are
        (`dense`) steps are small, too: NanoDet-m at 0.8 of its MACs, two epochs of 950 images at 1e-4, comes from mAP
        .214 on coco128 train to .223 in steps of 16, .230 of 8, .234 of 4.
        """
        options = self.options
        if options.batch_norm == "auto" and (dense or (pupil.compensated and options.init == "cut")):
            options = replace(options, batch_norm="frozen")
        stay = options.batch_norm != "batch" and options.init == "cut"
        return replace(options, batch=_SMALL) if options.batch is None and dense and stay else options

    def augment(self, teaching: Teaching) -> tuple[str, ...]:
        """What is done to images."""
        if self.options.augment is not None or (isinstance(self.data, Pool) and self.data.varied is not None):
            return self.options.augment or ()
        if self.task is not None:
            return ("colour",)
        return ("flip", "scale", "colour", *(("mosaic",) if teaching.dense else ()))


@dataclass(frozen=True)
class Pupil:
    """The network that learns.

    small: with the weights that it starts from; it is not changed.
    plan: from the teacher to it, or, where a penalty prepares for a cut, to what it is to be cut to.
    graph: the teacher's forward.
    notes: what a reader has to know of how it starts.
    penalty: what shrinks as it learns, where anything does; the outputs alone are compared then.
    compensated: whether the layers behind its cut have been refitted.
    """

    small: nn.Module
    plan: Plan
    graph: Graph
    notes: tuple[str, ...] = ()
    penalty: Penalty | None = None
    compensated: bool = False


def recovered(model: nn.Module, result: PruneResult, asked: Training) -> PruneResult:
    """A cut network that the original has taught, see `channelcut.recover`."""
    before = _checked(model, result)
    watch, plan, options = Stopwatch(asked.progress), _plan_from(model, result), asked.options
    small, notes = _begun(model, result.model, plan, options)
    pupil = Pupil(small, plan, result.groups.graph, notes, compensated="compensate" in before.since)
    with taught(model, pupil, asked, "recover", watch) as (said, tensors, batches):
        small = _with_weights(result.model, tensors, said)
        if options.batch_norm == "recalibrate":
            small = recalibrated(small, batches, options)
    record = record_of(small)
    assert record is not None
    changed, seconds = replace(result.plan, changes=record.plan.changes), {**result.seconds, **watch.seconds}
    return replace(result, model=small, plan=changed, recovery=said, seconds=seconds)


@contextmanager
def taught(
    model: nn.Module, pupil: Pupil, asked: Training, stage: str, watch: Stopwatch
) -> Iterator[tuple[Recovery, Mapping[str, Tensor], Batches]]:
    """Train a network with the original as its teacher: how it went, the weights, and what taught, for a while."""
    start, options = time.perf_counter(), asked.options
    all_ = processes(_device(model, options))
    asked = _with_labels(model, asked, pupil.graph, watch)
    pool = _pool(model, asked, _example(pupil.graph, model, asked.data), watch)
    _check_first(model, pool)
    teaching = teaching_of(model, asked.detections)
    folder = None if asked.out is None else Path(asked.out)
    content = [described(pytree.tree_leaves(pool.item(number))) for number in evenly(pool.size, _LOOKED_AT)]
    known = {} if folder is None else _known(model, pupil, (pool, content), asked) | {"the processes": str(all_.count)}

    def report(done: int, total: int, text: str) -> None:
        if all_.rank == 0:
            watch.note(stage, text)
            watch.progress(stage, done, total)

    dense = teaching.dense or says_where(pupil.graph)
    augment, options = asked.augment(teaching), asked.trained(pupil, dense)
    careful = dense and options.batch_norm == "frozen"
    with watch.stage(stage), Batches(pool, options, augment, all_) as batches:
        lesson = _lesson(model, pupil, batches, teaching, asked)
        fixed, penalty = teaching.fixed, pupil.penalty
        course = Course(pupil.small, lesson, batches, fixed, asked.epochs, options, folder, known, penalty, careful)
        found = distil(course, report)
        said = Recovery(
            images=len(batches.trained), epochs=len(found.history), steps=found.steps, before=found.before,
            after=found.after, init=options.init, labels=lesson.task is not None, history=found.history,
            notes=(*asked.notes, *pool.notes, *pupil.notes, *_few(batches, options, content), *found.notes),
            unreadable=pool.unreadable, seconds=time.perf_counter() - start,
        )  # fmt: skip
        yield said, found.tensors, batches


def check_taught(given: Any, owner: Adapter) -> None:
    """Refuse a recovery by `compress` that nothing teaches."""
    if given is None and not (isinstance(owner, UserFile) and "batches" in owner.functions):
        raise UserError(
            "A recovery learns from images, and there are none: give --data a folder of unlabelled images like those "
            "of deployment, or let batches() beside the factory give inputs."
        )


def checkpoint_folder(out: Path) -> Path:
    """Where the checkpoint of a run of `compress` stands until that has written its output folder."""
    return Path(out).parent / f".{Path(out).name}.recovery"


def _checked(model: nn.Module, result: PruneResult) -> Record:
    """The record of a cut that can be taught."""
    check_network(model)
    check_values(model)
    check_kind(result, PruneResult, "result", "channelcut.prune")
    half = next((name for name, p in result.model.named_parameters() if p.dtype == torch.float16), None)
    if half is not None:
        raise UserError(
            f"The weights of the cut are float16 ({half}), in which the steps of a training vanish or overflow. "
            "Expected float32: cut model.float(), recover, and write fp16 files (--precision fp16)."
        )
    record = record_of(result.model)
    if record is None:
        raise UserError(
            f"The network of the result, a {type(result.model).__name__}, has got other shapes since it was cut (by "
            "fuse(), say). Expected it as prune returned it, trained since or not."
        )
    return record


def _plan_from(model: nn.Module, result: PruneResult) -> Plan:
    """The plan that leads from the model to the result's network: over all rounds, or of the last one."""
    found = architecture_fingerprint(model)
    plan = next((plan for plan in (result.plan, result.step) if plan.fingerprint == found), None)
    if plan is not None:
        check_weights(model, plan)
        return plan
    raise UserError(
        "This result was cut from another network than the model: the names or shapes of its parameters differ. The "
        "teacher is the original: cc.recover(model, cc.prune(model, x, ...), data, epochs=...)."
    )


def _device(model: nn.Module, options: RecoverOptions) -> torch.device:
    if options.device:
        return torch.device(options.device)
    return accelerator(model)


def _example(graph: Graph, model: nn.Module, data: Any) -> Inputs:
    """What the network takes, as the trace saw it: tensors of the right number, types and axes."""
    others = tuple(f"{entry}." for entry in graph.entries)
    nodes = [node for node in graph.nodes if node.kind == "input" and not node.name.startswith(others)]
    tensors = [torch.zeros(spec.shape, dtype=spec.dtype) for node in nodes for spec in specs(node.value)]
    if len(tensors) > 1 and isinstance(data, (list, tuple)):
        first = data[0] if len(data) else None
        if isinstance(first, Mapping):
            names = [name for name in inspect.signature(model.forward).parameters if name in first]
            if len(names) == len(tensors):
                return (), dict(zip(names, tensors, strict=True))
    return tuple(tensors), {}


def _with_labels(model: nn.Module, asked: Training, graph: Graph, watch: Stopwatch) -> Training:
    """What is asked for, with the labels that its data has and their loss, unless the caller has a loss or wants none.

    Raises:
        UserError: the labels do not fit the network, or would not follow the augmentation.
    """
    owner, options = asked.owner or adapter_of(model), asked.options
    if asked.loss is not None or not (options.task or asked.data is None):
        return asked
    given = _example(graph, model, None)[0]
    shape = tuple(given[0].shape[1:]) if len(given) == 1 and given[0].dim() == 4 else ()
    with watch.stage("labels"):
        found = owner.labelled(
            model, asked.data, shape, options.preprocessing, asked.epochs, plain=options.augment is not None
        )
    if found is None:
        return asked
    moved = set(options.augment or ()) - {"colour"}
    if isinstance(found.data, Pool) and moved:
        raise UserError(
            f"augment has {', '.join(map(repr, sorted(moved)))}, which the labels of {asked.data} would not follow. "
            "Leave augment out, and the library's own augmentation moves labels with their images; or ('colour',); or "
            "leave the labels out: RecoverOptions(task=0)."
        )
    data = found.data
    if isinstance(data, Iterator) and len(given) > 1:  # the first item says what the inputs are called
        data = list(itertools.islice(data, MOST))
    alone = ("The original teaches alone.",) if found.loss is None and found.notes else ()
    return replace(asked, data=data, loss=found.loss, notes=(*asked.notes, *found.notes, *alone))


def _pool(model: nn.Module, asked: Training, example: Inputs, watch: Stopwatch) -> Pool:
    """What teaches; the images of a library's data set are read as that prepares them."""
    with watch.stage("images"):
        data, how, broken, notes = asked.data, asked.options.preprocessing, 0, tuple[str, ...]()
        given = example[0][0] if len(example[0]) == 1 else None
        if isinstance(data, (str, Path)) and given is not None and given.dim() == 4 and not Path(data).is_dir():
            limit = max(2, _IN_MEMORY // (4 * given[0].numel()))
            data, names = images_of(model, data, tuple(given.shape[1:]), how, limit)
            broken = len(names)
            notes = (unreadable_words(broken, len(data), names),) if names else ()
        reading = Reading(
            example, preprocessing_of(model, how), asked.task is not None, asked.options.workers,
            lambda done, total: watch.progress("images", done, total),
        )  # fmt: skip
        found = pool_of(data, reading)
        return replace(found, unreadable=found.unreadable + broken, notes=(*found.notes, *notes))


def _check_first(model: nn.Module, pool: Pool) -> None:
    """Refuse inputs that the network does not take, before anything is trained on them."""
    inputs, device = taken(pool.joined([pool.item(0)]), pool.example, 0), device_of(model)
    run_batch(private_copy(model).eval(), mapped(inputs, lambda t: t.to(device)))


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


def _lesson(model: nn.Module, pupil: Pupil, batches: Batches, teaching: Teaching, asked: Training) -> Lesson:
    options = asked.options
    teacher = private_copy(model).to(batches.all.device).eval()
    numbers = batches.plain(held=True, size=options.batch_size)[0]
    first = batches.given([batches.pool.item(number) for number in numbers])
    most = options.places if options.features and pupil.penalty is None else 0
    found = places(teacher, pupil.plan, first.inputs, most)
    return Lesson(teacher, found, comparable(pupil.graph), teaching, asked.task, options)


def _known(model: nn.Module, pupil: Pupil, data: tuple[Pool, Sequence[Any]], asked: Training) -> dict[str, str]:
    """What a checkpoint must have been made for; `data`: what teaches, and some of it, described."""
    pool, content = data
    names = [each.name for each in fields(asked.options) if each.name not in _NOT_ASKED]
    return {
        "the plan": digest([pupil.plan.fingerprint, pupil.plan.to_dict()["kept"], pupil.plan.dropped]),
        "the original's weights": weights_fingerprint(model),
        "the weights that it starts from": weights_fingerprint(pupil.small),
        "the data": digest([pool.size, [pool.named(number) for number in range(pool.size)], content]),
        "the epochs": str(asked.epochs),
        "the task loss": str(asked.task is not None),
        "the detections": str(asked.detections is not None),
        "the penalty": str(pupil.penalty.total if pupil.penalty is not None else None),
        **{f"the option {name}": str(getattr(asked.options, name)) for name in names},
    }


def _with_weights(small: nn.Module, tensors: Mapping[str, Tensor], said: Recovery) -> nn.Module:
    """A copy of the cut with the weights that were learnt, which its record tells of."""
    clone, seen = private_copy(small), noticed(small)
    assert seen is not None
    put_record(clone, seen.plan, seen.rounds)
    fill(clone, tensors)
    names = ("images", "epochs", "steps", "init", "labels")
    change = {"step": "recover", **{name: getattr(said, name) for name in names}}
    add_change(clone, {**change, "loss_before": said.before, "loss_after": said.after})
    return clone.eval()


def recalibrated(small: nn.Module, batches: Batches, options: RecoverOptions) -> nn.Module:
    """The network with statistics of batch norms measured anew on what taught."""
    device = next((tensor.device for tensor in named_tensors(small).values()), torch.device("cpu"))
    given = [
        batches.given([batches.pool.item(number) for number in numbers]).inputs
        for numbers in batches.plain(held=False, size=options.batch_size)
    ]
    moved = pytree.tree_map_only(Tensor, lambda t: t.to(device), given)
    return recalibrate(small, moved)[0]


def _few(batches: Batches, options: RecoverOptions, content: Sequence[Any]) -> list[str]:
    """What a reader has to know of inputs that are few, or one and the same; `content`: of some, described."""
    trained = len(batches.trained)
    if len(content) > 1 and all(each == content[0] for each in content):
        return [
            f"The data is one input over and over (all {len(content)} that were compared are the same): what is learnt "
            "from it says little of any other. Give different images, like those of deployment."
        ]
    if not batches.pool.whole and trained < options.batch_size:
        return [
            f"The data has {trained} inputs to train on, less than a batch of {options.batch_size}: each step has all."
        ]
    return []
