"""Reading and writing ONNX files: whole or not at all, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from channelcut.core.errors import UserError

if TYPE_CHECKING:
    import onnx


def read_bytes(path: Path, what: str) -> bytes:
    """Return the file's content; raises `UserError` that names the file when it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise UserError(
            f"Cannot read the {what} {str(path)!r}: {problem.strerror}. Expected the path of an existing file."
        ) from problem
    if not data:
        raise UserError(f"The {what} {str(path)!r} is empty (0 bytes): it was not written to the end. Make it again.")
    return data


def load_onnx(path: Path) -> onnx.ModelProto:
    """Return the ONNX model in the file, weights included; raises `UserError` when it is missing or is not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no stubs

    read_bytes(path, "ONNX file")
    try:
        model = onnx.load(str(path))
        if not model.graph.node and not model.graph.output:
            raise UserError(f"The ONNX file {str(path)!r} holds no graph. Expected a model with inputs and outputs.")
    except (DecodeError, UnicodeDecodeError, onnx.checker.ValidationError) as problem:
        raise UserError(
            f"The file {str(path)!r} is not an ONNX model, or is damaged ({problem}). Expected the file that an ONNX "
            "export wrote; export the model again and check that the copy is complete."
        ) from problem
    except OSError as problem:
        raise UserError(
            f"The ONNX file {str(path)!r} keeps weights in another file that cannot be read ({problem}). Keep the "
            "files of one export together in one folder."
        ) from problem
    return model
