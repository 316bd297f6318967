"""Where in the user's source something happened: `package/file.py:line`, never a frame of torch itself."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep  # not torchvision, whose path only starts alike
_HERE = str(Path(__file__).parent.parent) + os.sep
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')


def short(filename: str, line: int) -> str:
    """The last three parts of a path and the line: enough to find it, nothing of the machine."""
    return f"{_end(filename)}:{line}"


@cache  # a forward of a thousand ops stands in a dozen files
def _end(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])


@cache
def is_user_file(filename: str) -> bool:
    """Whether a file belongs to the user's model rather than to torch, Python or this package's tracing."""
    return not (filename.startswith((_TORCH, _HERE, "<")) or "/contextlib.py" in filename)


def from_stack_trace(text: str | None) -> str:
    """The innermost user frame of a stack trace as torch.export stores it; empty when there is none."""
    frames = [m for m in _FRAME.finditer(text or "") if is_user_file(m["file"])]
    return short(frames[-1]["file"], int(frames[-1]["line"])) if frames else ""


def innermost_line(traceback: TracebackType | None) -> str:
    """The innermost user frame of an exception."""
    lines = user_lines(traceback)
    return lines[-1] if lines else ""


def user_lines(traceback: TracebackType | None) -> list[str]:
    """The user frames of an exception, outermost first."""
    found = []
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if is_user_file(filename):
            found.append(short(filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return found


def current_line(depth: int = 2) -> str:
    """The innermost user frame of the running stack."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return short(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return ""
