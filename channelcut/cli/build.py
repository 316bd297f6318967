"""`channelcut build`: an engine from ONNX."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from channelcut.cli import flags as groups
from channelcut.cli import parsing

if TYPE_CHECKING:
    from channelcut.engine.protocol import Sizes

NAME = "build"
HELP = "Build an engine from ONNX with any of the backends."
EXAMPLES = (
    (
        "a TensorRT-RTX engine ahead of time, without a GPU",
        "channelcut build model.onnx --capability sm89 --out model.engine",
    ),
    (
        "a TensorRT engine on the GPU itself, for batches of 1 to 8",
        "channelcut build model.onnx --backend tensorrt --batch 1,4,8 --timing-cache kernels.cache --out model.engine",
    ),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command; the choice of backends is the registry's."""
    from channelcut.engine.protocol import COMPATIBILITY
    from channelcut.engine.registry import backends

    parser.add_argument("onnx", type=Path, metavar="FILE.onnx", help="the file to build from")
    groups.add_output(parser, "the engine file", "FILE.engine")
    target = parser.add_argument_group("what it is for")
    target.add_argument(
        "--backend",
        type=parsing.choice(*backends()),
        default="tensorrt_rtx",
        metavar="NAME",
        help=f"what builds and will run it: {', '.join(backends())} (default tensorrt_rtx)",
    )
    target.add_argument(
        "--capability",
        type=parsing.capability,
        metavar="NAME",
        help="compute capability such as sm89, 8.9 or rtx4090, several joined by commas; without it, "
        "this machine's GPU",
    )
    target.add_argument(
        "--provider",
        choices=("cpu", "cuda", "tensorrt"),
        default="cpu",
        help="ONNX Runtime's execution provider (default cpu)",
    )
    target.add_argument(
        "--batch",
        type=_batch,
        default=(1, 1, 8),
        metavar="1,1,8",
        help="least, best and greatest batch, where the ONNX leaves it open (default 1,1,8)",
    )
    target.add_argument(
        "--size",
        type=_sizes,
        metavar="320x320,640x640,1280x1280",
        help="least, best and greatest height x width, if open",
    )
    target.add_argument("--version-compatible", action="store_true", help="later versions of TensorRT may run it")
    target.add_argument("--hardware-compatible", choices=COMPATIBILITY, help="other GPUs may run it, more slowly")
    search = parser.add_argument_group("how it is built")
    search.add_argument("--workspace", type=int, metavar="MIB", help="the most memory that a layer may use as scratch")
    search.add_argument("--optimization-level", type=int, metavar="0..5", help="5 searches longest")
    search.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="file of measured kernels; builds that run at the same time may share it",
    )
    search.add_argument(
        "--layers", type=Path, metavar="FILE", help="write what the engine's layers are, as JSON; needs the GPU"
    )


def run(flags: Namespace) -> int:
    """Build and print one line about the engine; returns 0."""
    from channelcut.cli.console import Bars, console, print_json
    from channelcut.engine.protocol import EngineOptions
    from channelcut.engine.registry import require

    flags.out = flags.out or flags.onnx.with_suffix(".engine")
    parsing.refuse_existing(flags.out, flags.force)
    options = EngineOptions(
        capability=flags.capability,
        workspace_mib=flags.workspace,
        optimization_level=flags.optimization_level,
        batch=flags.batch,
        timing_cache=flags.timing_cache,
        version_compatible=flags.version_compatible,
        resolution=flags.size,
        hardware_compatible=flags.hardware_compatible,
        layers=flags.layers,
        provider=flags.provider,
    )
    target = flags.capability or flags.backend
    with Bars(quiet=flags.quiet or flags.json) as progress:
        report = require(flags.backend).build(
            flags.onnx, flags.out, options, lambda _, done, total: progress(f"build {target}", done, total)
        )
    if flags.json:
        print_json({**vars(report), "path": str(report.path)})
    elif not flags.quiet:
        console().print(
            f"{report.path}: {report.backend} {report.version} for {report.capability}, {report.size_mib:.2f} MiB, "
            f"built in {report.build_s:.1f} s",
            soft_wrap=True,
        )
        for warning in report.warnings:
            console().print(f"warning: {warning}", soft_wrap=True)
    return 0


def _batch(text: str) -> tuple[int, int, int]:
    try:
        least, best, greatest = (int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no range of batches; expected three numbers such as 1,1,8") from None
    return least, best, greatest


def _sizes(text: str) -> Sizes:
    try:
        first, second, third = (parsing.size(part) for part in text.split(","))
    except (ValueError, ArgumentTypeError):
        raise ArgumentTypeError(
            f"{text!r} is no range of sizes; expected three such as 320x320,640x640,1280x1280"
        ) from None
    return first, second, third
