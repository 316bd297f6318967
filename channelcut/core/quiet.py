"""Silence for libraries that talk while they work."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch.fx",
    "torch._subclasses.fake_tensor",
    "onnxscript",
    "onnx_ir",
    "onnxsim",
    "ONNXSLIM",
    "ultralytics",
)
_here = threading.local()  # `quiet`: this thread is in `quietly`
_lock = threading.Lock()
_inside = [0]  # how many threads are
_handlers: list[logging.Handler] = []  # those that do not listen to them meanwhile


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the exporters' prints, log lines and warnings from the user's terminal; errors still raise.

    Streams, log handlers and filters of warnings belong to the process, so what stands in their place until the end
    asks which thread talks: the others are heard as before.
    """
    if _quiet():
        yield
        return
    with _lock:
        _inside[0] += 1
        if _inside[0] == 1:
            _install()
    _here.quiet = True
    try:
        yield
    finally:
        _here.quiet = False
        with _lock:
            _inside[0] -= 1
            if not _inside[0]:
                _remove()


def _quiet() -> bool:
    return getattr(_here, "quiet", False)


class _Stream:
    """A stream that drops what a quiet thread writes, and is the real one in every other way."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def write(self, text: Any) -> Any:
        """Write, or do as if."""
        return len(text) if _quiet() else self.real.write(text)

    def writelines(self, lines: Any) -> None:
        """Write several, or do as if."""
        if not _quiet():
            self.real.writelines(lines)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Unheard(logging.Filter):
    """Lets pass what is critical, what other threads say, and what others than the exporters say."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        exporter = any(record.name == name or record.name.startswith(f"{name}.") for name in _LOGGERS)
        return not (_quiet() and exporter) or record.levelno >= logging.CRITICAL


class _AnyText:
    """Stands for the pattern of a filter of warnings: all texts match in a quiet thread, and none in another."""

    def match(self, text: str) -> bool:  # noqa: ARG002  as `re.Pattern` has it
        """Whether the filter is for this warning."""
        return _quiet()


_UNHEARD = _Unheard()
_IGNORED: Any = ("ignore", _AnyText(), Warning, None, 0)


def _install() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is not None:
            setattr(sys, name, _Stream(getattr(sys, name)))
    for logger_name in _LOGGERS:
        logger: logging.Logger | None = logging.getLogger(logger_name)
        while logger is not None:
            _handlers.extend(handler for handler in logger.handlers if handler not in _handlers)
            logger = logger.parent
    for handler in _handlers:
        handler.addFilter(_UNHEARD)
    filters: Any = warnings.filters
    filters.insert(0, _IGNORED)


def _remove() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Stream):  # else somebody has put another one in its place since
            setattr(sys, name, stream.real)
    for handler in _handlers:
        handler.removeFilter(_UNHEARD)
    _handlers.clear()
    filters: Any = warnings.filters
    if _IGNORED in filters:  # else another thread is in `catch_warnings`, and puts back a list with it, idle
        filters.remove(_IGNORED)
