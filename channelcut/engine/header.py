"""The header of a drop-in `.engine`, which `ultralytics.YOLO("model.engine")` reads before the engine itself.

Four bytes, little-endian, hold the length of the text that follows: the metadata as JSON, in ASCII. Then comes the
engine.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.metadata import PREFIX

_LENGTH = 4
_NEEDED = frozenset(("task", "names", "stride"))  # without these their loader guesses
_TEXTS = frozenset("author date description docs head license task version".split())


def header_from_onnx(onnx: Path) -> bytes:
    """The header of an engine that is built from an ONNX file with Ultralytics' metadata; empty for any other file.

    ONNX keeps texts alone; an engine's header has the numbers, lists and tables that they stand for.
    """
    found = {p.key: p.value for p in load_onnx(onnx, weights=False).metadata_props if not p.key.startswith(PREFIX)}
    if not found.keys() >= _NEEDED:
        return b""
    return header({key: value if key in _TEXTS else _value(value) for key, value in found.items()})


def header(metadata: Mapping[str, Any]) -> bytes:
    """The bytes that stand before an engine."""
    text = json.dumps(metadata).encode("ascii")
    return len(text).to_bytes(_LENGTH, "little") + text


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The metadata and the engine of a file; of a file without a header, none and the whole."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    try:
        found = json.loads(data[_LENGTH:end]) if _LENGTH < end <= len(data) else None
    except ValueError:  # an engine is no JSON
        found = None
    return (found, data[end:]) if isinstance(found, dict) else ({}, data)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
