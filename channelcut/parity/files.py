"""The stages that a folder's files make: torch, ONNX, the files of every precision, OpenVINO, engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from channelcut.core.checked import read_json
from channelcut.core.deployed import Deployed
from channelcut.core.errors import UserError
from channelcut.engine.onnxruntime import load
from channelcut.engine.registry import require
from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.inputs import extremes
from channelcut.onnx_out.judge import ROUNDINGS
from channelcut.onnx_out.module import parity_check
from channelcut.onnx_out.names import output_names
from channelcut.onnx_out.noise import FORWARD_FAILURES, rounding_of
from channelcut.onnx_out.parity import Parity
from channelcut.parity.chain import PLAIN, Batch, Extremes, Matching, Outputs, Stage, run_chain
from channelcut.precision.convert import BUDGETS

Run = Callable[[Batch], Outputs]

ONNX, FILE = "onnx", "model.onnx"
_ENGINES = ("tensorrt_rtx", "tensorrt")  # what is tried where the report does not say who built an engine
_FINITE_ON = ("zeros", "half zeros", "one constant")  # not on large values, for which fp16 has no numbers
_ROUNDED_BATCHES = 2
_REASON = 300  # characters of a reason that are kept


def compare_files(
    folder: Path,
    form: Deployed,
    batches: Sequence[Batch],
    *,
    matching: Matching = PLAIN,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a network and each of its files in `folder` on the same inputs, and compare each with the form before it.

    `model.onnx` is judged as it was when it was written, by the same check on the same inputs and on these.

    Args:
        folder: holds `model.onnx`, and what there is of `model.<precision>.onnx` and `model*.engine`.
        form: what the files were made from, see `adapters.deployed_form`.
        batches: inputs (N, C, H, W), or a tuple of several in the forward's order, all of the same shapes.
        matching: how boxes are matched, and whether the batches are real images.
        on_progress: called as on_progress(done, total) before every stage and at the end.

    Returns:
        What `run_chain` returns: a row per stage, and the first stage that breaks its tolerance, as JSON values.
    """
    folder, module = Path(folder), form.module
    names = _output_names(folder, form)
    stages = [_onnx(folder, form, batches), *_further(folder), *_engines(folder)]
    reference, known = _reference(module, names), _extremes(module, names, batches)
    return run_chain(reference, stages, batches, matching, on_progress, known)


def _output_names(folder: Path, form: Deployed) -> tuple[str, ...]:
    """The outputs' names in the files, or those that they would have."""
    if (folder / FILE).is_file():
        return tuple(output.name for output in load_onnx(folder / FILE, weights=False).graph.output)
    with torch.no_grad():
        return form.output_names or tuple(output_names(form.module(*form.inputs), model=form.module))


def _extremes(module: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> Extremes:
    """Black, half black and even images, on which the module runs, and what rounding makes of each output."""
    found: dict[str, Batch] = {}
    for trial in extremes(_tensors(batches[0])):
        try:
            with torch.no_grad():
                module(*trial.inputs)
        except FORWARD_FAILURES:
            continue
        if trial.name in _FINITE_ON:
            found[trial.name] = tuple(part.numpy() for part in trial.inputs)
    rounding = dict.fromkeys(names, 0.0)
    for batch in batches[:_ROUNDED_BATCHES]:
        for name, change in zip(names, rounding_of(module, _tensors(batch)), strict=True):
            rounding[name] = max(rounding[name], ROUNDINGS * change)
    return Extremes(found, rounding)


def _onnx(folder: Path, form: Deployed, batches: Sequence[Batch]) -> Stage:
    """The ONNX file, with the verdict of the check that accepted it when it was written."""
    path = folder / FILE
    if not path.is_file():
        return Stage(ONNX, None, reason=f"{FILE} is not there")
    run, reason = _loaded(load, path)

    def judged() -> Parity:
        return parity_check(form.module, form.inputs, [_tensors(batch) for batch in batches])(load_onnx(path))

    return Stage(ONNX, run, "fp32", reason=reason, judge=judged)


def _further(folder: Path) -> Iterator[Stage]:
    """The files that were made of the ONNX file, and it in OpenVINO."""
    for precision in BUDGETS:
        path = folder / f"model.{precision}.onnx"
        run, reason = _loaded(load, path) if path.is_file() else (None, f"{path.name} is not there")
        yield Stage(precision, run, precision, ONNX, reason)
    run, reason = _loaded(require("openvino").load, folder / FILE)
    yield Stage("openvino", run, "fp32", ONNX, reason)


def _engines(folder: Path) -> list[Stage]:
    """A stage per engine, compared with the ONNX file of its precision."""
    built_by = _engine_backends(folder)
    stages = []
    for engine in sorted(folder.glob("model*.engine")):
        part = engine.name.split(".")[1]
        # An engine of the float32 file may compute in TF32, whose significand is as short as that of fp16.
        precision, before = (part, part) if part in BUDGETS else ("fp16", ONNX)
        run, reason = _engine(engine, [built_by[engine.name]] if engine.name in built_by else _ENGINES)
        stages.append(Stage(engine.name, run, precision, before, reason))
    return stages


def _engine(engine: Path, backends: Sequence[str]) -> tuple[Run | None, str]:
    """A runner by the first backend that can load the engine, or why none can."""
    reasons = []
    for backend in backends:
        run, reason = _loaded(require(backend).load, engine)
        if run is not None:
            return run, ""
        reasons.append(f"{backend}: {reason}")
    return None, " ".join(reasons)[:_REASON]


def _loaded(load_file: Callable[[Path], Any], path: Path) -> tuple[Run | None, str]:
    """A runner, or why there is none here."""
    try:
        return _fed(load_file(path)), ""
    except UserError as problem:
        return None, " ".join(str(problem).split())[:_REASON]


def _engine_backends(folder: Path) -> dict[str, str]:
    """Which backend built which engine, as report.json tells it; empty where it does not."""
    try:
        engines = read_json(folder / "report.json", "", "").get("engines") or []
        return {Path(e["path"]).name: str(e["backend"]) for e in engines}
    except (UserError, KeyError, TypeError):
        return {}


def _fed(runner: Any) -> Run:
    """Feed the inputs in the types that this form of the model takes."""

    def run(batch: Batch) -> Outputs:
        parts = batch if isinstance(batch, tuple) else (batch,)
        fed = zip(runner.inputs.items(), parts, strict=True)
        outputs: Outputs = runner({name: part.astype(dtype) for (name, (_, dtype)), part in fed})
        return outputs

    return run


def _reference(module: nn.Module, names: tuple[str, ...]) -> Run:
    """The module itself, its outputs by the names that they have in the files."""

    def run(batch: Batch) -> Outputs:
        with torch.no_grad():
            leaves = tensor_leaves(module(*_tensors(batch)))
        return {name: leaf.float().numpy() for name, leaf in zip(names, leaves, strict=True)}

    return run


def _tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(part) for part in (batch if isinstance(batch, tuple) else (batch,)))
