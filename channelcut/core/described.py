"""What was asked for as plain data, by which a run that goes on knows whether it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channelcut.core.words import kind_of


def described(value: Any, without: Iterable[str] = ()) -> Any:
    """A value as JSON data, the same in every process.

    Options become their fields, arrays a digest, and of what has no text of its own, such as a function, the kind and
    the name are said.

    Args:
        value: anything.
        without: fields of a dataclass that are left out.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, (Tensor, np.ndarray)):
        array = value.detach().cpu().contiguous().flatten().view(torch.uint8) if isinstance(value, Tensor) else value
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        return [str(value.dtype).removeprefix("torch."), list(value.shape), digest]
    if is_dataclass(value) and not isinstance(value, type):
        left = set(without)
        return {each.name: described(getattr(value, each.name)) for each in fields(value) if each.name not in left}
    name = getattr(value, "__qualname__", "")
    return f"{kind_of(value)} {name}" if name else kind_of(value)


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two descriptions differ: the names of the parts, and what they are in both."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        parts = [differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key)) for key in keys]
        return [text for part in parts for text in part]
    return [] if before == now else [f"{name} ({_short(before)} there, {_short(now)} here)"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
