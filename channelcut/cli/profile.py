"""`channelcut profile`: where the time of a result's two ONNX files goes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from channelcut.cli import flags as groups
from channelcut.cli.flags import ALIGN, read_align
from channelcut.cli.parsing import alignment, choice, positive

NAME = "profile"
HELP = "Where the time goes: every layer before and after."
EXAMPLES = (
    ("with ONNX Runtime, which needs no GPU", "channelcut profile out --runs 50"),
    ("the layers of TensorRT engines for this machine's GPU", "channelcut profile out --backend tensorrt"),
)
_ROWS, _FIGURES = 25, 66  # layers; columns that the figures take beside a name
_INTENSITY = 5


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_result(parser)
    parser.add_argument("--runs", type=positive, default=30, metavar="N", help="runs of each file (default 30)")
    parser.add_argument(
        "--backend",
        type=choice("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"),
        default="onnxruntime",
        metavar="NAME",
        help="whose layers: onnxruntime, openvino, tensorrt or tensorrt_rtx (default onnxruntime); the TensorRTs build "
        "both files for this machine's GPU first",
    )
    parser.add_argument("--cuda", choices=("bindings", "pycuda"), help="CUDA package; by default whichever imports")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument(
        "--align",
        type=alignment,
        default="auto",
        metavar="N|auto",
        help=f"what widths should be a multiple of (default auto: {ALIGN})",
    )


def run(flags: Namespace) -> int:
    """Profile, write profile.json and report.html, print; returns 0."""
    from channelcut.bench.profile_engine import BACKENDS, profile_engines
    from channelcut.cli.console import Bars, print_json
    from channelcut.compress import ORIGINAL, PRUNED
    from channelcut.core.checked import write_json
    from channelcut.core.files import write_atomically
    from channelcut.engine.protocol import EngineOptions
    from channelcut.latency.clocks import profile_on
    from channelcut.report import render_html
    from channelcut.report.reader import read_report

    read_report(flags.folder)  # a folder that is no result is said before anything is timed
    with Bars(quiet=flags.quiet or flags.json) as progress, progress.within("profile"):
        files = flags.folder / ORIGINAL, flags.folder / PRUNED
        multiple = read_align(flags)
        if flags.backend in BACKENDS:
            options = EngineOptions(cuda=flags.cuda)
            found = profile_engines(*files, flags.backend, options, runs=flags.runs, multiple=multiple)
        else:
            found = profile_on(flags.backend, *files, runs=flags.runs, threads=flags.threads, multiple=multiple)
    write_json(flags.folder / "profile.json", found)
    write_atomically(flags.folder / "report.html", render_html(read_report(flags.folder)).encode())
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        print_profile(found)
    return 0


def print_profile(found: Mapping[str, Any]) -> None:
    """The layers that take most of the time."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from channelcut.cli.console import at_dots, console
    from channelcut.report.deployment import profile_rows

    heads, rows = profile_rows(found)
    table = Table(
        title="Where the time goes", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for position, head in enumerate(heads):
        if position != _INTENSITY:
            table.add_column(head, overflow="fold", no_wrap=True)
    out = console()
    for name, *cells in rows[:_ROWS]:
        del cells[_INTENSITY - 1]  # the page has it
        table.add_row(Text(at_dots(name, max(16, out.width - _FIGURES))), *cells)
    out.print(table)
