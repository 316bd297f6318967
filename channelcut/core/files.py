"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from channelcut.core.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it, so that no reader ever sees half a file.

    Raises:
        UserError: the folder cannot be made or written to, or the disk is full; `path` is then as it was.
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
            file.write(data)
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
