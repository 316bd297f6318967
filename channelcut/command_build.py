"""`channelcut build`: flags to `EngineOptions`, and one line about the engine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from channelcut.core.errors import UserError
from channelcut.engine.protocol import COMPATIBILITY, EngineOptions, Sizes
from channelcut.engine.registry import backends, require


def add_flags(command: ArgumentParser) -> None:
    """The command's flags; the choice of backends is the registry's."""
    command.add_argument("onnx", type=Path)
    command.add_argument("--out", type=Path, required=True, help="the engine file to write")
    command.add_argument("--capability", help="compute capability such as sm89; without it, this machine's GPU")
    command.add_argument("--backend", choices=tuple(backends()), default="tensorrt_rtx")
    command.add_argument("--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="ONNX Runtime's")
    command.add_argument(
        "--batch", metavar="1,1,8", help="least, best and greatest batch, where the ONNX leaves it open"
    )
    command.add_argument(
        "--resolution", metavar="320x320,640x640,1280x1280", help="least, best and greatest height x width, if open"
    )
    command.add_argument("--workspace", type=int, metavar="MIB", help="the most memory that a layer may use as scratch")
    command.add_argument("--optimization-level", type=int, metavar="0..5", help="5 searches longest")
    command.add_argument("--timing-cache", type=Path, help="file of measured kernels; builds at once may share it")
    command.add_argument("--version-compatible", action="store_true", help="later versions of TensorRT may run it")
    command.add_argument("--hardware-compatible", choices=COMPATIBILITY, help="other GPUs may run it, more slowly")
    command.add_argument("--layers", type=Path, help="write what the engine's layers are, as JSON; needs the GPU")
    command.add_argument("--force", action="store_true", help="replace an existing file")


def build(flags: Namespace) -> int:
    """Run the backend; raises `UserError` for flags that do not parse and for every refusal of the backend."""
    from channelcut.commands import refuse_existing
    from channelcut.console import Bars, console, print_json

    refuse_existing(flags.out, flags.force)
    options = EngineOptions(
        capability=flags.capability,
        workspace_mib=flags.workspace,
        optimization_level=flags.optimization_level,
        batch=_batch(flags.batch) if flags.batch else (1, 1, 8),
        timing_cache=flags.timing_cache,
        version_compatible=flags.version_compatible,
        resolution=_resolution(flags.resolution) if flags.resolution else None,
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
        raise UserError(f"--batch is {text!r}; expected three numbers such as 1,1,8.") from None
    return least, best, greatest


def _resolution(text: str) -> Sizes:
    try:
        pairs = [tuple(int(side) for side in part.lower().split("x")) for part in text.split(",")]
        (h0, w0), (h1, w1), (h2, w2) = pairs
    except ValueError:
        raise UserError(f"--resolution is {text!r}; expected three sizes such as 320x320,640x640,1280x1280.") from None
    return (h0, w0), (h1, w1), (h2, w2)
