"""How a command becomes a parser, and how texts become values. What does not parse is an error of one paragraph."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from channelcut.core.errors import UserError
from channelcut.core.specs import InputSpec

# Compute capabilities of cards, by their names without spaces (developer.nvidia.com/cuda-gpus).
CARDS = {
    "t4": "sm75", "rtx2060": "sm75", "rtx2070": "sm75", "rtx2080": "sm75", "a100": "sm80", "a30": "sm80",
    "rtx3050": "sm86", "rtx3060": "sm86", "rtx3070": "sm86", "rtx3080": "sm86", "rtx3090": "sm86", "a10": "sm86",
    "rtxa2000": "sm86", "rtxa4000": "sm86", "rtxa5000": "sm86", "rtxa6000": "sm86", "a40": "sm86", "orin": "sm87",
    "rtx4050": "sm89", "rtx4060": "sm89", "rtx4070": "sm89", "rtx4080": "sm89", "rtx4090": "sm89", "l4": "sm89",
    "l40": "sm89", "l40s": "sm89", "rtx6000ada": "sm89", "h100": "sm90", "h200": "sm90", "b200": "sm100",
    "rtx5050": "sm120", "rtx5060": "sm120", "rtx5070": "sm120", "rtx5080": "sm120", "rtx5090": "sm120",
}  # fmt: skip

_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


class Command(Protocol):
    """What a module of this package offers."""

    @property
    def NAME(self) -> str:  # noqa: N802  a constant of the module
        """The word after `channelcut`."""

    @property
    def HELP(self) -> str:  # noqa: N802
        """What the command is for, in a line."""

    @property
    def EXAMPLES(self) -> tuple[tuple[str, str], ...]:  # noqa: N802
        """What is wanted, and the command line that does it; shown by `--help`."""

    @property
    def add_flags(self) -> Callable[[argparse.ArgumentParser], None]:
        """Declares the command's flags."""

    @property
    def run(self) -> Callable[[argparse.Namespace], int]:
        """Runs the command; returns the exit status."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is a `UserError`, printed like every other one, instead of usage and an exit."""

    def __init__(self, **options: Any) -> None:
        # Abbreviated flags would change their meaning, or stop working, with the next flag that begins like them.
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but a flag that is not known is an error of the command that it was given to."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._option_string_actions, 1)
            self.error(f"{' '.join(unknown)} is not known here{f'; did you mean {near[0]}?' if near else ''}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        said = self._nearest(message.removeprefix("argument "))
        end = "" if said.endswith(("?", ".")) else "."
        raise UserError(f"{said}{end} `{self.prog} --help` lists the flags and shows examples.")

    def _nearest(self, said: str) -> str:
        """What argparse says of a choice that is none, in one way for all versions of Python, with the nearest one."""
        wrong = re.match(r"(.*): invalid choice: '(.*)' \(choose from (.*)\)", said)
        if wrong is None:
            return said
        known = [name.strip(" '") for name in wrong[3].split(",")]
        near = difflib.get_close_matches(wrong[2], known, 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{wrong[1]}: invalid choice: {wrong[2]!r} is none of {', '.join(known)}.{hint}"


def add_command(commands: Any, command: Command) -> None:
    """Add a command's parser to the subparsers `commands`."""
    examples = "\n".join(f"  {text}\n    {line}" for text, line in command.EXAMPLES)
    parser = commands.add_parser(
        command.NAME,
        help=command.HELP,
        description=textwrap.fill(command.HELP, 100),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_flags(parser)
    shown = parser.add_argument_group("what is printed")
    shown.add_argument(
        "--json", action="store_true", help="print the result as JSON on standard output, and nothing else there"
    )
    shown.add_argument("--quiet", action="store_true", help="no progress bars and no tables")
    parser.set_defaults(run=command.run)


def input_spec(text: str) -> InputSpec:
    """`mask=1x1x320x320:uint8` as a name, a shape and a type."""
    try:
        return InputSpec.parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def size(text: str) -> tuple[int, int]:
    """`640x480` as (640, 480): height and width."""
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no height and width such as 640x480") from None
    return height, width


def share(text: str) -> float:
    """A number above 0 and at most 1, or `50%`."""
    found = _percent(text)
    try:
        found = float(text) if found is None else found
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share. Expected a number above 0 and at most 1, such as 0.5 or 50%"
        )
    return found


def _percent(text: str) -> float | None:
    """`50%` as 0.5; None for what is no percentage."""
    if not text.endswith("%"):
        return None
    try:
        found = float(text[:-1]) / 100
    except ValueError:
        return 0.0
    return found if 0 < found <= 1 else 0.0


def amount(text: str) -> float:
    """A share (at most 1, or `50%`), or a number such as 1.5e9, 1.5G, 800M or 250k."""
    if (found := _percent(text)) is not None and found:
        return found
    digits, factor = (text[:-1], _SUFFIXES[text[-1].lower()]) if text[-1:].lower() in _SUFFIXES else (text, 1.0)
    try:
        found = float(digits) * factor
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no budget. Expected a share above 0 and at most 1, such as 0.5 or 50%, or what may remain "
            "as a number, such as 1.5e9, 1.5G or 800M"
        )
    return found


def keep(text: str) -> tuple[str | None, float]:
    """`SHARE` as (None, share), `PATTERN=SHARE` as (pattern, share)."""
    pattern, equals, number = text.rpartition("=")
    if equals and not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} has no pattern before =. Expected such as 'backbone.*=0.8' or 0.5")
    return pattern or None, share(number)


def positive(text: str) -> int:
    """An integer of at least 1."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of that kind. Expected an integer of at least 1")
    return found


def whole(text: str) -> int:
    """An integer of at least 0."""
    return 0 if text == "0" else positive(text)


def augmentation(text: str) -> tuple[str, ...]:
    """`flip,scale` as a tuple, `none` as an empty one."""
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    """`0.3:0.9:7` as seven shares from 0.3 to 0.9, the largest first; or some joined by commas."""
    if text.count(":") != 2:
        return tuple(sorted((share(part) for part in text.split(",")), reverse=True))
    low, high, number = text.split(":")
    first, last, count = share(low), share(high), positive(number)
    step = (last - first) / max(1, count - 1)
    return tuple(round(last - step * place, 6) for place in range(count))


def alignment(text: str) -> int | str:
    """A multiple of widths, or `auto`."""
    return text if text == "auto" else positive(text)


def milliseconds(text: str) -> float:
    """A time above 0, such as `4.5` or `4.5ms`."""
    return _time(text, "ms", "milliseconds above 0, such as 4.5")


def seconds(text: str) -> float:
    """A time above 0, such as `30` or `30s`."""
    return _time(text, "s", "seconds above 0, such as 30")


def _time(text: str, unit: str, expected: str) -> float:
    try:
        found = float(text.removesuffix(unit))
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time. Expected {expected}")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406` as a tuple."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers. Expected one or three, joined by commas, such as 0.485,0.456,0.406"
        ) from None


def capability(text: str) -> str:
    """`sm89`, `sm_89`, `8.9`, `89` or `rtx4090` as `sm89`; several joined by commas."""
    return ",".join(_capability(part) for part in names(text))


def capabilities(text: str) -> tuple[str, ...]:
    """The same as a tuple."""
    return tuple(_capability(part) for part in names(text))


def _capability(text: str) -> str:
    plain = re.sub(r"[\s_.-]|nvidia|geforce", "", text.lower())
    number = re.fullmatch(r"(?:sm|cc|compute)?(\d{2,3})a?", plain)
    card = CARDS.get(plain.removesuffix("super").removesuffix("ti").removesuffix("laptop"))
    if number is None and card is None:
        near = difflib.get_close_matches(plain, CARDS, 1, 0.75)
        hint = f" Did you mean {near[0]} ({CARDS[near[0]]})?" if near else ""
        raise argparse.ArgumentTypeError(
            f"{text!r} is no compute capability.{hint} Expected such as sm89, 8.9, or a card such as rtx4090; several "
            "joined by commas"
        )
    return f"sm{number[1]}" if number is not None else str(card)


def choice(*known: str) -> Callable[[str], str]:
    """One of some names, however it is written: TensorRT-RTX is tensorrt_rtx."""

    def read(text: str) -> str:
        plain = re.sub(r"[\s-]+", "_", text.strip().lower())
        if plain in known:
            return plain
        near = difflib.get_close_matches(plain, known, 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}.{hint}")

    return read


def switch(text: str) -> bool | None:
    """`true`, `false` or `none`."""
    found = {"true": True, "1": True, "false": False, "0": False, "none": None}
    if text.lower() not in found:
        raise argparse.ArgumentTypeError(f"{text!r} is neither none, true nor false")
    return found[text.lower()]


def names(text: str) -> tuple[str, ...]:
    """`sm86,sm89` as a tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def blocks(text: str) -> str | tuple[str, ...]:
    """`auto`, or some modules."""
    return text if text == "auto" else names(text)


def stem(model: str) -> str:
    """A model's name for files: `resnet50` of `torchvision:resnet50`, `det` of `nets/det.py:build`."""
    origin, _, rest = model.rpartition(":")
    path = Path(origin if origin.endswith(".py") else rest if origin else model)
    return path.stem or path.resolve().name


def refuse_existing(path: Path, force: bool, flag: str = "--out") -> None:
    """Raise `UserError` when `path` exists and `force` is not set."""
    if path.exists() and not force:
        raise UserError(f"{path} exists. Nothing was changed: give another {flag}, or --force to replace it.")
