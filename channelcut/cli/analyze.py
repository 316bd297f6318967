"""`channelcut analyze`: which channels can go, before anything is cut."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from channelcut.cli import flags as groups
from channelcut.cli.parsing import refuse_existing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NAME = "analyze"
HELP = "Which channels can go, which cannot, and why."
EXAMPLES = (
    (
        "what could go at most, what is pinned where, and what would free it",
        "channelcut analyze ultralytics:yolo26n.yaml",
    ),
    (
        "a network of your own, with a picture of its coupled layers",
        "channelcut analyze nets.py:build --input 1x3x224x224 --svg graph.svg",
    ),
    (
        "the same when the head stays as it is",
        "channelcut analyze nets.py:build --input 1x3x224x224 --exclude 'head.*'",
    ),
)
_FIGURES = 54  # columns that the figures of a group take beside its name
_SHOWN, _PLACES = 10, 3  # groups and followers; places and remedies of a reason


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_model(parser)
    groups.add_coupling(parser)
    groups.add_floors(parser.add_argument_group("how far a cut may go"))
    output = parser.add_argument_group("output")
    output.add_argument("--svg", type=Path, metavar="FILE", help="write the picture of the coupled graph")
    output.add_argument("--force", action="store_true", help="replace an existing --svg file")


def run(flags: Namespace) -> int:
    """Analyze and print; returns 0."""
    from channelcut.allocation import excluded
    from channelcut.api import analyze
    from channelcut.cli.console import Bars, print_json
    from channelcut.core.files import write_atomically
    from channelcut.report.analysis import analysis_data
    from channelcut.report.graph_svg import draw_graph
    from channelcut.report.reader import Part

    if flags.svg is not None:
        refuse_existing(flags.svg, flags.force, "--svg")
    floors = groups.read_floors(flags)
    source = groups.read_model(flags)
    with Bars(quiet=flags.quiet or flags.json) as progress:
        with progress.within("load"):
            model, x = source.open()
        with progress.within("analyze"):
            found = analyze(model, x, **groups.read_coupling(flags))
            found = excluded(model, found, flags.exclude)
    data = {"weights": source.weights, **analysis_data(model, found, floors)}
    if flags.svg is not None:
        write_atomically(flags.svg, draw_graph(Part(data["graph"], "graph"), standalone=True).encode())
    if flags.json:
        print_json(data)
    elif not flags.quiet:
        print_analysis(data)
    return 0


def print_analysis(data: Mapping[str, Any]) -> None:
    """What can go at most, the ten groups that most parameters hang on, the pins by reason, the widths that follow."""
    from rich.text import Text

    from channelcut.cli.console import console
    from channelcut.report.numbers import count, plural, scaled

    out = console()
    total = data["totals"]
    out.print(trace_line(data["trace"]), markup=False, soft_wrap=True)
    if data["trace"]["unused"]:
        out.print(unused_line(data["trace"]["unused"]), markup=False, soft_wrap=True)
    if data["trace"]["uncounted"]:
        out.print(f"O{data['trace']['uncounted'][1:]}.", markup=False, soft_wrap=True)
    floors = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in total["floors"].items())
    out.print(
        f"{plural(len(data['groups']), 'group')} with {plural(total['removable_channels'], 'removable channel')}. "
        f"With every group at its least width ({floors}), {1 - total['least_macs']:.1%} of {scaled(total['macs'])} "
        f"MACs and {1 - total['least_params']:.1%} of {count(total['params'])} parameters can go at most.\n",
        soft_wrap=True,
    )
    if data["groups"]:
        out.print(_largest(data, out.width))
    for row in data["reasons"]:
        _print_reason(out, row, [data["pins"][i] for i in row["pins"]])
    if data["followers"]:
        out.print(Text("Widths that follow", style="bold"))
        for found in data["followers"][:_SHOWN]:
            out.print(f"  {follower_line(found)}", markup=False, soft_wrap=True)
        if len(data["followers"]) > _SHOWN:
            out.print(f"  and {len(data['followers']) - _SHOWN} more")


def _largest(data: Mapping[str, Any], width: int) -> Table:
    """The groups that most parameters hang on; what hangs on two groups is counted at both."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from channelcut.cli.console import at_dots
    from channelcut.report.numbers import scaled

    total = data["totals"]
    table = Table(
        title="Largest groups, by the parameters that hang on them",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("group", "lanes", "width", "slots", "parameters", "MACs"):
        table.add_column(column, justify="left" if column == "group" else "right", no_wrap=True)
    ordered = sorted(data["groups"], key=lambda group: -group["params"])
    for group in ordered[:_SHOWN]:
        costs = [
            f"{scaled(group[name])} {f'{group[name] / total[name]:.1%}' if total[name] else '':>6}"
            for name in ("params", "macs")
        ]
        table.add_row(
            Text(at_dots(group["name"], max(20, width - _FIGURES))),
            str(group["lanes"]),
            str(group["width"]),
            str(group["slots"]),
            *costs,
        )
    if len(ordered) > _SHOWN:
        table.caption = f"and {len(ordered) - _SHOWN} smaller groups"
        table.caption_justify = "left"
    return table


def _print_reason(out: Console, row: Mapping[str, Any], pins: Sequence[Mapping[str, Any]]) -> None:
    """One reason with its channels, three of its places, and what would free them."""
    from rich.text import Text

    from channelcut.report.numbers import plural

    held = f"{plural(row['channels'], 'channel')} at {plural(len(pins), 'place')}"
    out.print(Text.assemble(("Pinned: ", "bold"), (row["reason"], "bold"), f", {held}"), soft_wrap=True)
    for pin in pins[:_PLACES]:
        where = f" ({pin['source']})" if pin["source"] else ""
        line = f"  {pin['op']} in {pin['module'] or 'the model'}{where}, {plural(pin['channels'], 'channel')}"
        out.print(line, markup=False, soft_wrap=True)
    if len(pins) > _PLACES:
        out.print(f"  and {plural(len(pins) - _PLACES, 'more place', 'more places')}")
    for remedy in row["remedies"][:_PLACES]:
        out.print(f"  remedy: {remedy}", markup=False, soft_wrap=True)
    if len(row["remedies"]) > _PLACES:
        out.print(f"  and {plural(len(row['remedies']) - _PLACES, 'more remedy', 'more remedies')}: see --json")
    out.print()


def follower_line(found: Mapping[str, Any]) -> str:
    """Read as `model.2.c = 32 · kept share of model.2.cv1.conv.weight`."""
    terms = [f"{term['coefficient']:g} · kept share of {term['name']}" for term in found["terms"]]
    constant = [f"{found['constant']:g}"] if found["constant"] or not terms else []
    return f"{'.'.join(filter(None, (found['module'], found['attribute'])))} = {' + '.join([*constant, *terms])}"


def trace_line(trace: Mapping[str, Any]) -> str:
    """Which tracer was used, how many ops it saw, and what training adds."""
    how = {"dispatch": "recording the ops of one run", "export": "torch.export"}.get(trace["tracer"], "")
    only: Sequence[str] = trace["training_only"]
    more = f", {only[0]} the first" if len(only) > 1 else ""
    added = (
        f"Training adds branches: {len(only)} tensors with channels are read in training mode alone{more}."
        if only
        else "No branch of training mode alone was seen."
    )
    entries = f" of {', '.join(['forward', *trace['entries']])}" if trace["entries"] else ""
    return f"Traced by {how or trace['tracer']}: {trace['ops']} ops{entries}. {added}"


def unused_line(unused: Sequence[str]) -> str:
    """Where the parameters are that nothing reads, and what to do about them."""
    from channelcut.core.unused import unused_words
    from channelcut.report.numbers import plural

    return (
        f"Never read by the forward: {plural(len(unused), 'parameter')} in {unused_words(unused)}. They are cut where "
        "--entry names a method that reads them, and go as wholes with --drop-unused of compress."
    )
