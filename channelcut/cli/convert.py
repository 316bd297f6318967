"""`channelcut convert`: an ONNX file in a lower precision."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from channelcut.cli import flags as groups
from channelcut.cli.parsing import positive, refuse_existing, size

NAME = "convert"
HELP = "Write an ONNX file in fp16, bf16 or int8, with more bits where the measured error asks for it."
EXAMPLES = (
    ("fp16", "channelcut convert model.onnx --precision fp16 --out model.fp16.onnx"),
    (
        "int8, calibrated on images, within 5 % of the outputs' range",
        "channelcut convert model.onnx --precision int8 --data images/ --max-error 0.05 --out model.int8.onnx",
    ),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("onnx", type=Path, metavar="FILE.onnx", help="the file to convert, in float32")
    groups.add_output(parser, "the .onnx file", "FILE.PRECISION.onnx")
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--precision", choices=("fp16", "bf16", "int8"), required=True, help="what the layers compute in"
    )
    precision.add_argument(
        "--max-error",
        type=float,
        metavar="X",
        help="largest relative output error (default 0.01 for fp16, 0.05 for bf16, 0.1 for int8)",
    )
    precision.add_argument(
        "--method",
        choices=("percentile", "entropy", "minmax"),
        default="percentile",
        help="how int8 finds the ranges of activations (default percentile)",
    )
    precision.add_argument(
        "--rest", choices=("fp16", "fp32"), default="fp16", help="what is not int8 computes in (default fp16)"
    )
    precision.add_argument(
        "--size",
        type=size,
        default=(640, 640),
        metavar="640x640",
        help="height and width, where the file leaves them open (default 640x640)",
    )
    groups.add_images(parser, "folder of unlabelled images, or the data.yaml of an Ultralytics model; int8 needs it")
    parser.add_argument(
        "--images", type=positive, default=64, metavar="N", help="most images to calibrate on (default 64)"
    )


def run(flags: Namespace) -> int:
    """Convert and print the error; returns 0."""
    from channelcut.adapters import images_for_file
    from channelcut.cli.console import Bars, console, print_json
    from channelcut.onnx_out.files import load_onnx
    from channelcut.precision.convert import PrecisionOptions, convert_precision
    from channelcut.precision.feeds import image_shape
    from channelcut.recovery.images import Preprocessing

    flags.out = flags.out or flags.onnx.with_suffix(f".{flags.precision}.onnx")
    refuse_existing(flags.out, flags.force)
    options = PrecisionOptions(budget=flags.max_error, method=flags.method, rest=flags.rest, size=flags.size)
    images = None
    broken: list[str] = []
    if flags.data is not None:
        asked = groups.read_images(flags)
        model = load_onnx(flags.onnx, weights=False)
        metadata, shape = {p.key: p.value for p in model.metadata_props}, image_shape(model, options.size)
        loaded, broken = images_for_file(metadata, flags.data, shape, Preprocessing(**asked), flags.images)
        images = loaded.numpy()
    with Bars(quiet=flags.quiet or flags.json) as progress:
        report = convert_precision(flags.onnx, flags.out, flags.precision, images, options, progress)
    if flags.json:
        print_json({**vars(report), "path": report.path.name, "broken_images": broken})
    elif not flags.quiet:
        skipped = f"; {len(broken)} broken images skipped" if broken else ""
        others = f", {len(report.rest_kept)} others in fp32" if report.rest_kept else ""
        console().print(
            f"{report.path}: {report.precision}, {report.lowered} nodes lowered, {len(report.kept)} kept in "
            f"{report.rest}{others}, error of {report.compared} {report.error:.2g} on {report.inputs} (all lowered: "
            f"{report.unrestricted_error:.2g}), {report.size_bytes / 2**20:.2f} MiB{skipped}",
            soft_wrap=True,
        )
    return 0
