"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from channelcut.core.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it, so that no reader ever sees half a file.

    Raises:
        UserError: the folder cannot be made or written to, or the disk is full; `path` is then as it was.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` to write to; it takes the place of `path` when the block succeeds.

    Raises:
        UserError: as `write_atomically`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as problem:
        raise UserError(
            f"Cannot write {path.name!r}: its folder cannot be made or written to ({problem.strerror}). "
            "Expected a path whose folder you may write to."
        ) from problem
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as problem:
        raise UserError(
            f"Cannot write {path.name!r}: {problem.strerror}. Nothing half-written was left behind. Free some space "
            "or name another path, and run again."
        ) from problem
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
