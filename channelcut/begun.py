"""A run before the cut: the model opened and evaluated, its images read, its layers timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from channelcut.accuracy import Evaluations, OwnEvaluations, evaluated_data, evaluations_by
from channelcut.adapters import Adapter, deployed_groups
from channelcut.adapters.user_file import detections_beside
from channelcut.api import analyze
from channelcut.building import INT8_IMAGES
from channelcut.core.deployed import Deploy, Deployed
from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.groups import Groups
from channelcut.core.inputs import positional_inputs
from channelcut.core.progress import Stopwatch
from channelcut.cost.devices import device_named
from channelcut.cost.measured import MeasuredCost
from channelcut.cost.roofline import RooflineCost, roofline
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.registry import require
from channelcut.latency.api import measure
from channelcut.latency.clocks import precisions_of
from channelcut.latency.mixed import MAX_ERROR, mixed_cost
from channelcut.options import CompressOptions
from channelcut.precision.convert import check_precisions
from channelcut.recovering.steps import check_taught
from channelcut.samples import with_images, with_samples
from channelcut.sources import Source

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Begun:
    """A run before the cut.

    model, example: the original.
    owner: knows how it is deployed, prepared and evaluated.
    form: the deployed form of the original.
    options: with the inputs that calibrate.
    prepared: how images became inputs, for the report.
    images: the calibration as one tensor, where the precisions need it.
    data: the labelled data set that was given, see `accuracy.evaluated_data`.
    evaluations: hold the accuracy of the original.
    notes: what a reader of the report has to know.
    given: what was given to calibrate and to learn from, as it was given.
    start: what is cut: the original, or that as it was trained before the cut.
    """

    model: nn.Module
    example: Any
    owner: Adapter
    form: Deployed
    options: CompressOptions
    prepared: dict[str, Any] | None
    images: Tensor | None
    data: str | None
    evaluations: Evaluations | OwnEvaluations | None
    notes: list[str]
    given: Any
    start: nn.Module


def begin(
    source: Source, options: CompressOptions, watch: Stopwatch, known: Sequence[Mapping[str, Any]] | None = None
) -> Begun:
    """Open the model, evaluate it, and read what calibrates: what has to fail fails early.

    Args:
        source: the model.
        options: what is asked for.
        watch: takes the time.
        known: the accuracy of the original, where it has been evaluated elsewhere.
    """
    deploy = options.prune.deploy
    if options.target:
        device_named(options.target).check(options.target_precision)
    check_engines(options)
    if options.mixed and not options.prune.timed:
        raise UserError(
            "Precisions are chosen with the widths (--precision auto) under a budget of time. Expected --latency or "
            "--latency-ms beside it; for further files of a cut by another budget, name them: --precision int8."
        )
    with watch.stage("load"):
        model, example = source.open()
        owner, unheard = source.adapter(model)
        form = deployed_as(owner, model, example, deploy)
    data = evaluated_data(model, options.prune.calibration, example)
    evaluations = evaluations_by(owner, model, data, example, deploy, watch) if options.evaluate else None
    given, taught = options.prune.calibration, bool(options.recover or options.sparsify)
    if taught:
        check_taught(given, owner)
    if (taught and options.recovery.task) or isinstance(options.prune.loss, str):
        owner.check_labels(model, given)
    if evaluations is not None and known is not None:
        evaluations.rows += map(dict, known)
    elif evaluations is not None:
        evaluations.add("evaluate the original", [("original", "module", model)])
    read = options.prune.detections or detections_beside(owner)
    options = replace(options, prune=replace(options.prune, detections=read))
    options, prepared = with_samples(options, owner, model, example, watch)
    images: Tensor | None = None
    if data or options.precisions or options.mixed:
        with watch.stage("images"):
            options, images = with_images(options, model, example)
        check_precisions(["int8"] if options.mixed else options.precisions, 0 if images is None else len(images))
    options = with_cost(options, model, example, images, watch)
    unheard = [*unheard, *getattr(options.prune.cost, "notes", ())]
    return Begun(model, example, owner, form, options, prepared, images, data, evaluations, unheard, given, model)


def check_engines(options: CompressOptions) -> None:
    """Refuse engines that cannot be built here, before anything is cut for them.

    Raises:
        UserError: the back end is not installed, or does not build for one of the capabilities.
    """
    for capability in options.capabilities:
        try:
            require(options.backend).check(EngineOptions(capability=capability))
        except MissingExtraError as problem:
            raise UserError(
                f"{problem}, or leave the engines out: --no-engine (capabilities=() in Python)."
            ) from problem


def with_cost(
    options: CompressOptions, model: nn.Module, example: Any, images: Tensor | None, watch: Stopwatch
) -> CompressOptions:
    """The options with what time is spent on, where nothing says it yet.

    By the description of the device that is named, else measured here where a budget limits time; where precisions are
    chosen with the widths, by each of them.
    """
    prune = options.prune
    if prune.cost is not None or not (prune.timed or options.target):
        return options
    coupling = {name: getattr(prune, name) for name in ("tracer", "grouped", "prunable_outputs", "entries")}
    with watch.stage("cost"):
        groups = analyze(model, example, **coupling)
    if not options.mixed:
        wanted = options.target_precision if options.target else "fp32"
        return replace(options, prune=replace(prune, cost=_cost_in(wanted, options, model, example, groups, watch)))
    known = device_named(options.target).rates if options.target else precisions_of(options.time_on)
    costs = {name: _cost_in(name, options, model, example, groups, watch) for name in PRECISIONS if name in known}
    chosen = images if images is None else images[:INT8_IMAGES]
    found = mixed_cost(
        model, example, costs, chosen, groups=groups, deploy=prune.deploy, progress=watch.progress,
        max_error=MAX_ERROR if options.max_error is None else options.max_error,
    )  # fmt: skip
    return replace(options, prune=replace(prune, cost=found))


def _cost_in(
    precision: str, options: CompressOptions, model: nn.Module, example: Any, groups: Groups, watch: Stopwatch
) -> MeasuredCost | RooflineCost:
    """The cost in one precision."""
    deploy, table = options.prune.deploy, options.table
    if options.target:
        return roofline(deployed_groups(model, groups, deploy), options.target, precision)
    if table is not None and precision != "fp32":  # a table is of one precision
        table = table.with_name(f"{table.stem}.{precision}{table.suffix}")
    return measure(
        model, example, groups=groups, backend=options.time_on, threads=options.bench.threads, table=table,
        deploy=deploy, precision=precision, progress=watch.progress,
    )  # fmt: skip


def deployed_as(owner: Adapter, model: nn.Module, example: Any, deploy: Deploy) -> Deployed:
    """The deployed form of a network: what is written, measured and compared."""
    return owner.deployed(model, positional_inputs(model, example), deploy)
