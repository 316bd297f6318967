"""`compress`: the whole path. A named model in; a folder with the smaller model, its ONNX, engines and a report out."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut.accuracy import Evaluations, OwnEvaluations, evaluated_data, evaluations_by
from channelcut.adapters import Adapter
from channelcut.api import apply
from channelcut.bench.environment import environment
from channelcut.bench.measure import BenchOptions
from channelcut.bench.onnx import measure_onnx
from channelcut.bench.profile import profile_pair, slower_layers
from channelcut.building import MODEL, build_engines, convert_files, engine_notes, write_engine_form
from channelcut.choosing import AUTO
from channelcut.core.checked import write_json
from channelcut.core.deployed import DEFAULT, Deploy, Deployed
from channelcut.core.files import write_atomically
from channelcut.core.groups import Groups
from channelcut.core.inputs import positional_inputs
from channelcut.core.labels import Loss, Targets
from channelcut.core.measurement import Measurement
from channelcut.core.plan import Plan, met_already
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.result import PruneResult
from channelcut.core.specs import write_specs
from channelcut.cost.protocol import WidthCost
from channelcut.cutting import store
from channelcut.cutting.storage import fresh_folder, plan_fingerprint
from channelcut.latency.api import measure
from channelcut.onnx_out.deployed import onnx_from_deployed
from channelcut.onnx_out.module import ExportOptions
from channelcut.precision.convert import check_precisions
from channelcut.ranking import ranking_notes
from channelcut.recovering.rounds import prepared_for_cut, pruned
from channelcut.recovering.steps import check_taught, checkpoint_folder
from channelcut.recovery.distil import DEFAULT as RECOVERY
from channelcut.recovery.distil import RecoverOptions
from channelcut.recovery.images import Preprocessing
from channelcut.report import render_html
from channelcut.report.collect import collect
from channelcut.samples import real_inputs, with_images, with_samples
from channelcut.sources import Source, specs_of
from channelcut.sources.provenance import provenance, weights_digest
from channelcut.sources.source import RANDOM

ORIGINAL, PRUNED = "original.onnx", "model.onnx"
STEMS = tuple(file.removesuffix(".onnx") for file in (ORIGINAL, PRUNED))


@dataclass(frozen=True)
class PruneOptions:
    """What is asked of `channelcut.prune`, by the names of its keywords; it says what each of them means."""

    keep: float | Mapping[str, float] | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    cost: WidthCost | None = None
    exclude: tuple[str, ...] = ()
    min_channels: int = 1
    min_keep: float = 0.1
    align: int | str = AUTO
    importance: str | None = None
    calibration: Tensor | Iterable[Tensor] | str | Path | None = None
    preprocessing: Preprocessing | None = None
    loss: Loss | Targets | str | None = None
    rescale: str = "auto"
    restore: str = "compensate"
    drop_unused: bool = False
    deploy: Deploy = DEFAULT
    tracer: str = "auto"
    grouped: str = "auto"
    prunable_outputs: tuple[str, ...] | None = None
    entries: tuple[str, ...] = ()
    prove: str = "whole"

    @property
    def timed(self) -> bool:
        """Whether the budget limits time."""
        return self.latency is not None or self.latency_ms is not None


@dataclass(frozen=True)
class CompressOptions:
    """What `compress` does.

    prune: the budget, and everything else that decides what goes.
    capabilities: CUDA compute capabilities to build engines for, such as `sm89`; empty builds none.
    backend: `tensorrt_rtx` (ahead of time, no GPU needed) or `tensorrt`.
    precisions: fp16, bf16 or int8, each written beside the fp32 files and built instead of them.
    measure: time original and pruned with ONNX Runtime.
    profile: time every layer of both with ONNX Runtime, for the report; done too where a budget limits time.
    evaluate: where the calibration is a labelled data set of the model's library, such as Ultralytics' data.yaml:
        measure the accuracy of the original, the cut and all files on its `val` split.
    force: replace an existing output folder, once the new one is complete.
    recover: epochs of a recovery after the cut, see `channelcut.recover`; 0: none. It learns from the calibration, or
        with `loss` of a user's file from what `batches` of that gives. Its checkpoint stands beside the output folder
        until that is written, so that the same run goes on with it.
    rounds: in how many rounds to cut and recover, see `channelcut.prune_in_rounds`.
    recovery: how each recovery is trained.
    sparsify: epochs of a training before the cut that shrinks the channels to go, see `channelcut.sparsify`; 0: none.
        It learns from what the recovery does, and trains as `recovery` says.
    table: where the times of layers are kept, of a budget of time; None: see `channelcut.measure`.
    images: fields of `Preprocessing` that are asked for; the others are as the model's library says. Of no use where
        `prune` holds a whole `Preprocessing`.
    """

    prune: PruneOptions
    capabilities: tuple[str, ...] = ("sm89",)
    backend: str = "tensorrt_rtx"
    precisions: tuple[str, ...] = ()
    measure: bool = True
    profile: bool = False
    evaluate: bool = True
    bench: BenchOptions = field(default_factory=BenchOptions)
    force: bool = False
    recover: int = 0
    rounds: int = 1
    recovery: RecoverOptions = RECOVERY
    sparsify: int = 0
    images: Mapping[str, Any] = field(default_factory=dict)
    table: Path | None = None


def compress(source: Source, out: Path, options: CompressOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Prune a model, prove it, restore its statistics, export, build, measure and report.

    Leaves `plan.json`, `model.safetensors` (and `pruned.pt` of an Ultralytics network), `model.onnx`, `original.onnx`,
    `model.<capability>.engine`, `report.json` and `report.html` in `out`, all at once: an interrupted run leaves
    nothing.

    Args:
        source: the model.
        out: the folder to write.
        options: what to keep, and what to make of it.
        progress: called as progress(stage, done, total); what it raises ends the run and leaves nothing.

    Returns:
        The content of `report.json`, and the profile where `options` ask for one (`profile.json` in the folder).

    Raises:
        UserError: `out` exists and `force` is not set, or any stage finds the caller's input at fault.
    """
    check_precisions(options.precisions)
    watch = Stopwatch(progress)
    with fresh_folder(out, force=options.force) as folder:
        begun = begin(source, options, watch)
        model, options, deploy = begun.model, begun.options, options.prune.deploy
        begun = replace(begun, start=prepared_for_cut(begun, out, watch))
        result = pruned(begun, out, watch)
        watch.seconds.update(result.seconds)
        with watch.stage("store"):
            store(result.model, _named(result.plan, source, begun), folder)
            begun.owner.store(result.model, folder)
        with watch.stage("export"):
            facts = {**provenance(source), "source_weights": weights_digest(model)}
            forms = (begun.form, deployed_as(begun.owner, result.model, begun.example, deploy))
            onnx = export_both(forms, real_inputs(options.prune, begun.example), folder, facts, watch)
        found: dict[str, Any] = {"deployed": dict(begun.form.words), "images": begun.prepared, "onnx": onnx}
        found["precision"] = convert_files(folder, STEMS, options.precisions, begun.images, watch)
        if begun.evaluations is not None:
            begun.evaluations.add("evaluate", made(begun.start, result, folder, options.precisions))
            found["accuracy"] = begun.evaluations.to_dict(begun.form.words)
        found["engines"] = engines(begun, result, folder, facts, watch)
        measurement = measure_both(folder, options, watch)
        found["measurement"] = measurement.to_dict() if measurement else None
        profile = profile_both(folder, options, result.step.options["align"], watch)
        begun.notes.extend(slower_notes(profile))
        # Of a cut of a cut the plan leads from the original class, and the report tells of this round.
        step = _named(result.step, source, begun)
        said = notes(measurement, options, source, step, result.groups) + begun.notes
        said += engine_notes(begun.form, options.backend, options.capabilities)
        report = collect(model, replace(result, plan=step), environment(options.bench.threads)) | found
        report |= {"seconds": watch.seconds, "notes": said + export_warnings(onnx, found["engines"])}
        write_json(folder / "report.json", report)
        report |= profile
        write_atomically(folder / "report.html", render_html(report).encode())
    shutil.rmtree(checkpoint_folder(out), ignore_errors=True)
    return report


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


def begin(source: Source, options: CompressOptions, watch: Stopwatch) -> Begun:
    """Open the model, evaluate it, and read what calibrates: what has to fail fails early."""
    deploy = options.prune.deploy
    with watch.stage("load"):
        model, example = source.open()
        owner, unheard = source.adapter(model)
        form = deployed_as(owner, model, example, deploy)
    data = evaluated_data(model, options.prune.calibration, example)
    evaluations = evaluations_by(owner, model, data, example, deploy, watch) if options.evaluate else None
    if evaluations is not None:
        evaluations.add("evaluate the original", [("original", "module", model)])
    given = options.prune.calibration
    options, prepared = with_samples(options, owner, model, example, watch)
    images: Tensor | None = None
    if data or options.precisions:
        with watch.stage("images"):
            options, images = with_images(options, model, example)
        check_precisions(options.precisions, 0 if images is None else len(images))
    if options.recover or options.sparsify:
        check_taught(given, owner)
    options = with_cost(options, model, example, watch)
    return Begun(model, example, owner, form, options, prepared, images, data, evaluations, unheard, given, model)


def with_cost(options: CompressOptions, model: nn.Module, example: Any, watch: Stopwatch) -> CompressOptions:
    """The options with what time is spent on, measured where a budget limits time and nothing says it yet."""
    prune = options.prune
    if prune.cost is not None or not prune.timed:
        return options
    threads, deploy = options.bench.threads, prune.deploy
    cost = measure(model, example, threads=threads, table=options.table, deploy=deploy, progress=watch.progress)
    return replace(options, prune=replace(prune, cost=cost))


def made(
    model: nn.Module, result: PruneResult, folder: Path, precisions: Sequence[str]
) -> list[tuple[str, str, nn.Module | Path]]:
    """What there is to evaluate beside the original: the cut before and after it was restored, and the files."""
    refitted = result.compensation is not None and result.compensation.refitted > 0
    restored = refitted or result.recalibration is not None or result.rescaling is not None
    found: list[tuple[str, str, nn.Module | Path]] = []
    if restored:
        found.append(("pruned", "module, as cut", apply(model, result.step)))
    found.append(("pruned", "module, restored" if restored else "module, as cut", result.model))
    for ending in (".onnx", *(f".{precision}.onnx" for precision in precisions)):
        for name, file in (("original", ORIGINAL), ("pruned", PRUNED)):
            path = folder / file.replace(".onnx", ending)
            found.append((name, path.name, path))
    return found


def _named(plan: Plan, source: Source, begun: Begun) -> Plan:
    """The plan with what `channelcut` needs to open its folder; a plan that already names its original keeps that."""
    specs = specs_of(begun.example)
    said = {"model": source.name, "weights": source.weights, "input": write_specs(specs) if specs else ""}
    said["data"] = begun.data or ""
    return replace(plan, options={name: text for name, text in said.items() if text} | dict(plan.options))


def deployed_as(owner: Adapter, model: nn.Module, example: Any, deploy: Deploy) -> Deployed:
    """The deployed form of a network: what is written, measured and compared."""
    return owner.deployed(model, positional_inputs(model, example), deploy)


def export_both(
    forms: Sequence[Deployed],
    real: Sequence[Tensor],
    folder: Path,
    facts: dict[str, str],
    watch: Stopwatch,
) -> dict[str, Any]:
    """Write both ONNX files, each checked against its module on the example and the real inputs.

    `facts` go into both, the plan into the pruned one's.
    """
    described = {}
    for place, (name, form, file) in enumerate(zip(("original", "pruned"), forms, (ORIGINAL, PRUNED), strict=True)):
        said = facts | ({"plan": plan_fingerprint(folder)} if name == "pruned" else {})

        def count(done: int, total: int, before: int = place) -> None:
            watch.progress("export", before * total + done, 2 * total)

        found = onnx_from_deployed(
            form, folder / file, ExportOptions(metadata=tuple(said.items())), [(image,) for image in real], count
        )
        described[name] = found.to_dict()
    return described


def engines(
    begun: Begun, result: PruneResult, folder: Path, facts: Mapping[str, str], watch: Stopwatch
) -> list[dict[str, Any]]:
    """Build the engines of the pruned network: from its ONNX files, or as its library prepares it for TensorRT."""
    options, stem = begun.options, MODEL
    if options.backend == "tensorrt" and options.capabilities:
        inputs, real = positional_inputs(result.model, begun.example), real_inputs(options.prune, begun.example)
        form = begun.owner.engine_form(result.model, inputs, options.prune.deploy)
        stem = write_engine_form(form, real, folder, {**facts, "plan": plan_fingerprint(folder)}, watch)
        if form is not None:
            convert_files(folder, [stem], options.precisions, begun.images, watch)
    return build_engines(folder, stem, options.backend, options.capabilities, options.precisions, watch)


def measure_both(folder: Path, options: CompressOptions, watch: Stopwatch) -> Measurement | None:
    """Time both ONNX files in turns, where that is asked for."""
    if not options.measure:
        return None
    with watch.stage("bench"):
        found = measure_onnx(
            folder / ORIGINAL,
            folder / PRUNED,
            options.bench,
            lambda done, total: watch.progress("bench", done, total),
        )
    return found.named("original", "pruned")


def profile_both(folder: Path, options: CompressOptions, align: int, watch: Stopwatch) -> dict[str, Any]:
    """Time every layer of both ONNX files and write `profile.json`, where that is asked for.

    Widths are to be multiples of `align`.
    """
    if not (options.profile or (options.measure and options.prune.timed)):
        return {}
    with watch.stage("profile"):
        found = profile_pair(
            folder / ORIGINAL,
            folder / PRUNED,
            threads=options.bench.threads,
            multiple=max(2, align),
        )
    write_json(folder / "profile.json", found)
    return {"profile": found}


def slower_notes(profile: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of layers that take longer than before."""
    slower = slower_layers(profile["profile"]) if profile else []
    if not slower:
        return []
    return [
        f"Slower than before the cut, by the profile of the layers: {', '.join(slower)}. Widths that suit the target "
        "better may gain more: --latency lets it choose, --align sets them."
    ]


def export_warnings(onnx: dict[str, Any], engines: list[dict[str, Any]]) -> list[str]:
    """What the exports and builds warn of, once each, named by the file."""
    parts = [*onnx.values(), *engines]
    return [f"{part['path']}: {warning}" for part in parts for warning in part.get("warnings", ())]


def notes(
    measurement: Measurement | None, options: CompressOptions, source: Source, plan: Plan, groups: Groups
) -> list[str]:
    """What a reader of the report must not miss."""
    found = []
    if source.weights.startswith(RANDOM):
        found.append(
            "The weights are random: which channels are kept was decided by noise, and the accuracy of the result says "
            "nothing. Give --weights pretrained, or --weights FILE with trained ones."
        )
    found += ranking_notes(plan)
    if said := groups.uncounted_words():
        found.append(f"{said[:1].upper()}{said[1:]}.")
    if plan.after == plan.before:
        found.append(met_already(plan) or "Nothing was removed: every group keeps all of its channels.")
    if measurement is not None and not measurement.faster and not measurement.disturbed:
        found.append(
            "The pruned network is not faster than the original by more than the noise of this measurement. Ask for "
            "time instead, such as --latency 0.7, which plans by what layers take on this machine; or try a smaller "
            f"budget, --align {2 * plan.options['align']}, or a quieter machine."
        )
    if options.prune.calibration is None and not options.recover:
        found.append("Nothing was restored: give --data a folder of images, or the accuracy as cut is what you get.")
    return found
