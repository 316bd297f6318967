"""`compress`: the whole path. A named model in; a folder with the smaller model, its ONNX, engines and a report out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from channelcut.api import apply
from channelcut.begun import Begun, begin, deployed_as
from channelcut.bench.environment import environment
from channelcut.bench.onnx import measure_onnx
from channelcut.bench.profile import slower_layers
from channelcut.building import MIXED, MODEL, build_engines, convert_files, engine_notes, write_engine_form, write_mixed
from channelcut.closing import below_budget, lowering_of
from channelcut.core.checked import write_json
from channelcut.core.deployed import Deployed
from channelcut.core.files import write_atomically
from channelcut.core.groups import Groups
from channelcut.core.inputs import positional_inputs
from channelcut.core.measurement import Measurement
from channelcut.core.plan import Plan, met_already
from channelcut.core.progress import Progress, Stopwatch
from channelcut.core.result import PruneResult
from channelcut.core.specs import write_specs
from channelcut.cost.devices import device_named
from channelcut.cutting import store
from channelcut.cutting.storage import fresh_folder, plan_fingerprint
from channelcut.latency.clocks import profile_on
from channelcut.onnx_out.deployed import onnx_from_deployed
from channelcut.onnx_out.module import ExportOptions
from channelcut.options import CompressOptions
from channelcut.precision.convert import check_precisions
from channelcut.ranking import ranking_notes
from channelcut.recovering.rounds import prepared_for_cut, pruned
from channelcut.recovering.steps import checkpoint_folder
from channelcut.report import render_html
from channelcut.report.collect import collect
from channelcut.samples import real_inputs
from channelcut.sources import Source, specs_of
from channelcut.sources.provenance import provenance, weights_digest
from channelcut.sources.source import RANDOM

ORIGINAL, PRUNED, MIXED_FILE = "original.onnx", "model.onnx", f"{MODEL}.{MIXED}.onnx"
STEMS = tuple(file.removesuffix(".onnx") for file in (ORIGINAL, PRUNED))


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
        report = finished(source, begin(source, options, watch), folder, out, watch)
    shutil.rmtree(checkpoint_folder(out), ignore_errors=True)
    return report


def finished(source: Source, begun: Begun, folder: Path, out: Path, watch: Stopwatch) -> dict[str, Any]:
    """Cut what was begun, and write all that is made of it; the content of the report, see `compress`.

    Args:
        source: the model.
        begun: it, opened.
        folder: to write to.
        out: what the folder will be called, beside which a recovery keeps its checkpoint.
        watch: takes the time.
    """
    model, options, deploy = begun.model, begun.options, begun.options.prune.deploy
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
    found["precision"] = convert_files(folder, STEMS, options.precisions, begun.images, watch, options.max_error)
    lower = lowering_of(options.prune.cost, result.step)
    if lower is not None:
        found["precision"].append(write_mixed(folder, MODEL, lower, watch))
    if begun.evaluations is not None:
        begun.evaluations.add("evaluate", made(begun.start, result, folder, options.precisions))
        found["accuracy"] = begun.evaluations.to_dict(begun.form.words)
    found["engines"] = engines(begun, result, folder, facts, watch)
    timed = MIXED_FILE if lower is not None and lower.layers and lower.cost.target is not None else PRUNED
    measurement = measure_both(folder, timed, options, watch)
    found["measurement"] = measurement.to_dict() if measurement else None
    profile = profile_both(folder, options, result.step.options["align"], watch)
    begun.notes.extend(slower_notes(profile, timed=options.prune.timed))
    # Of a cut of a cut the plan leads from the original class, and the report tells of this round.
    step = _named(result.step, source, begun)
    said = notes(measurement, options, source, step, result.groups) + begun.notes
    said += engine_notes(begun.form, options.backend, options.capabilities)
    report = collect(model, replace(result, plan=step), environment(options.bench.threads)) | found
    report |= {"seconds": watch.seconds, "notes": said + export_warnings(onnx, found["engines"])}
    write_json(folder / "report.json", report)
    report |= profile
    write_atomically(folder / "report.html", render_html(report).encode())
    return report


def made(
    model: nn.Module, result: PruneResult, folder: Path, precisions: Sequence[str]
) -> list[tuple[str, str, nn.Module | Path]]:
    """What there is to evaluate beside the original: the cut before and after it was restored, and the files."""
    refitted = result.compensation is not None and result.compensation.refitted > 0
    said = (result.recalibration, result.rescaling, result.recovery)
    restored = refitted or any(step is not None for step in said)
    found: list[tuple[str, str, nn.Module | Path]] = []
    if restored:
        found.append(("pruned", "module, as cut", apply(model, result.step)))
    found.append(("pruned", "module, restored" if restored else "module, as cut", result.model))
    for ending in (".onnx", *(f".{precision}.onnx" for precision in precisions)):
        for name, file in (("original", ORIGINAL), ("pruned", PRUNED)):
            path = folder / file.replace(".onnx", ending)
            found.append((name, path.name, path))
    if (folder / MIXED_FILE).exists():
        found.append(("pruned", MIXED_FILE, folder / MIXED_FILE))
    return found


def _named(plan: Plan, source: Source, begun: Begun) -> Plan:
    """The plan with what `channelcut` needs to open its folder; a plan that already names its original keeps that."""
    specs = specs_of(begun.example)
    said = {"model": source.name, "weights": source.weights, "input": write_specs(specs) if specs else ""}
    said["data"] = begun.data or ""
    return replace(plan, options={name: text for name, text in said.items() if text} | dict(plan.options))


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


def measure_both(folder: Path, smaller: str, options: CompressOptions, watch: Stopwatch) -> Measurement | None:
    """Time the original's ONNX file and that of the smaller network in turns, where that is asked for."""
    if not options.measure:
        return None
    with watch.stage("bench"):
        found = measure_onnx(
            folder / ORIGINAL,
            folder / smaller,
            options.bench,
            lambda done, total: watch.progress("bench", done, total),
            options.timed_on,
        )
    return found.named("original", "pruned")


def profile_both(folder: Path, options: CompressOptions, align: int, watch: Stopwatch) -> dict[str, Any]:
    """Time every layer of both ONNX files and write `profile.json`, where that is asked for.

    Widths are to be multiples of `align`.
    """
    if not (options.profile or (options.measure and options.prune.timed)):
        return {}
    with watch.stage("profile"):
        files = folder / ORIGINAL, folder / PRUNED
        found = profile_on(options.timed_on, *files, threads=options.bench.threads, multiple=max(2, align))
    write_json(folder / "profile.json", found)
    return {"profile": found}


def slower_notes(profile: Mapping[str, Any], *, timed: bool) -> list[str]:
    """What a reader has to know of layers that take longer than before; `timed`: widths were chosen by times."""
    slower = slower_layers(profile["profile"]) if profile else []
    if not slower:
        return []
    remedy = "" if timed else " Widths that suit the target better may gain more: --latency lets it choose."
    return [f"Slower than before the cut, by the profile of the layers: {', '.join(slower)}.{remedy}"]


def export_warnings(onnx: dict[str, Any], engines: list[dict[str, Any]]) -> list[str]:
    """What the exports and builds warn of, once each, named by the file."""
    parts = [*onnx.values(), *engines]
    return [f"{part['path']}: {warning}" for part in parts for warning in part.get("warnings", ())]


def _elsewhere(options: CompressOptions, align: int, measurement: Measurement | None) -> str:
    """What a reader has to know of times where the network was planned for a device that is not here."""
    if not options.target:
        return ""
    device = device_named(options.target)
    timed = "The times of this report are of this machine, and tell nothing of that device. " if measurement else ""
    return (
        f"Planned for {device.words} in {options.target_precision}: widths are multiples of "
        f"{align}, and no time was measured on it. {timed}Time both files there: "
        f"channelcut bench {ORIGINAL} {PRUNED}."
    )


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
    found += ranking_notes(plan, groups.graph)
    if said := groups.uncounted_words():
        found.append(f"{said[:1].upper()}{said[1:]}.")
    if plan.after == plan.before:
        alone = "The precisions alone meet the budget. " if plan.options.get("precision", {}).get("layers") else ""
        found.append(met_already(plan) or f"{alone}Nothing was removed: every group keeps all of its channels.")
    elif measurement is not None and not measurement.faster and not measurement.disturbed and not options.target:
        other = "Ask for time instead, such as --latency 0.7, which plans by what layers take on this machine; or try"
        other = "Try" if options.prune.timed else f"{other} --align {2 * plan.options['align']},"
        found.append(
            "The pruned network is not faster than the original by more than the noise of this measurement. "
            f"{other} a smaller budget, or a quieter machine."
        )
    found += filter(None, (below_budget(plan.options), _elsewhere(options, plan.options["align"], measurement)))
    if options.prune.calibration is None and not options.recover:
        found.append("Nothing was restored: give --data a folder of images, or the accuracy as cut is what you get.")
    return found
