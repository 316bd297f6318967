"""`channelcut verify`: every file of a result compared with the form before it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from channelcut.cli import flags as groups
from channelcut.cli.parsing import positive

NAME = "verify"
HELP = "Compare every file of a result with the form before it, from torch to the engine."
EXAMPLES = (
    ("on random inputs that look like images", "channelcut verify out"),
    ("on real images, as the network takes them", "channelcut verify out --data images/ --fit letterbox --images 16"),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_result(parser)
    parser.add_argument("--images", type=positive, default=8, metavar="N", help="how many inputs (default 8)")
    parser.add_argument(
        "--score", type=float, default=0.25, metavar="X", help="boxes of at least this score are matched (default 0.25)"
    )
    parser.add_argument("--trust", action="store_true", help=groups.TRUST)
    groups.add_images(
        parser,
        "folder of images, or of Ultralytics' models a data.yaml; without it the data.yaml that compress was given, or "
        "else random image-like inputs",
    )


def run(flags: Namespace) -> int:
    """Compare, write parity.json, print; returns 0, or 1 where a file breaks."""
    from channelcut.cli.console import Bars, print_json, printing_to_stderr
    from channelcut.verify import VerifyOptions, verify

    options = VerifyOptions(flags.data, flags.images, groups.read_images(flags), flags.score, flags.trust)
    with Bars(quiet=flags.quiet or flags.json) as progress, printing_to_stderr():
        found = verify(flags.folder, options, lambda done, total: progress("verify", done, total))
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        print_parity(found)
    return 1 if found["first_broken"] else 0


def print_parity(found: Mapping[str, Any]) -> None:
    """The table, and the first stage that breaks."""
    from rich import box
    from rich.table import Table

    from channelcut.cli.console import console

    out = console()
    table = Table(title=f"Parity on {found['inputs']}", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("stage", "against", "max", "relative", "cosine", "boxes", "judged by", ""):
        table.add_column(column, no_wrap=column not in ("stage", "judged by"), overflow="fold")
    for row in found["stages"]:
        if row["status"] == "not run":  # said below, with its reason
            continue
        for label, key in ((row["compared_with"], "step"), ("torch", "reference")):
            if key == "reference" and row["compared_with"] == "torch":
                continue
            d = row[key]
            boxes = "–" if d["boxes"] is None else f"{d['boxes']:.1%}"
            cells = (f"{d['max_abs']:.1e}", f"{d['max_relative']:.1e}", f"{d['cosine']:.6f}")
            table.add_row(row["stage"], label, *cells, boxes, row["verdict"], row["status"])
    out.print(table)
    for row in found["stages"]:
        if row["status"] == "not run":
            out.print(f"{row['stage']} was not run here: {row['reason']}", markup=False, soft_wrap=True)
    for row in found["stages"]:
        for text in row.get("rounding", ()):
            out.print(f"rounding is large against {row['stage']}: {text}", markup=False, soft_wrap=True)
    broken = next((row for row in found["stages"] if row["stage"] == found["first_broken"]), None)
    if broken:
        out.print(f"First stage that breaks: {broken['stage']} ({broken['reason']}).", soft_wrap=True)
