"""The flags of budgets, and of what a budget of time is planned by."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from channelcut.cli import parsing
from channelcut.latency.clocks import CLOCKS


def add_budgets(group: Any) -> None:
    """How much is kept."""
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--latency",
        type=parsing.share,
        metavar="SHARE",
        help="share of the time to keep, as measured here at the batch and size of --input: layers are timed first, "
        "and cuts until one meets it",
    )
    budget.add_argument(
        "--latency-ms", type=parsing.milliseconds, metavar="MS", help="the same in milliseconds, such as 4.5"
    )
    budget.add_argument(
        "--macs",
        type=parsing.amount,
        metavar="SHARE|N",
        help="multiply-accumulates to keep: a share such as 0.5, or a number such as 1.5e9 or 1.5G",
    )
    budget.add_argument(
        "--params", type=parsing.amount, metavar="SHARE|N", help="parameters to keep: a share, or a number such as 2M"
    )
    group.add_argument(
        "--keep",
        type=parsing.keep,
        action="append",
        default=[],
        metavar="[PATTERN=]SHARE",
        help="share of every group's channels to keep, or with PATTERN= of the modules or parameters so called; beside "
        "--macs or --params the least share that PATTERN keeps; may be repeated, and where patterns overlap the last "
        "wins",
    )
    add_table(group)
    add_time_on(group)
    add_target(group)


def add_table(group: Any) -> None:
    """Where times are kept."""
    group.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="where the times of layers are kept, of a budget of time (default: see channelcut measure)",
    )


def add_time_on(group: Any) -> None:
    """What runs the network."""
    group.add_argument(
        "--time-on",
        type=parsing.choice(*CLOCKS),
        default="onnxruntime",
        metavar="NAME",
        help=f"what runs the network, of a budget of time: layers, cuts and the final files are timed on it; one of "
        f"{', '.join(CLOCKS)} (default %(default)s)",
    )


def add_target(group: Any) -> None:
    """The device that the network will run on."""
    group.add_argument(
        "--target",
        default="",
        metavar="DEVICE[:PRECISION]",
        help="plan for a device that is not here, such as orin-nano or a100:int8 (default fp16): widths are multiples "
        "of its tile, and --latency is planned by its roofline, not measured",
    )


def read_target(flags: Namespace) -> tuple[str, str]:
    """The name of the device, and the precision."""
    name, _, precision = flags.target.partition(":")
    return name, precision or "fp16"
