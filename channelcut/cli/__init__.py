"""The command line: one file per command, which declares its flags, calls the library and prints.

`COMMANDS` lists them in the order of `channelcut --help`. Nothing here imports torch before a command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from channelcut import __version__
from channelcut.cli import (
    analyze,
    bench,
    build,
    compress,
    convert,
    env,
    explain,
    export,
    measure,
    profile,
    recover,
    report,
    sweep,
    verify,
)  # fmt: skip
from channelcut.cli.parsing import Command, Parser, add_command
from channelcut.core.errors import ChannelcutError, UserError

COMMANDS: tuple[Command, ...] = (
    analyze, compress, sweep, recover, export, convert, build, verify, bench, measure, profile, report, explain, env,
)  # fmt: skip

DONE, DOES_NOT_HOLD, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after `channelcut`; by default those of the process.

    Returns:
        The exit status: 0, 1 for a result that does not hold, 2 for an error of the user's, 130 for Ctrl-C.
    """
    flags = None
    try:
        flags = parser().parse_args(argv)
        return int(flags.run(flags))
    except UserError as error:
        print(f"channelcut: {error}", file=sys.stderr)
        return USER_ERROR
    except ChannelcutError as error:
        print(f"channelcut: {error}", file=sys.stderr)
        return DOES_NOT_HOLD
    except KeyboardInterrupt:
        trained = any(getattr(flags, name, 0) for name in ("recover", "sparsify", "epochs"))
        on = "; the same command goes on with what was trained" if trained else ""
        print(f"channelcut: interrupted; nothing half-written was left behind{on}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # such as `channelcut analyze MODEL | head`
        return DONE


def parser() -> Parser:
    """All commands and their flags."""
    top = Parser(prog="channelcut", description="Structured pruning for dense hardware, proven and measured.")
    top.add_argument("--version", action="version", version=f"channelcut {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        add_command(commands, command)
    return top
