"""What an input of a network is, as text: `1x3x640x640`, `mask=1x1x320x320:uint8`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from channelcut.core.errors import UserError

_ALIASES = {"half": "float16", "float": "float32", "double": "float64", "int": "int32", "long": "int64"}
DTYPES = (
    "float32", "float16", "bfloat16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool",
)  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """One input: its extents, its type by torch's name, and the keyword that it is passed by (empty: by position)."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str = ""

    def __str__(self) -> str:
        named = f"{self.name}=" if self.name else ""
        typed = "" if self.dtype == "float32" else f":{self.dtype}"
        return f"{named}{'x'.join(map(str, self.shape))}{typed}"

    @staticmethod
    def parse(text: str) -> InputSpec:
        """Read `[NAME=]EXTENTS[:DTYPE]`; raises `UserError` for anything else."""
        name, equals, rest = text.strip().rpartition("=")
        extents, colon, dtype = rest.partition(":")
        dtype = _ALIASES.get(dtype.lower(), dtype.lower()) if colon else "float32"
        try:
            shape = tuple(int(part) for part in extents.lower().split("x"))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1 or (equals and not name):
            raise UserError(
                f"{text!r} is no shape. Expected extents joined by x, batch first, such as 1x3x640x640; where it needs "
                "them with a name and a type, as in mask=1x1x320x320:uint8."
            )
        if dtype not in DTYPES:
            raise UserError(f"{text!r}: there is no type {dtype!r}. Expected one of {', '.join(DTYPES)}.")
        return InputSpec(shape, dtype, name)


def read_specs(text: str) -> tuple[InputSpec, ...]:
    """What `write_specs` wrote."""
    return tuple(InputSpec.parse(part) for part in text.split(","))


def write_specs(specs: Iterable[InputSpec]) -> str:
    """Several inputs in one text."""
    return ", ".join(map(str, specs))
