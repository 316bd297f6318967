"""Silence for libraries that talk while they work."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch.fx",
    "torch._subclasses.fake_tensor",
    "onnxscript",
    "onnx_ir",
    "onnxsim",
    "ONNXSLIM",
)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the exporters' prints, log lines and warnings from the user's terminal; errors still raise."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
