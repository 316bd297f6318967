"""Words of messages that depend on a name."""

from __future__ import annotations

from typing import Any

_LETTERS = "AEFHILMNORSX"  # spelled, these begin with a vowel: an LSTM, an SSD, but a YOLO


def with_article(name: str) -> str:
    """A name with its article: `an int`, `a tuple`, `an LSTM`, `a UNet`."""
    spelled = name == "ndarray" or (len(name) > 1 and name[:2].isupper())
    vowel = name[:1].upper() in _LETTERS if spelled else name[:1].lower() in tuple("aeio")
    return f"{'an' if vowel else 'a'} {name}"


def kind_of(value: Any) -> str:
    """What a value is, in words: `an int`."""
    return with_article(type(value).__name__)
