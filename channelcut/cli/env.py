"""`channelcut env`: what this machine can build and run with. The docker images' health command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

NAME = "env"
HELP = "What this machine can build and run with: devices, drivers, versions."
EXAMPLES = (
    ("processor, GPU, driver, versions, and which backends import", "channelcut env"),
    ("the same for a script", "channelcut env --json"),
)


def add_flags(parser: ArgumentParser) -> None:
    """The command has no flags of its own."""


def run(flags: Namespace) -> int:
    """Print the facts; returns 0."""
    from channelcut.bench.environment import machine
    from channelcut.cli.console import console, print_json

    found = machine()
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        for name, text in lines(found):
            console().print(f"{name:<12}{text}", markup=False, soft_wrap=True)
    return 0


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts as pairs of a name and a text, without what is not known."""
    cores = f"{found.get('cores_usable') or found.get('cores')} of {found.get('cores')} cores"
    load = f", load {found['load_1min']:g}" if "load_1min" in found else ""
    governor = f", governor {found['governor']}" if "governor" in found else ""
    gpu = found.get("gpu_state") or found.get("gpu") or f"none: {found['gpu_problem']}"
    here = [name for name, there in found["backends"].items() if there]
    missing = [name for name, there in found["backends"].items() if not there]
    cuda = [name for name, there in found["cuda_packages"].items() if there]
    return [
        ("processor", f"{found['cpu']} ({cores}{governor}{load})"),
        ("GPU", f"{gpu}{f' ({name})' if (name := found.get('capability')) else ''}"),
        ("system", f"{found['system']} {found['release']}, {found['machine']}, Python {found['python']}"),
        ("backends", ", ".join(here) + (f"; not installed: {', '.join(missing)}" if missing else "")),
        ("CUDA", ", ".join(cuda) or "neither cuda-bindings nor pycuda is installed"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in found["libraries"].items())),
    ]
