"""`channelcut env`: what this machine can build and run with. The docker images' health command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

NAME = "env"
HELP = "What this machine can build and run with: devices, drivers, versions. Always JSON."
EXAMPLES = (("processor, GPU, driver, versions, and which backends import", "channelcut env"),)


def add_flags(parser: ArgumentParser) -> None:
    """The command has no flags of its own."""


def run(flags: Namespace) -> int:
    """Print the facts; returns 0."""
    from channelcut.bench.environment import machine
    from channelcut.cli.console import print_json

    del flags
    print_json(machine())
    return 0
