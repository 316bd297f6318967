"""`channelcut export`: a model as ONNX."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from channelcut.cli import flags as groups
from channelcut.cli.parsing import refuse_existing, stem

NAME = "export"
HELP = "Write a model, such as a result folder, as checked ONNX."
EXAMPLES = (
    (
        "a result with its batch, height and width left open",
        "channelcut export out --out model.onnx --dynamic-batch --dynamic-size",
    ),
    (
        "a result with weights that were trained after the cut",
        "channelcut export out --weights tuned.pt --out tuned.onnx",
    ),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_model(parser)
    groups.add_output(parser, "the .onnx file", "NAME.onnx, here")
    groups.add_deploy(parser)
    file = parser.add_argument_group("the file")
    file.add_argument("--opset", type=int, default=20, metavar="N", help="version of ONNX's operators (default 20)")
    file.add_argument("--dynamic-batch", action="store_true", help="leave the batch size open")
    file.add_argument("--dynamic-size", action="store_true", help="leave height and width open")


def run(flags: Namespace) -> int:
    """Export and print what was checked; returns 0."""
    from channelcut.adapters import deployed_form
    from channelcut.cli.console import Bars, console, print_json
    from channelcut.core.deployed import DEFAULT
    from channelcut.core.inputs import positional_inputs
    from channelcut.core.record import planned_deploy
    from channelcut.onnx_out.deployed import onnx_from_deployed
    from channelcut.onnx_out.module import ExportOptions
    from channelcut.sources.provenance import provenance

    source = groups.read_model(flags)
    flags.out = flags.out or Path(f"{stem(flags.model)}.onnx")
    refuse_existing(flags.out, flags.force)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        with progress.within("load"):
            model, x = source.open()
        options = ExportOptions(
            flags.opset, flags.dynamic_batch, flags.dynamic_size, metadata=tuple(provenance(source).items())
        )
        progress("export", 0, 1)
        asked = groups.read_deploy(flags)
        form = deployed_form(
            model,
            positional_inputs(model, x),
            asked if asked != DEFAULT else planned_deploy(model),
            dynamic=flags.dynamic_batch or flags.dynamic_size,
        )
        report = onnx_from_deployed(
            form, flags.out, options, on_progress=lambda done, total: progress("export", done, total)
        )
    if flags.json:
        print_json(report.to_dict())
    elif not flags.quiet:
        console().print(
            f"{flags.out}: opset {report.opset}, {report.nodes_before} → {report.nodes_after} nodes by "
            f"{report.simplifier}, relative error {report.max_relative_error:.2g} (at most {report.tolerance:.2g}), "
            f"{report.size_bytes / 2**20:.2f} MiB",
            soft_wrap=True,
        )
        for what, said in form.words.items():
            console().print(f"{what}: {said}", markup=False, soft_wrap=True)
        for warning in report.warnings:
            console().print(f"warning: {warning}", markup=False, soft_wrap=True)
    return 0
