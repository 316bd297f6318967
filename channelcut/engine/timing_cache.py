"""A timing cache on disk that concurrent builds share: locked, merged, replaced in one step."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically

_MARK = b"channelcut sha256"
_DIGEST = hashlib.sha256().digest_size


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; waits for another holder, and the system frees it when a process dies."""
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as problem:
        raise UserError(
            f"Cannot lock the timing cache {path.name!r}: {problem.strerror}. Expected a path whose folder you may "
            "write to."
        ) from problem
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_cache(path: Path) -> bytes:
    """Return the cache's content; empty when there is none. Needs no lock: the file is only ever replaced whole.

    Raises:
        UserError: the file cannot be read, is damaged, or was written by something else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as problem:
        raise UserError(f"Cannot read the cache {str(path)!r}: {problem.strerror}.") from problem
    known, end = data[: -len(_MARK) - _DIGEST], data[-len(_MARK) - _DIGEST :]
    if end != _MARK + hashlib.sha256(known).digest():
        raise UserError(
            f"The cache {str(path)!r} is damaged, or was not written by channelcut: its checksum does not fit. Delete "
            "it, and the next run makes it anew."
        )
    return known


def write_cache(path: Path, known: bytes) -> None:
    """Write a cache's content, and its checksum at the end, whole or not at all."""
    write_atomically(path, known + _MARK + hashlib.sha256(known).digest())


def merge_into(path: Path, config: Any, cache: Any) -> None:
    """Write `cache` and what other builds have added to the file since this one read it.

    A file of another version or device does not combine and is replaced. `config` makes caches from bytes
    (`create_timing_cache`), `cache` combines and serialises, as TensorRT's do.
    """
    with locked(path):
        known = read_cache(path)
        if known:
            cache.combine(config.create_timing_cache(known), False)
        write_cache(path, bytes(memoryview(cache.serialize())))
