"""JSON that is read back: a checksum of what it says, and the type of every part, before anything is made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.words import kind_of

CHECKSUM = "checksum"


def checksum(data: Mapping[str, Any]) -> str:
    """The start of the SHA-256 of what JSON data says, its own checksum aside; of its meaning, not of its layout."""
    said = {key: value for key, value in data.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write data and its checksum as JSON, whole or not at all; what JSON does not know is written as text."""
    plain = json.loads(json.dumps(data, default=str))
    write_atomically(path, (json.dumps({**plain, CHECKSUM: checksum(plain)}, indent=1) + "\n").encode())


def read_json(path: Path, missing: str, remedy: str) -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
        path: the file.
        missing: what to say where there is none.
        remedy: what to do about a file that is damaged.

    Raises:
        UserError: the file is missing, cannot be read, or is not what was written.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get(CHECKSUM) != checksum(data):
            raise ValueError("its checksum does not fit what it holds")
    except FileNotFoundError as error:
        raise UserError(missing) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}). {remedy}") from error
    return {key: value for key, value in data.items() if key != CHECKSUM}


class Wrong(Exception):
    """A part of data is not what it has to be; the text says which, and what was expected."""


def expect(value: Any, kind: type | tuple[type, ...], place: str, words: str) -> Any:
    """The value, where it is of this kind; True and False are no numbers.

    Raises:
        Wrong: it is not.
    """
    if not isinstance(value, kind) or (
        isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else [kind])
    ):
        raise Wrong(f"{place} is {_short(value)}, expected {words}")
    return value


def field(data: Mapping[str, Any], name: str, kind: type | tuple[type, ...], words: str, place: str = "") -> Any:
    """The value under a name."""
    where = f"{place}.{name}" if place else name
    if name not in data:
        raise Wrong(f"{where} is missing, expected {words}")
    return expect(data[name], kind, where, words)


def count(data: Mapping[str, Any], name: str, place: str = "", least: int = 0) -> int:
    """The whole number under a name."""
    value: int = field(data, name, int, "a whole number", place)
    if value < least:
        where = f"{place}.{name}" if place else name
        raise Wrong(f"{where} is {_short(value)}, expected at least {least}")
    return value


def entries(data: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    """The keys and values of an object, each with its place."""
    for key, value in expect(data, Mapping, place, "an object").items():
        yield expect(key, str, f"a name in {place}", "text"), value, f"{place}[{key!r}]"


def items(data: Any, place: str) -> Iterator[tuple[Any, str]]:
    """The elements of a list, each with its place."""
    for index, value in enumerate(expect(data, (list, tuple), place, "a list")):
        yield value, f"{place}[{index}]"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else kind_of(value)
