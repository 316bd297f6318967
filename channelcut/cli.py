"""The command line: one subcommand a stage, and `compress`. It parses, calls, prints; it decides nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from channelcut import __version__
from channelcut.core.errors import ChannelcutError, UserError

MODEL_HELP = (
    "ultralytics:NAME.pt|.yaml, torchvision:NAME, timm:NAME, file.py:factory, package.module:factory, "
    "a .onnx file, or a result folder"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a result that does not hold, 2 for an error
    of the user's, 130 for Ctrl-C.
    """
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except UserError as error:
        print(f"channelcut: {error}", file=sys.stderr)
        return 2
    except ChannelcutError as error:
        print(f"channelcut: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("channelcut: interrupted; nothing half-written was left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(
        prog="channelcut", description="Structured pruning for dense hardware, proven and measured."
    )
    top.add_argument("--version", action="version", version=f"channelcut {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _analyze, _compress, _export, _convert, _build, _verify, _bench, _profile, _report, _explain, _env,
    ):  # fmt: skip
        add(commands)
    return top


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument(
        "--json", action="store_true", help="print the result as JSON on standard output, and nothing else there"
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars and no tables")
    command.set_defaults(run=run)
    return command


def _model_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument(
        "--input", metavar="1x3x640x640", help="shape of the input; by default the library's customary one"
    )
    command.add_argument("--weights", type=Path, help="state dict to load (.pt, .pth, .safetensors)")
    command.add_argument(
        "--trust", action="store_true", help="allow a model or weights that are a pickle, which runs its author's code"
    )
    command.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default 1: steadiest on a shared machine)"
    )


def _coupling_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--front-end", choices=("auto", "dispatch", "export"), default="auto", help="how to trace")
    command.add_argument(
        "--grouped",
        choices=("groups", "offsets"),
        default="groups",
        help="grouped convolutions lose whole groups (default), or as many channels of every group",
    )
    command.add_argument(
        "--free-output",
        dest="free_outputs",
        action="append",
        metavar="PATTERN",
        help="an output whose channels may go, by its path in the result, such as '1.feats.*'; may be repeated",
    )


def _image_flags(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--data", type=Path, help=text)
    command.add_argument(
        "--fit", choices=("stretch", "letterbox"), default="stretch", help="how images are made to fit the input"
    )
    command.add_argument("--bgr", action="store_true", help="the network takes BGR")
    command.add_argument("--scale", type=float, default=1 / 255, help="factor on pixel values (default 1/255)")
    command.add_argument("--mean", type=_numbers, default=(0.0,), help="subtracted after scaling, one number or three")
    command.add_argument("--std", type=_numbers, default=(1.0,), help="divided by after that, one number or three")


def _analyze(commands: Any) -> None:
    from channelcut import commands as run

    command = _command(commands, "analyze", run.analyze, "Which channels can go, which cannot, and why.")
    _model_flags(command)
    _coupling_flags(command)
    command.add_argument("--svg", type=Path, metavar="FILE", help="write the picture of the coupled graph")
    command.add_argument("--force", action="store_true", help="replace an existing --svg file")


def _compress(commands: Any) -> None:
    from channelcut import commands as run

    command = _command(commands, "compress", run.compress, "Prune, prove, recalibrate, export, build, measure, report.")
    _model_flags(command)
    _coupling_flags(command)
    command.add_argument(
        "--prove", choices=("whole", "each"), default="whole", help="each: prove every group by itself as well"
    )
    budget = command.add_mutually_exclusive_group(required=True)
    budget.add_argument("--macs", type=float, help="share of the multiply-accumulates to keep")
    budget.add_argument("--params", type=float, help="share of the parameters to keep")
    budget.add_argument("--keep", type=float, help="share of every group's channels to keep")
    command.add_argument("--out", type=Path, required=True, help="output folder")
    command.add_argument(
        "--force", action="store_true", help="replace the output folder when the new result is complete"
    )
    command.add_argument("--align", type=int, default=8, help="kept widths are multiples of this (default 8)")
    command.add_argument(
        "--floor", type=float, default=0.1, help="least share of any group that a budget leaves (default 0.1)"
    )
    command.add_argument(
        "--importance", default="l2", help="l1, l2, bn, random, or tp:NAME of torch-pruning (default l2)"
    )
    _image_flags(command, "folder of unlabelled images for batch-norm recalibration")
    command.add_argument(
        "--capability", type=_names, default=("sm89",), help="compute capabilities to build engines for (default sm89)"
    )
    command.add_argument(
        "--backend", choices=("tensorrt_rtx", "tensorrt"), default="tensorrt_rtx", help="engine builder"
    )
    command.add_argument(
        "--precision",
        type=_names,
        default=(),
        help="fp16, bf16, int8 (needs --data), joined by commas: further ONNX files",
    )
    command.add_argument("--no-engine", action="store_true", help="build no engine")
    command.add_argument("--no-bench", action="store_true", help="do not measure latency")
    command.add_argument("--profile", action="store_true", help="time every layer of both, for the report")


def _export(commands: Any) -> None:
    from channelcut import commands as run

    command = _command(commands, "export", run.export, "Write a model, such as a result folder, as checked ONNX.")
    _model_flags(command)
    command.add_argument("--out", type=Path, required=True, help="the .onnx file to write")
    command.add_argument("--opset", type=int, default=20)
    command.add_argument("--dynamic-batch", action="store_true", help="leave the batch size open")
    command.add_argument("--dynamic-size", action="store_true", help="leave height and width open")
    command.add_argument("--force", action="store_true", help="replace an existing file")


def _convert(commands: Any) -> None:
    from channelcut import command_convert as run

    command = _command(commands, "convert", run.convert, "Write an ONNX file in fp16, bf16 or int8.")
    command.add_argument("onnx", type=Path)
    command.add_argument("--precision", choices=("fp16", "bf16", "int8"), required=True)
    command.add_argument("--out", type=Path, required=True, help="the .onnx file to write")
    command.add_argument("--budget", type=float, help="largest relative output error (0.01, 0.05, 0.1 by precision)")
    command.add_argument("--method", choices=("percentile", "entropy", "minmax"), default="percentile")
    command.add_argument("--rest", choices=("fp16", "fp32"), default="fp16", help="what is not int8 computes in (fp16)")
    command.add_argument("--images", type=int, default=64, help="most images to calibrate on (default 64)")
    command.add_argument("--size", type=int, default=640, help="height and width where the file leaves them open")
    command.add_argument("--force", action="store_true", help="replace an existing file")
    _image_flags(command, "folder of unlabelled images; int8 needs it")


def _build(commands: Any) -> None:
    from channelcut import command_build

    command_build.add_flags(
        _command(commands, "build", command_build.build, "Build an engine from ONNX with any of the backends.")
    )


def _env(commands: Any) -> None:
    from channelcut import command_env

    _command(commands, "env", command_env.env, "What this machine can build and run with: devices, drivers, versions.")


def _bench(commands: Any) -> None:
    from channelcut import command_bench as bench

    command = _command(commands, "bench", bench.run, "Time two models, ONNX files or engines in turns.")
    bench.add_flags(command)


def _verify(commands: Any) -> None:
    from channelcut import command_verify as verify

    command = _command(commands, "verify", verify.run, "Compare every file of a result with the form before it.")
    verify.add_flags(command)
    _image_flags(command, "folder of images; without it, random image-like inputs")


def _profile(commands: Any) -> None:
    from channelcut import command_profile as profile

    command = _command(commands, "profile", profile.run, "Where the time goes: every layer before and after.")
    profile.add_flags(command)


def _report(commands: Any) -> None:
    from channelcut import commands as run

    command = _command(commands, "report", run.report, "Print a result's report and write its report.html again.")
    command.add_argument("folder", type=Path)


def _explain(commands: Any) -> None:
    from channelcut import command_explain as explain

    text = "Why a parameter's channels may or may not go; what an ONNX file, or those of a result, say of themselves."
    explain.add_flags(_command(commands, "explain", explain.run, text))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    sys.exit(main())
