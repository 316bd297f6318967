"""`channelcut compress`: the whole path, from a model to a folder."""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from channelcut.cli import budget_flags, parsing, recovery_flags
from channelcut.cli import flags as groups

NAME = "compress"
HELP = "Prune, prove, compensate or recover, export, build, measure, report."
EXAMPLES = (
    (
        "half of the multiply-accumulates, compensated on images, an engine for an RTX 4090",
        "channelcut compress best.pt --macs 0.5 --data images/ --capability sm89 --out out",
    ),
    (
        "0.6 of the time on this processor, as measured",
        "channelcut compress best.pt --latency 0.6 --data images/ --no-engine --out out",
    ),
    (
        "0.4 of the time, by widths and int8 together, at most 0.05 off in the outputs",
        "channelcut compress best.pt --latency 0.4 --precision auto --max-error 0.05 --data images/ --out out",
    ),
    (
        "from a checkpoint to ONNX and int8, each evaluated on the val split of the data set",
        "channelcut compress ultralytics:best.pt --macs 0.6 --data data.yaml --precision int8 --no-engine --out out",
    ),
    (
        "at most 1.5 G multiply-accumulates, the head as it is, at least 0.8 of the backbone",
        "channelcut compress nets.py:build --input 1x3x640x640 --macs 1.5G --exclude 'head.*' "
        "--keep 'backbone.*=0.8' --out out",
    ),
    (
        "recovered for ten epochs on unlabelled images, the original as teacher",
        "channelcut compress best.pt --macs 0.7 --data images/ --recover 10 --out out",
    ),
    (
        "half of every group's channels, nothing built or timed",
        "channelcut compress model.onnx --keep 0.5 --no-engine --no-bench --out out",
    ),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_model(parser)
    groups.add_allocation(parser)
    groups.add_coupling(parser)
    groups.add_deploy(parser)
    proof = parser.add_argument_group("proof")
    proof.add_argument(
        "--prove",
        choices=("whole", "each"),
        default="whole",
        help="the cut as a whole (default), or every group by itself as well",
    )
    recovery_flags.add(parser)
    groups.add_images(
        parser,
        "folder of unlabelled images to choose channels by, to compensate, for --recover and for int8; of Ultralytics' "
        "models also a data.yaml, on whose val split all results are evaluated; by default what batches() beside a "
        "factory gives",
    )
    _add_output(parser.add_argument_group("output"))


def _add_output(output: Any) -> None:
    """What is made of the cut."""
    output.add_argument("--out", type=Path, metavar="DIR", help="output folder (default NAME-pruned, here)")
    output.add_argument(
        "--force", action="store_true", help="replace the output folder when the new result is complete"
    )
    _add_precision(output)
    output.add_argument(
        "--capability",
        type=parsing.capabilities,
        default=("sm89",),
        metavar="NAMES",
        help="compute capabilities to build engines for, such as sm89, 8.9 or rtx4090, joined by commas (default sm89)",
    )
    output.add_argument(
        "--backend",
        type=parsing.choice("tensorrt_rtx", "tensorrt"),
        default="tensorrt_rtx",
        metavar="NAME",
        help="engine builder: tensorrt_rtx needs no GPU (default), tensorrt does",
    )
    output.add_argument("--no-engine", action="store_true", help="build no engine")
    output.add_argument(
        "--no-evaluate",
        action="store_true",
        help="do not measure accuracy (by a data.yaml, or by evaluate() beside a factory)",
    )
    output.add_argument("--no-bench", action="store_true", help="do not measure latency")
    output.add_argument(
        "--time-limit", type=parsing.seconds, default=30.0, metavar="S", help="seconds for the latency (default 30)"
    )
    output.add_argument("--profile", action="store_true", help="time every layer of both, for the report")


def _add_precision(output: Any) -> None:
    """What is written beside float32."""
    output.add_argument(
        "--precision",
        type=parsing.names,
        default=(),
        metavar="NAMES",
        help="fp16, bf16, int8 (needs --data), joined by commas: further ONNX files; auto (with --latency and --data): "
        "a precision for each layer is chosen with the widths, for model.mixed.onnx",
    )
    output.add_argument(
        "--max-error",
        type=float,
        metavar="X",
        help="the largest output error of each file of --precision (default as of convert; of auto 0.1)",
    )


def run(flags: Namespace) -> int:
    """Run the whole path and print the report; returns 0."""
    from channelcut.bench.measure import BenchOptions
    from channelcut.cli.console import Bars, console, print_json, printing_to_stderr
    from channelcut.compress import compress
    from channelcut.options import CompressOptions
    from channelcut.report import print_report

    prune = groups.read_prune(flags)
    target, precision = budget_flags.read_target(flags)
    source = groups.read_model(flags)
    out = flags.out or Path(f"{parsing.stem(flags.model)}-pruned")
    options = CompressOptions(
        prune=prune,
        capabilities=() if flags.no_engine else flags.capability,
        backend=flags.backend,
        precisions=tuple(name for name in flags.precision if name != "auto"),
        mixed="auto" in flags.precision,
        max_error=flags.max_error,
        measure=not flags.no_bench,
        bench=BenchOptions(time_limit_s=flags.time_limit, threads=flags.threads),
        profile=flags.profile,
        evaluate=not flags.no_evaluate,
        force=flags.force,
        **recovery_flags.read(flags),
        images=groups.read_images(flags),
        time_on=flags.time_on,
        table=flags.table,
        target=target,
        target_precision=precision,
    )
    with Bars(quiet=flags.quiet or flags.json) as progress, printing_to_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The budget .* is met already")  # a note of the report says it
        report = compress(source, out, options, progress)
    if flags.json:
        print_json(report)
    elif not flags.quiet:
        print_report(report, console())
        console().print(f"Report: {out / 'report.html'}", soft_wrap=True)
    return 0
