"""Which releases of Ultralytics the adapter works with."""

from __future__ import annotations

import importlib.util
import re

from channelcut.core.errors import MissingExtraError, UserError

OLDEST = "8.4.142"
"""Since this release `nms` chooses the head that is exported and evaluated; pyproject.toml has the same bound."""


def require_ultralytics(purpose: str) -> None:
    """Look whether the installed Ultralytics is one that the adapter works with.

    Raises:
        MissingExtraError: there is none.
        UserError: it is too old.
    """
    if importlib.util.find_spec("ultralytics") is None:
        raise MissingExtraError("ultralytics", "ultralytics", purpose)
    from ultralytics import __version__

    if _numbers(__version__) < _numbers(OLDEST):
        raise UserError(
            f"{purpose} needs Ultralytics {OLDEST} or later, and {__version__} is installed: before, other arguments "
            "chose the head that is exported. Run: pip install -U 'channelcut[ultralytics]'. Checkpoints that the "
            "older one has written stay usable."
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
