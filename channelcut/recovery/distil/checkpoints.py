"""Checkpoints of a recovery: one file, replaced whole, that the same call goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from channelcut.core.errors import UserError
from channelcut.core.files import replacing

CHECKPOINT = "checkpoint.pt"
_FORMAT = 1


def digest(value: Any) -> str:
    """Identify plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write(folder: Path, asked: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in a folder.

    Args:
        folder: is made where it does not exist.
        asked: what the recovery was asked for, each part by its name in words.
        state: tensors, numbers and texts alone.

    Raises:
        UserError: the folder cannot be written to; the old checkpoint is then still there.
    """
    with replacing(folder / CHECKPOINT) as file:
        torch.save({"format": _FORMAT, "asked": dict(asked), "state": dict(state)}, file)


def read(folder: Path, asked: Mapping[str, str]) -> dict[str, Any] | None:
    """The state of the checkpoint in a folder; None where there is none.

    Raises:
        UserError: it is damaged, or of another recovery; names what is different.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        before, state = dict(found["asked"]), dict(found["state"])
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {text}). Remove it to begin anew, or name "
            "another folder."
        ) from error
    other = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if other or found.get("format") != _FORMAT:
        raise UserError(
            f"{path} is of another recovery: {', '.join(other) or 'its format'} differ{'s' if len(other) < 2 else ''}. "
            "A recovery goes on where the model, the plan, the data and the options are those that it began with. Ask "
            "for the same again, remove the file to begin anew, or name another folder."
        )
    return state
