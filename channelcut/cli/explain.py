"""`channelcut explain`: a parameter of a result, or what an ONNX file says of itself."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError

NAME = "explain"
HELP = "Why a parameter's channels may or may not go; what an ONNX file, or those of a result, say of themselves."
EXAMPLES = (
    ("why the channels of a layer may or may not go", "channelcut explain out model.10.m.0.attn.qkv"),
    ("which source, plan and precision the files of a result name", "channelcut explain out"),
    ("the same of one file", "channelcut explain model.onnx"),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("what", type=Path, metavar="DIR|FILE.onnx", help="a result folder, or an ONNX file")
    parser.add_argument(
        "parameter",
        nargs="?",
        metavar="PARAMETER",
        help="of a folder: name of a parameter or buffer, or of its module; without, its files",
    )


def run(flags: Namespace) -> int:
    """Explain and print; returns 1 when a file names another plan than the folder's, else 0."""
    from channelcut.cli.console import console, print_json
    from channelcut.report.files import describe_folder, describe_onnx, file_lines

    if flags.what.suffix.lower() == ".onnx":
        if flags.parameter is not None:
            raise UserError(
                f"{flags.what} is one file: it knows nothing of groups. Explain {flags.parameter!r} in its "
                "result folder."
            )
        found: dict[str, Any] = {"files": [describe_onnx(flags.what)]}
        lines = file_lines(found["files"][0])
    elif flags.parameter is None:
        found = describe_folder(flags.what)
        lines = [line for file in found["files"] for line in file_lines(file)]
    else:
        from channelcut.report.explain import explain, sentences
        from channelcut.report.reader import read_report

        found = explain(read_report(flags.what), flags.parameter)
        lines = sentences(found)
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        for line in lines:
            console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if any(file.get("plan_matches") is False for file in found.get("files", ())) else 0
