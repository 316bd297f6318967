"""The engines of a result: the ONNX files that they are built from, and who can run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from channelcut.core.deployed import Deployed
from channelcut.core.progress import Progress, Stopwatch
from channelcut.engine.protocol import EngineOptions, EngineReport
from channelcut.engine.registry import require
from channelcut.onnx_out.deployed import onnx_from_deployed
from channelcut.onnx_out.module import ExportOptions
from channelcut.precision.convert import PrecisionOptions, PrecisionReport, convert_precision
from channelcut.precision.mixed import LayersLowered

MODEL, FOR_ENGINES = "model", "model.tensorrt"
MIXED = "mixed"
INT8_IMAGES = 64  # calibrate int8


def convert_files(
    folder: Path,
    stems: Sequence[str],
    precisions: Sequence[str],
    images: Tensor | None,
    watch: Stopwatch,
    max_error: float | None = None,
) -> list[dict[str, Any]]:
    """Write ONNX files in each further precision; int8 calibrates on the first images of the recalibration."""
    chosen = None if images is None else images[:INT8_IMAGES].float().cpu().numpy()
    found, options = [], PrecisionOptions(budget=max_error)
    for precision in precisions:
        with watch.stage(f"convert {precision}"):
            for stem in stems:
                out = folder / f"{stem}.{precision}.onnx"
                report = convert_precision(folder / f"{stem}.onnx", out, precision, chosen, options, watch.progress)
                found.append({**vars(report), "path": out.name})
    return found


def write_mixed(folder: Path, stem: str, lower: LayersLowered, watch: Stopwatch) -> dict[str, Any]:
    """Write a float32 file with its layers in the precisions that a plan chose, as the report tells of it."""
    out = folder / f"{stem}.{MIXED}.onnx"
    with watch.stage(f"convert {MIXED}"):
        made = lower(folder / f"{stem}.onnx", out, watch.progress)
    refused = tuple(lower.cost.order[place] for place in made.refused)
    report = PrecisionReport(
        out, MIXED, made.error, made.asked_error, made.budget, len(made.layers), refused, made.inputs, made.size_bytes,
        made.compared,
    )  # fmt: skip
    return {**vars(report), "path": out.name, "layers": lower.layers}


def write_engine_form(
    form: Deployed | None, real: Sequence[Tensor], folder: Path, facts: Mapping[str, str], watch: Stopwatch
) -> str:
    """Write the ONNX file of the form that engines are built from, where it is one of its own; the file's stem."""
    if form is None:
        return MODEL
    with watch.stage("export for engines"):
        options = ExportOptions(metadata=tuple(facts.items()))
        onnx_from_deployed(form, folder / f"{FOR_ENGINES}.onnx", options, [(image,) for image in real])
    return FOR_ENGINES


def build_engines(
    folder: Path, stem: str, backend: str, capabilities: Sequence[str], precisions: Sequence[str], watch: Stopwatch
) -> list[dict[str, Any]]:
    """One engine for each capability, of each further precision, or of fp32 without one, from the files of a stem."""
    built = []
    for capability in capabilities:
        for ending in [f".{precision}" for precision in precisions] or [""]:
            with watch.stage(f"build {capability}"):
                engine = folder / f"{MODEL}{ending}.{capability}.engine"
                report = build_engine(folder / f"{stem}{ending}.onnx", backend, capability, engine, watch.progress)
                built.append({**vars(report), "path": report.path.name})
    return built


def build_engine(onnx: Path, backend: str, capability: str | None, path: Path, progress: Progress) -> EngineReport:
    """Build one engine with a backend by name."""
    return require(backend).build(
        onnx,
        path,
        EngineOptions(capability=capability),
        lambda _, done, total: progress(f"build {capability}", done, total),
    )


def engine_notes(form: Deployed, backend: str, capabilities: Sequence[str]) -> list[str]:
    """Who runs the engines, where a reader may expect that the network's own library does."""
    if not capabilities or backend != "tensorrt_rtx" or not form.words.get("library", "").startswith("Ultralytics"):
        return []
    return [
        "The engines are TensorRT-RTX's: channelcut's runner runs them, Ultralytics' YOLO(...), which takes "
        "TensorRT's, does not. On the machine with the GPU, --backend tensorrt builds one for it, with the header "
        "that it reads."
    ]
