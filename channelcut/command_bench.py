"""`channelcut bench A B`: two models, ONNX files or engines, timed in turns."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError


def add_flags(command: ArgumentParser) -> None:
    """The flags of the command."""
    what = "an .onnx file, an engine, a result folder (its model.onnx), or a model as for compress"
    command.add_argument("original", help=f"the baseline: {what}; alone: a result folder to time again")
    command.add_argument("pruned", nargs="?", help="the candidate, likewise")
    command.add_argument("--backend", default="onnxruntime", help="what runs both (default onnxruntime)")
    command.add_argument("--capability", help="compute capability, where the backend builds engines from ONNX first")
    command.add_argument("--input", metavar="1x3x640x640", help="input shape of a model that is no file yet")
    command.add_argument("--trust", action="store_true", help="allow models that are pickles")
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--batch", type=int, default=1, help="for an open batch axis (default 1)")
    command.add_argument("--size", metavar="640x640", help="height and width, for a file that leaves them open")
    command.add_argument("--time-limit", type=float, default=30.0, help="seconds (default 30)")
    command.add_argument("--warm-up", type=float, default=0.5, help="seconds (default 0.5)")
    command.add_argument("--precision", type=float, default=0.01, help="stop at this half-interval of the ratio")
    command.add_argument("--wait", choices=("spin", "block"), help="how the host waits for a GPU")
    command.add_argument(
        "--cuda", choices=("bindings", "pycuda"), help="package that TensorRT engines run through; else what imports"
    )
    command.add_argument("--pin", default="auto", help="cores to run on: auto (default), none, or numbers such as 0,1")
    command.add_argument("--no-memory", action="store_true", help="do not measure peak memory in processes of its own")


def run(flags: Namespace) -> int:
    """Measure and print; returns 0."""
    from channelcut.bench.engines import Comparison, measure_files
    from channelcut.bench.measure import BenchOptions
    from channelcut.console import Bars, print_json, print_measurement

    options = BenchOptions(
        warmup_s=flags.warm_up,
        time_limit_s=flags.time_limit,
        target_half_width=flags.precision,
        threads=flags.threads,
        batch=flags.batch,
        device="cpu" if flags.backend.startswith(("onnxruntime", "openvino")) else "gpu",
    )
    with tempfile.TemporaryDirectory() as folder, Bars(quiet=flags.quiet or flags.json) as progress:
        first, second = _files(flags, Path(folder))
        what = Comparison(
            first,
            second,
            flags.backend,
            flags.capability,
            flags.wait,
            memory=not flags.no_memory,
            pin=_cores(flags.pin, flags.threads),
            cuda=flags.cuda,
            size=_size(flags.size),
        )
        measurement = measure_files(what, options, lambda done, total: progress("bench", done, total))
    if flags.json:
        print_json(measurement.to_dict())
    elif not flags.quiet:
        print_measurement(measurement)
        _print_details(measurement.details)
    return 0


def _files(flags: Namespace, folder: Path) -> tuple[Path, Path]:
    from channelcut.compress import ORIGINAL, PRUNED

    if flags.pruned is None:
        result = Path(flags.original)
        if not result.is_dir():
            raise UserError(f"bench needs two models, or one result folder; {result} is no folder.")
        return result / ORIGINAL, result / PRUNED
    return _file(flags.original, flags, folder / "a.onnx"), _file(flags.pruned, flags, folder / "b.onnx")


def _file(name: str, flags: Namespace, made: Path) -> Path:
    """The file to load: as given, a result folder's model.onnx, or a model's export."""
    from channelcut.compress import PRUNED

    path = Path(name)
    if path.is_dir() and (path / PRUNED).is_file():
        return path / PRUNED
    if path.is_file() and path.suffix != ".py":
        return path
    if path.suffix.lower() in (".onnx", ".engine"):
        raise UserError(f"There is no file {name}. bench takes an .onnx file, an engine, a result folder or a model.")
    import torch

    from channelcut.commands import parse_shape
    from channelcut.onnx_out.module import onnx_from_module
    from channelcut.sources import open_source

    given = parse_shape(flags.input) if flags.input else None
    source = open_source(name, None, trust=flags.trust, input_shape=given)
    shape = given or source.input_shape
    if shape is None:
        raise UserError(f"The input shape of {name} is not known. Give it, batch first: --input 1x3x640x640.")
    torch.manual_seed(0)
    onnx_from_module(source.build(), (torch.rand(shape),), made)
    return made


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise UserError(f"--size {text!r} is no height and width such as 640x480.") from None
    return height, width


def _cores(text: str, threads: int) -> tuple[int, ...]:
    from channelcut.bench.pinning import default_cores

    if text in ("auto", "none"):
        return default_cores(threads) if text == "auto" else ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--pin {text!r} is neither auto, none, nor core numbers such as 0,1.") from error


def _print_details(details: Mapping[str, Any]) -> None:
    """Sizes, memory and stages, one line each."""
    from channelcut.console import console

    out = console()
    size, memory = details.get("file_bytes", {}), details.get("memory", {})
    for side in ("baseline", "candidate"):
        parts = [f"{size[side] / 2**20:.2f} MiB on disk"] if side in size else []
        parts += [f"{name.replace('_', ' ')} {value:.1f}" for name, value in memory.get(side, {}).items()]
        parts += [f"{n} {s['median_ms']:.3f} ms" for n, s in details.get("stages", {}).get(side, {}).items()]
        out.print(f"{side}: {', '.join(parts)}", soft_wrap=True)
    if details.get("wait"):
        out.print(f"wait: {details['wait']}", soft_wrap=True)
