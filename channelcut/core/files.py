"""Files and folders that appear whole or not at all: each is a temporary neighbour first, which a killed run leaves.

Whoever writes to a temporary holds a lock on it, which the system frees when its process ends, on whatever machine. The
next run that writes the same path removes those that nobody holds. Where there are no such locks all of them stay.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from channelcut.core.errors import UserError

_PART = ".part"
_LOCK = ".lock"  # in a temporary folder


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
        remove_leftovers(path)
        temporary, handle, lock = _held_file(path)
    except OSError as problem:
        raise UserError(
            f"Cannot write {path.name!r}: its folder cannot be made or written to ({problem.strerror}). "
            "Expected a path whose folder you may write to."
        ) from problem
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
        _close(lock)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, to be made into it by `put`; it vanishes at the end where that was not done.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    folder, lock = _held_folder(path)
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(lock)


def put(folder: Path, path: Path) -> None:
    """Let a `temporary_folder` take the place of `path`.

    Raises:
        OSError: it cannot.
    """
    if path.exists():
        shutil.rmtree(path)
    (folder / _LOCK).unlink(missing_ok=True)
    folder.rename(path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders that killed runs have left beside `path`."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(_PART)}")
    try:
        found = [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]
    except OSError:  # a folder that may be written to and not listed
        return
    for each in found:
        with suppress(OSError):  # it has gone, or is another user's
            lock = os.open(each / _LOCK if each.is_dir() else each, os.O_RDWR)
            try:
                if _taken(lock, wait=False):
                    shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)
            finally:
                os.close(lock)


def _held_file(path: Path) -> tuple[Path, int, int | None]:
    """A temporary file beside `path`, its handle, and one that holds the lock until it is closed."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
        if sys.platform == "win32":  # an open file cannot be renamed there
            return Path(name), handle, None
        lock = os.dup(handle)
        if _is_ours(Path(name), lock):
            return Path(name), handle, lock
        os.close(handle)
        os.close(lock)


def _held_folder(path: Path) -> tuple[Path, int | None]:
    """A temporary folder beside `path`, and the handle that holds its lock until it is closed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent))
        if sys.platform == "win32":
            return folder, None
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            folder.rmdir()
            raise
        if _is_ours(folder / _LOCK, lock):
            return folder, lock
        os.close(lock)


def _is_ours(path: Path, lock: int) -> bool:
    """Lock a new file; False: another run saw it without its lock, and has removed it."""
    _taken(lock, wait=True)
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _taken(lock: int, *, wait: bool) -> bool:
    """Take the lock of an open file; False: somebody holds it, or there are no locks here."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
