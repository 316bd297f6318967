"""`channelcut report`: the report of a result again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from channelcut.cli import flags as groups

NAME = "report"
HELP = "Print a result's report and write its report.html again."
EXAMPLES = (
    ("the tables, and the page with what `verify` and `profile` have added since", "channelcut report out"),
    ("the numbers for a script", "channelcut report out --json"),
)


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the command."""
    groups.add_result(parser)


def run(flags: Namespace) -> int:
    """Write report.html and print; returns 0."""
    from channelcut.cli.console import console, print_json
    from channelcut.core.files import write_atomically
    from channelcut.report import print_report, render_html
    from channelcut.report.reader import read_report

    data = read_report(flags.folder)
    write_atomically(flags.folder / "report.html", render_html(data).encode())
    if flags.json:
        print_json(data)
    elif not flags.quiet:
        print_report(data, console())
        console().print(f"Report: {flags.folder / 'report.html'}", soft_wrap=True)
    return 0
