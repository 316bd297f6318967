"""`channelcut bench`: two models, ONNX files or engines, timed in turns."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.cli import flags as groups
from channelcut.cli import parsing
from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.core.measurement import Measurement

NAME = "bench"
HELP = "Time two models, ONNX files or engines in turns."
EXAMPLES = (
    ("a result's two ONNX files", "channelcut bench out"),
    (
        "two files with OpenVINO, for at most a minute",
        "channelcut bench a.onnx b.onnx --backend openvino --time-limit 60",
    ),
    ("two engines on a GPU", "channelcut bench a.engine b.engine --backend tensorrt --wait spin"),
)
_WHAT = "an .onnx file, an engine, a result folder (its model.onnx), or a model as for compress"


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "original", metavar="ORIGINAL", help=f"the baseline: {_WHAT}; alone: a result folder to time again"
    )
    parser.add_argument("pruned", nargs="?", metavar="PRUNED", help="the candidate, likewise")
    model = parser.add_argument_group("what is run")
    from channelcut.engine.registry import backends

    model.add_argument(
        "--backend",
        type=parsing.choice(*backends()),
        default="onnxruntime",
        metavar="NAME",
        help=f"what runs both: {', '.join(backends())} (default onnxruntime)",
    )
    model.add_argument(
        "--capability",
        type=parsing.capability,
        metavar="NAME",
        help="compute capability, where the backend builds engines from ONNX first",
    )
    groups.add_input(model)
    groups.add_deploy(parser)
    model.add_argument("--weights", metavar="pretrained|random|FILE", help=groups.WEIGHTS)
    model.add_argument("--trust", action="store_true", help=groups.TRUST)
    model.add_argument(
        "--batch", type=parsing.positive, default=1, metavar="N", help="for an open batch axis (default 1)"
    )
    model.add_argument(
        "--size", type=parsing.size, metavar="640x640", help="height and width, for a file that leaves them open"
    )
    model.add_argument("--threads", type=parsing.positive, default=1, metavar="N", help="CPU threads (default 1)")
    model.add_argument(
        "--cuda", choices=("bindings", "pycuda"), help="package that TensorRT engines run through; else what imports"
    )
    timing = parser.add_argument_group("how it is timed")
    timing.add_argument(
        "--time-limit", type=parsing.seconds, default=30.0, metavar="S", help="seconds for all of it (default 30)"
    )
    timing.add_argument("--warm-up", type=float, default=0.5, metavar="S", help="seconds before (default 0.5)")
    timing.add_argument(
        "--half-width",
        type=parsing.share,
        default=0.01,
        metavar="X",
        help="stop when the ratio is known to plus or minus this (default 0.01)",
    )
    timing.add_argument("--wait", choices=("spin", "block"), help="how the host waits for a GPU")
    timing.add_argument(
        "--pin",
        type=_cores,
        default="auto",
        metavar="CORES",
        help="cores to run on: auto (default), none, or numbers such as 0,1",
    )
    timing.add_argument("--no-memory", action="store_true", help="do not measure peak memory in processes of its own")


def run(flags: Namespace) -> int:
    """Measure and print; returns 0."""
    from channelcut.bench.engines import Comparison, measure_files
    from channelcut.bench.measure import BenchOptions
    from channelcut.bench.pinning import default_cores
    from channelcut.cli.console import Bars, print_json

    options = BenchOptions(
        warmup_s=flags.warm_up,
        time_limit_s=flags.time_limit,
        target_half_width=flags.half_width,
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
            pin=default_cores(flags.threads) if flags.pin == "auto" else flags.pin,
            cuda=flags.cuda,
            size=flags.size,
        )
        measurement = measure_files(what, options, lambda done, total: progress("bench", done, total))
    if flags.json:
        print_json(measurement.to_dict())
    elif not flags.quiet:
        print_measurement(measurement)
        _print_details(measurement.details)
    return 0


def _files(flags: Namespace, folder: Path) -> tuple[Path, Path]:
    """The two files to load."""
    from channelcut.compress import ORIGINAL, PRUNED

    if flags.pruned is None:
        result = Path(flags.original)
        if not result.is_dir():
            raise UserError(f"bench needs two models, or one result folder; {result} is no folder.")
        return result / ORIGINAL, result / PRUNED
    return _file(flags.original, flags, folder / "a.onnx"), _file(flags.pruned, flags, folder / "b.onnx")


def _file(name: str, flags: Namespace, made: Path) -> Path:
    """The file to load: as given, a result folder's model.onnx, or a model's export, written to `made`."""
    from channelcut.compress import PRUNED

    path = Path(name)
    if path.is_dir() and (path / PRUNED).is_file():
        return path / PRUNED
    if path.is_file() and path.suffix != ".py":
        return path
    if path.suffix.lower() in (".onnx", ".engine"):
        raise UserError(f"There is no file {name}. bench takes an .onnx file, an engine, a result folder or a model.")
    from channelcut.adapters import deployed_form
    from channelcut.core.inputs import positional_inputs
    from channelcut.onnx_out.deployed import onnx_from_deployed

    model, x = groups.find_model(name, flags.input, flags.weights, trust=flags.trust).open()
    onnx_from_deployed(deployed_form(model, positional_inputs(model, x), groups.read_deploy(flags)), made)
    return made


def _cores(text: str) -> tuple[int, ...] | str:
    """Core numbers, none of them for `none`, or `auto`."""
    if text in ("auto", "none"):
        return text if text == "auto" else ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither auto, none, nor core numbers such as 0,1") from None


def print_measurement(measurement: Measurement) -> None:
    """Both latencies and the ratio with its interval."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from channelcut.cli.console import console

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("", "median ms", "mean", "p90", "p95", "p99", "runs"):
        table.add_column(column, justify="right" if column else "left")
    for latency in (measurement.baseline, measurement.candidate):
        numbers = (latency.median_ms, latency.mean_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)
        table.add_row(latency.name, *(f"{n:.3f}" for n in numbers), str(len(latency.samples_ms)))
    out = console()
    out.print(table)
    out.print(
        f"candidate / baseline = {measurement.ratio:.3f} (95 % interval {measurement.ratio_low:.3f} to "
        f"{measurement.ratio_high:.3f}): {_verdict(measurement)}",
        soft_wrap=True,
    )
    if (thread := measurement.thread) is not None:
        out.print(
            f"in processor time of the thread: {thread.estimate:.3f} (95 % interval {thread.low:.3f} to "
            f"{thread.high:.3f})",
            soft_wrap=True,
        )
    for warning in measurement.warnings:
        out.print(f"warning: {warning}", soft_wrap=True)


def _verdict(measurement: Measurement) -> str:
    if measurement.disturbed:
        return "no verdict, because processor time says otherwise"
    return "faster" if measurement.faster else "slower" if measurement.slower else "no difference beyond the noise"


def _print_details(details: Mapping[str, Any]) -> None:
    """Sizes, memory and stages, one line for each side, and whether suppression is in the times."""
    from channelcut.cli.console import console
    from channelcut.core.measurement import suppression_words

    out = console()
    size, memory = details.get("file_bytes", {}), details.get("memory", {})
    for side in ("baseline", "candidate"):
        parts = [f"{size[side] / 2**20:.2f} MiB on disk"] if side in size else []
        parts += [f"{name.replace('_', ' ')} {value:.1f}" for name, value in memory.get(side, {}).items()]
        parts += [f"{n} {s['median_ms']:.3f} ms" for n, s in details.get("stages", {}).get(side, {}).items()]
        out.print(f"{side}: {', '.join(parts)}", soft_wrap=True)
    if words := suppression_words(details.get("suppression", {})):
        out.print(f"suppression: {words}", soft_wrap=True)
    if details.get("wait"):
        out.print(f"wait: {details['wait']}", soft_wrap=True)
