"""`channelcut profile DIR`: where the time of a result's two ONNX files goes."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from channelcut.core.errors import UserError


def add_flags(command: ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("folder", type=Path, help="a result folder of compress")
    command.add_argument("--runs", type=int, default=30, help="of each file (default 30)")
    command.add_argument(
        "--backend",
        choices=("onnxruntime", "tensorrt", "tensorrt-rtx"),
        default="onnxruntime",
        help="whose layers; the TensorRTs build both files for this machine's GPU first",
    )
    command.add_argument("--cuda", choices=("bindings", "pycuda"), help="CUDA package; by default whichever imports")
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--multiple", type=int, default=8, help="what widths should be a multiple of (default 8)")


def run(flags: Namespace) -> int:
    """Profile, write profile.json and report.html, print; returns 0."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from channelcut.bench.profile import profile_pair
    from channelcut.bench.profile_engine import profile_engines
    from channelcut.commands import read_report
    from channelcut.compress import ORIGINAL, PRUNED
    from channelcut.console import Bars, console, print_json
    from channelcut.core.files import write_atomically
    from channelcut.engine.protocol import EngineOptions
    from channelcut.report import render_html
    from channelcut.report.deployment import profile_rows

    if min(flags.runs, flags.threads, flags.multiple) < 1:
        raise UserError("--runs, --threads and --multiple must be at least 1.")
    read_report(flags.folder)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        progress("profile", 0, 1)
        files = flags.folder / ORIGINAL, flags.folder / PRUNED
        if flags.backend == "onnxruntime":
            found = profile_pair(*files, runs=flags.runs, threads=flags.threads, multiple=flags.multiple)
        else:
            options = EngineOptions(cuda=flags.cuda)
            found = profile_engines(*files, flags.backend, options, runs=flags.runs, multiple=flags.multiple)
        progress("profile", 1, 1)
    write_atomically(flags.folder / "profile.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(flags.folder / "report.html", render_html(read_report(flags.folder)).encode())
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        heads, rows = profile_rows(found)
        table = Table(
            title="Where the time goes", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        for position, head in enumerate(heads):
            table.add_column(head, overflow="fold", min_width=0 if position else 14)
        for row in rows[:25]:
            table.add_row(*row)
        console().print(table)
    return 0
