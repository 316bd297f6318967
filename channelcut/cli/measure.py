"""`channelcut measure`: the layers of a network, timed on this machine at the widths that a cut may leave."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.cli import flags as groups
from channelcut.cli.parsing import choice, positive, seconds, share
from channelcut.latency.clocks import CLOCKS

if TYPE_CHECKING:
    from channelcut.cost.measured import MeasuredCost

NAME = "measure"
HELP = "Time a network's layers at the widths that a cut may leave."
EXAMPLES = (
    ("what the layers of a detector take on this processor", "channelcut measure ultralytics:yolo26n.yaml"),
    (
        "four threads, batches of 8, into a file of your own",
        "channelcut measure nets.py:build --input 1x3x640x640 --threads 4 --batch 8 --table board.jsonl",
    ),
)
_ROWS = 12


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_model(parser)
    groups.add_deploy(parser)
    target = parser.add_argument_group("what is timed")
    target.add_argument(
        "--backend",
        type=choice(*CLOCKS),
        default="onnxruntime",
        metavar="NAME",
        help=f"what runs the layers: {', '.join(CLOCKS)} (default onnxruntime)",
    )
    target.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the layers, where the back end has it (default fp32)",
    )
    target.add_argument("--batch", type=positive, metavar="N", help="items a run computes (default as in --input)")
    target.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="where times are kept and looked up; by default a file of this device, back end, version, precision and "
        "threads in the user's cache directory, shared by all networks; several runs may share one",
    )
    timing = parser.add_argument_group("how it is timed")
    timing.add_argument(
        "--half-width",
        type=share,
        default=0.03,
        metavar="X",
        help="a layer is timed until its median is known to plus or minus this share (default 0.03)",
    )
    timing.add_argument(
        "--time-limit",
        type=seconds,
        metavar="S",
        help="seconds for all layers, looked at between lots of 48; what is missing then is said, and the same command "
        "goes on (default none)",
    )
    timing.add_argument(
        "--step",
        type=positive,
        metavar="N",
        help="time widths that are multiples of this (default what the target shows)",
    )
    groups.add_workers(timing, "time layers in N processes at once")


def run(flags: Namespace) -> int:
    """Measure and print; returns 0."""
    import math

    from channelcut.bench.layers.clock import MeasureOptions
    from channelcut.cli.console import Bars, print_json
    from channelcut.latency.api import measure

    limit_s = math.inf if flags.time_limit is None else flags.time_limit
    options = MeasureOptions(
        flags.half_width,
        limit_s=limit_s,
        step=flags.step,
        workers=flags.workers or 0,
        ray_address=flags.ray_address,
    )
    source = groups.read_model(flags)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        with progress.within("load"):
            model, x = source.open()
        found = measure(
            model,
            x,
            backend=flags.backend,
            threads=flags.threads,
            batch=flags.batch,
            precision=flags.precision,
            table=flags.table,
            deploy=groups.read_deploy(flags),
            options=options,
            progress=progress,
        )
    if flags.json:
        print_json(described(found))
    elif not flags.quiet:
        print_cost(found)
    return 0


def described(found: MeasuredCost) -> dict[str, Any]:
    """What was measured, as JSON values."""
    return {
        "target": vars(found.target),
        "table": str(found.table) if found.table else None,
        "inputs": [list(shape) for shape in found.shapes],
        "full_ms": found.full_ms,
        "half_width": found.half_width if found.layers else None,
        "lone_sum_ms": found.lone_ms,
        "scale": list(found.scale),
        "step": found.step if found.step_known else None,
        "layers": found.by_part(found.full_widths),
        "notes": list(found.notes),
    }


def print_cost(found: MeasuredCost) -> None:
    """The target, the step, and the parts that take most of the time."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from channelcut.cli.console import console

    out = console()
    sizes = ", ".join("x".join(map(str, shape)) for shape in found.shapes)
    known = f"layers known to ±{found.half_width:.1%}" if found.layers else "no layer is timed alone"
    pays = f"Widths pay in steps of {found.step}" if found.step_known else "In what steps widths pay is not known"
    out.print(f"{found.full_ms:.2f} ms uncut ({known}) at {sizes} with {found.target}", markup=False, soft_wrap=True)
    out.print(
        f"{pays}. {len(found.layers)} layers; timed alone they and the rest add up to "
        f"{found.lone_ms / found.full_ms:.2f} of the network's time. By it and a network of half its width layers "
        f"count {found.scale[0]:.2f} times, the rest {found.scale[1]:.2f}.",
        markup=False,
        soft_wrap=True,
    )
    parts = sorted(found.by_part(found.full_widths).items(), key=lambda part: -part[1])
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("where most of it goes")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for name, ms in parts[:_ROWS]:
        table.add_row(Text(name), f"{ms:.3f}", f"{ms / found.full_ms:.0%}")
    out.print(table)
    for note in found.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    if found.table:
        out.print(f"kept in {found.table}", markup=False, soft_wrap=True)
