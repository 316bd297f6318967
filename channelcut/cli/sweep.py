"""`channelcut sweep`: one network at several budgets of time, as a front of latency and accuracy."""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, Namespace
from pathlib import Path

from channelcut.cli import budget_flags, parsing, recovery_flags
from channelcut.cli import flags as groups

NAME = "sweep"
HELP = "Prune to several shares of the time, and put accuracy beside latency."
EXAMPLES = (
    (
        "seven networks from 0.3 to 0.9 of the time, evaluated on the val split, beside the next smaller one",
        "channelcut sweep yolo26s.pt --latency 0.3:0.9:7 --data data.yaml --beside ultralytics:yolo26n.pt --out front",
    ),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_model(parser)
    group = parser.add_argument_group("what is kept")
    group.add_argument(
        "--latency",
        dest="targets",
        type=parsing.shares,
        required=True,
        metavar="LOW:HIGH:N",
        help="shares of the time: 0.3:0.9:7 for seven from 0.3 to 0.9, or some joined by commas",
    )
    budget_flags.add_table(group)
    budget_flags.add_time_on(group)
    groups.add_choice(group)
    parser.set_defaults(keep=[], macs=None, params=None, latency_ms=None, target="", prove="whole")
    groups.add_coupling(parser)
    groups.add_deploy(parser)
    recovery_flags.add(parser)
    groups.add_images(
        parser,
        "folder of unlabelled images to choose channels by and to compensate; of Ultralytics' models also a data.yaml, "
        "on whose val split every point is evaluated; by default what batches() beside a factory gives",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL",
        help="a network to measure and evaluate as it is, such as the next smaller of the family; may be repeated",
    )
    output.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the sweep (default NAME-sweep); one that is there goes on"
    )
    output.add_argument(
        "--time-limit", type=parsing.seconds, default=30.0, metavar="S", help="seconds for each latency (default 30)"
    )
    groups.add_workers(parser.add_argument_group("several at once"), "make points in N processes at once")


def run(flags: Namespace) -> int:
    """Run the sweep and print its front; returns 0."""
    from channelcut.bench.measure import BenchOptions
    from channelcut.cli.console import Bars, console, print_json, printing_to_stderr
    from channelcut.options import CompressOptions
    from channelcut.report.front import front_notes, front_rows
    from channelcut.report.markup import printable
    from channelcut.report.terminal import listed
    from channelcut.sweep import SweepOptions, sweep

    flags.latency = flags.targets[0]
    prune = groups.read_prune(flags)
    source = groups.read_model(flags)
    beside = tuple(groups.find_model(name, flags.input, trust=flags.trust) for name in flags.beside)
    out = flags.out or Path(f"{parsing.stem(flags.model)}-sweep")
    options = CompressOptions(
        prune=prune,
        capabilities=(),
        bench=BenchOptions(time_limit_s=flags.time_limit, threads=flags.threads),
        **recovery_flags.read(flags),
        images=groups.read_images(flags),
        time_on=flags.time_on,
        table=flags.table,
    )
    with Bars(quiet=flags.quiet or flags.json) as progress, printing_to_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The budget .* is met already")
        asked = SweepOptions(options, flags.targets, beside, flags.workers or 0, flags.ray_address)
        found = sweep(source, out, asked, progress)
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        screen = console()
        screen.print(listed(*front_rows(found["points"]), screen))
        for name, why in front_notes(found["points"]):
            screen.print(f"{name}: {printable(why)}", markup=False, soft_wrap=True)
        screen.print(f"Front: {out / 'sweep.html'}", soft_wrap=True)
    return 0
