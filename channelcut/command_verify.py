"""`channelcut verify DIR`: the parity chain over a result folder of `compress`."""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.bench.chain import Decode, Stage

PARITY = "parity.json"


def add_flags(command: ArgumentParser) -> None:
    """The flags of the command, but for those of images."""
    command.add_argument("folder", type=Path, help="a result folder of compress")
    command.add_argument("--images", type=int, default=8, help="how many (default 8)")
    command.add_argument("--score", type=float, default=0.25, help="boxes of at least this score are matched")
    command.add_argument("--trust", action="store_true", help="allow a model that is a pickle")


def run(flags: Namespace) -> int:
    """Compare, write parity.json, print; returns 0, or 1 where a stage breaks."""
    from channelcut.console import Bars, print_json
    from channelcut.recovery import Preprocessing

    how = Preprocessing(flags.fit, flags.bgr, flags.scale, flags.mean, flags.std)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        found = verify_folder(flags.folder, flags, how, lambda done, total: progress("verify", done, total))
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        print_parity(found)
    return 1 if found["first_broken"] else 0


def verify_folder(
    folder: Path, flags: Namespace, how: Any, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Run the chain over a result folder and write `parity.json` into it.

    `flags`: data, images, score, trust. Raises `UserError` for a folder that is no result, or --data without images.
    """
    from channelcut.core.files import write_atomically
    from channelcut.sources import open_source

    if not (folder / "plan.json").is_file():
        raise UserError(f"{folder} is no result of `channelcut compress`: it has no plan.json.")
    source = open_source(str(folder), None, trust=flags.trust)
    if source.input_shape is None:
        raise UserError(f"{folder}/plan.json does not say the input's shape, so nothing can be run.")
    module = source.build().eval()
    inputs, said = _inputs(flags, source.input_shape, how)
    found = verify_model(folder, module, inputs, flags, on_progress)
    found["inputs"] = said
    write_atomically(folder / PARITY, (json.dumps(found, indent=1) + "\n").encode())
    return found


def verify_model(
    folder: Path,
    module: Any,
    batches: list[Any],
    flags: Namespace,
    on_progress: Callable[[int, int], None] | None = None,
    decode: Decode | None = None,
) -> dict[str, Any]:
    """Run the chain for a module whose files are in `folder`, on batches (N, C, H, W); `flags` holds the score.

    `decode`: boxes out of outputs in a form of their own, see `bench.chain`.
    """
    import torch

    from channelcut.bench.chain import run_chain

    with tempfile.TemporaryDirectory() as temporary:
        stages, names = _stages(folder, module, torch.from_numpy(batches[0]), Path(temporary))
        return run_chain(_reference(module, names), stages, batches, flags.score, on_progress, decode)


def print_parity(found: Mapping[str, Any]) -> None:
    """The table, and the first stage that breaks."""
    from rich import box
    from rich.table import Table

    from channelcut.console import console

    out = console()
    table = Table(title=f"Parity on {found['inputs']}", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("stage", "against", "max", "mean", "relative", "cosine", "boxes", ""):
        table.add_column(column, no_wrap=column != "stage", overflow="fold")
    for row in found["stages"]:
        if row["status"] == "not run":  # said below, with its reason
            continue
        for label, key in ((row["compared_with"], "step"), ("torch", "reference")):
            if key == "reference" and row["compared_with"] == "torch":
                continue
            d = row[key]
            boxes = "–" if d["boxes"] is None else f"{d['boxes']:.1%}"
            cells = (f"{d['max_abs']:.1e}", f"{d['mean_abs']:.1e}", f"{d['max_relative']:.1e}", f"{d['cosine']:.6f}")
            table.add_row(row["stage"], label, *cells, boxes, row["status"])
    out.print(table)
    for row in found["stages"]:
        if row["status"] == "not run":
            out.print(f"{row['stage']} was not run here: {row['reason']}", markup=False, soft_wrap=True)
    broken = next((row for row in found["stages"] if row["stage"] == found["first_broken"]), None)
    if broken:
        out.print(f"First stage that breaks: {broken['stage']} ({broken['reason']}).", soft_wrap=True)


def _inputs(flags: Namespace, shape: tuple[int, ...], how: Any) -> tuple[list[Any], str]:
    import numpy as np

    from channelcut.onnx_out.inputs import image_like
    from channelcut.recovery import load_images

    batch = shape[0]
    count = max(1, -(-flags.images // batch))
    if flags.data is None:
        generator = np.random.default_rng(0)
        return [image_like(shape, generator) for _ in range(count)], f"{count * batch} random image-like inputs"
    if len(shape) != 4:
        raise UserError(f"--data fits a network with one image input; this one takes {shape}.")
    images, broken = load_images(flags.data, (shape[1], shape[2], shape[3]), how, limit=count * batch)
    if len(images) < batch:
        raise UserError(f"{flags.data} holds {len(images)} readable images; one batch needs {batch}.")
    whole = len(images) // batch
    more = f", {len(broken)} unreadable ones skipped" if broken else ""
    return [images[i * batch : (i + 1) * batch].numpy() for i in range(whole)], f"{whole * batch} images{more}"


def _stages(folder: Path, module: Any, example: Any, temporary: Path) -> tuple[list[Stage], tuple[str, ...]]:
    """All stages with their runners, and the outputs' names."""
    from channelcut.bench.chain import Stage
    from channelcut.engine.onnxruntime import load
    from channelcut.onnx_out.module import ExportOptions, onnx_from_module
    from channelcut.precision.convert import BUDGETS

    plain = temporary / "onnx.onnx"
    report = onnx_from_module(module, (example,), plain, ExportOptions(simplifiers=()))
    stages = [Stage("onnx", _runner(load(plain)))]
    previous = "onnx"
    files = [("simplified", "model.onnx", "fp32"), *((p, f"model.{p}.onnx", p) for p in BUDGETS)]
    for name, file, precision in files:
        path = folder / file
        if not path.is_file():
            stages.append(Stage(name, None, reason=f"{file} is not there"))
            continue
        runner, reason = _loaded(load, path)
        stages.append(Stage(name, runner, precision, previous, reason))
        previous = "simplified" if name == "simplified" else previous
    stages.append(_openvino(folder / "model.onnx", previous))
    backends = _engine_backends(folder)
    for engine in sorted(folder.glob("model*.engine")):
        part = engine.name.split(".")[1]
        precision = part if part in BUDGETS else "fp32"
        before = part if part in BUDGETS else "simplified"
        runner, reason = _engine(engine, backends)
        stages.append(Stage(engine.name, runner, "fp16" if precision == "fp32" else precision, before, reason))
    return stages, report.output_names


def _openvino(path: Path, before: str) -> Stage:
    """OpenVINO on the plain file, where it is installed."""
    from channelcut.bench.chain import Stage
    from channelcut.engine.registry import require

    runner, reason = _loaded(require("openvino").load, path)
    return Stage("openvino", runner, "fp32", before, reason)


def _loaded(load: Callable[[Path], Any], path: Path) -> tuple[Any, str]:
    """A runner, or why there is none here."""
    try:
        return _runner(load(path)), ""
    except UserError as problem:
        return None, " ".join(str(problem).split())[:300]


def _engine(engine: Path, backends: Mapping[str, str]) -> tuple[Any, str]:
    """A runner, or why there is none here."""
    from channelcut.engine.registry import require

    reasons = []
    names = [backends[engine.name]] if engine.name in backends else ["tensorrt_rtx", "tensorrt"]
    for backend in names:
        try:
            return _runner(require(backend).load(engine)), ""
        except UserError as problem:
            reasons.append(f"{backend}: {problem}")
    return None, " ".join(" ".join(reasons).split())[:300]


def _engine_backends(folder: Path) -> dict[str, str]:
    """Which backend built which engine, as report.json tells it."""
    try:
        engines = json.loads((folder / "report.json").read_text(encoding="utf-8")).get("engines") or []
        return {Path(e["path"]).name: str(e["backend"]) for e in engines}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _runner(runner: Any) -> Callable[[Any], Mapping[str, Any]]:
    """Feed the one input in the type that this form of the model takes."""

    def call(batch: Any) -> Mapping[str, Any]:
        name, (_, dtype) = next(iter(runner.inputs.items()))
        outputs: Mapping[str, Any] = runner({name: batch.astype(dtype)})
        return outputs

    return call


def _reference(module: Any, names: tuple[str, ...]) -> Callable[[Any], Mapping[str, Any]]:
    import torch

    from channelcut.onnx_out.parity import tensor_leaves

    def call(batch: Any) -> Mapping[str, Any]:
        with torch.no_grad():
            leaves = tensor_leaves(module(torch.from_numpy(batch)))
        return {name: leaf.float().numpy() for name, leaf in zip(names, leaves, strict=True)}

    return call
