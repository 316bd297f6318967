"""Reading and writing ONNX files: whole or not at all, with errors that name the file.

Protobuf messages end at 2 GiB. A larger model is written as two files: `model.onnx`, which holds the graph, and
`model.onnx.data` beside it, which holds the weights ("external data" in ONNX).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from channelcut.core.errors import UserError
from channelcut.core.files import replacing, write_atomically

if TYPE_CHECKING:
    import onnx

# Weights of more bytes than this go into a file of their own; the rest of a message needs room below 2 GiB too.
EXTERNAL_ABOVE = 2**31 - 2**26
SUFFIX = ".data"

_SMALL = 1024  # bytes; smaller tensors stay in the graph, where shape inference reads them
_ALIGNED = 4096  # offsets in the data file are multiples of a page, so that it can be mapped


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


def load_onnx(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Return the ONNX model in the file; weights that lie in another file are read too, if `weights` says so.

    Raises `UserError` when it is missing, is not ONNX, or names a file of weights that is not there or too short.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no stubs

    data = read_bytes(path, "ONNX file")
    try:
        model = onnx.load_model_from_string(data)
        if not model.graph.node and not model.graph.output:
            raise UserError(f"The ONNX file {str(path)!r} holds no graph. Expected a model with inputs and outputs.")
        _check_data(path, model)
        if weights:
            onnx.load_external_data_for_model(model, str(path.parent))
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


def save_onnx(model: onnx.ModelProto, path: Path) -> int:
    """Write the model to `path`, with the weights in `path`.data where they are too many; returns the bytes in all.

    Nothing half-written is ever there to read: the data file takes its place first, then the model, and an older model
    that would meet the new data goes before. An older data file that nothing needs any more is removed.
    Raises `UserError` when the folder cannot be written to.
    """
    path = Path(path)
    data_path = path.with_name(path.name + SUFFIX)
    had_data = data_path.name in _locations(path)
    tensors = [t for t in all_tensors(model) if t.HasField("raw_data") and len(t.raw_data) >= _SMALL]
    if weight_bytes(model) <= EXTERNAL_ABOVE:
        data = model.SerializeToString()
        write_atomically(path, data)
        if had_data:
            data_path.unlink(missing_ok=True)
        return len(data)
    with ExitStack() as both:
        held: list[bytes] = []
        graph_file = both.enter_context(replacing(path))
        try:
            with replacing(data_path) as data_file:
                for tensor in tensors:
                    held.append(tensor.raw_data)
                    data_file.write(b"\0" * (-data_file.tell() % _ALIGNED))
                    _point(tensor, data_path.name, data_file.tell(), len(held[-1]))
                    data_file.write(held[-1])
                size = data_file.tell()
                data = model.SerializeToString()
                graph_file.write(data)
                for file in (data_file, graph_file):
                    file.flush()  # a full disk shows now, while the older pair is whole
                if had_data:
                    path.unlink(missing_ok=True)
        finally:
            for tensor, raw in zip(tensors, held, strict=False):
                _inline(tensor, raw)
    return len(data) + size


def copy_onnx(source: Path, path: Path) -> int:
    """Copy an ONNX file to `path`, the weights that lie in another file into `path`.data, or into `path` if they fit.

    Returns the bytes in all. Raises `UserError` for a file that cannot be read or a folder that cannot be written to.
    """
    if is_split(source):
        return save_onnx(load_onnx(source), path)
    data = read_bytes(source, "ONNX file")
    write_atomically(path, data)
    return len(data)


def file_bytes(path: Path) -> int:
    """Return the size of a file, of an ONNX file with the data beside it."""
    beside = [path.with_name(name) for name in _locations(path)]
    return path.stat().st_size + sum(other.stat().st_size for other in beside if other.is_file())


def is_split(path: Path) -> bool:
    """Whether the file keeps weights in another file."""
    return bool(_locations(path))


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all tensors that the model holds as raw data."""
    return sum(len(tensor.raw_data) for tensor in all_tensors(model))


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: initializers and constants, in subgraphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: object) -> Iterator[onnx.TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]  # a protobuf container, which ships no stubs
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _of_graph(graph)


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Let the tensor say where its bytes are, instead of holding them."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    tensor.data_location = tensor.EXTERNAL


def _inline(tensor: onnx.TensorProto, raw: bytes) -> None:
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = raw


def _locations(path: Path) -> set[str]:
    """The files beside `path` in which its tensors lie; empty for a file that is missing or not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (OSError, DecodeError, UnicodeDecodeError):
        return set()
    return {e.value for t in all_tensors(model) for e in t.external_data if e.key == "location"}


def _check_data(path: Path, model: onnx.ModelProto) -> None:
    """Raise `UserError` where a tensor's bytes are not in the file that it names."""
    needed: dict[str, int] = {}
    for tensor in all_tensors(model):
        entry = {e.key: e.value for e in tensor.external_data}
        if tensor.data_location == tensor.EXTERNAL and "location" in entry:
            end = int(entry.get("offset", 0)) + int(entry.get("length", 0))
            needed[entry["location"]] = max(end, needed.get(entry["location"], 0))
    for location, end in needed.items():
        beside = path.parent / location
        if not beside.is_file():
            raise UserError(
                f"The ONNX file {str(path)!r} keeps weights in {location!r}, which is not beside it. Keep the files of "
                "one export together in one folder, under their names."
            )
        if beside.stat().st_size < end:
            raise UserError(
                f"{location!r}, which holds the weights of {str(path)!r}, has {beside.stat().st_size} bytes; {end} are "
                "needed: the copy is incomplete. Copy it again, or export again."
            )
