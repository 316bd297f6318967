"""What an ONNX file says about itself: string properties under `channelcut.`; never a host name or a path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from channelcut import __version__
from channelcut.onnx_out.files import load_onnx

PREFIX = "channelcut."


def onnx_metadata(path: Path) -> dict[str, str]:
    """Return what channelcut wrote into the ONNX file, without the prefix; empty for a file of another tool's.

    Raises `UserError` when the file is missing or is not ONNX.
    """
    return metadata_of(load_onnx(Path(path), weights=False))


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return what channelcut wrote into the model, without the prefix."""
    properties = model.metadata_props
    return {p.key.removeprefix(PREFIX): p.value for p in properties if p.key.startswith(PREFIX)}


def set_metadata(model: onnx.ModelProto, values: Mapping[str, str], others: Mapping[str, str] | None = None) -> None:
    """Write the values, and channelcut's version, into the model's properties, `others` as they are; the rest stays."""
    merged = {p.key: p.value for p in model.metadata_props} | dict(others or {})
    merged |= {f"{PREFIX}{key}": value for key, value in {"version": __version__, **values}.items()}
    onnx.helper.set_model_props(model, merged)
