"""What a model came from, in a line that goes into its files: names and checksums, never a folder of this machine."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from channelcut.cutting import load_plan
from channelcut.cutting.storage import PLAN, plan_fingerprint
from channelcut.sources.libraries import LIBRARIES
from channelcut.sources.plugins import version_of
from channelcut.sources.source import Source

_DIGITS = 16


def provenance(source: Source) -> dict[str, str]:
    """Return `source`, and `plan` where it is a result folder, for `ExportOptions.metadata`.

    `source` is a file's name with the start of its SHA-256, or the name within a library with the library's version, or
    an import path; of a result folder that of its original.
    """
    folder = Path(source.name)
    if (folder / PLAN).is_file():
        original = load_plan(folder).options.get("model")
        facts = {"plan": plan_fingerprint(folder)}
        return facts | ({"source": _line(str(original))} if original else {})
    file = source.weights_file
    said = f"{source.weights}{_checksum(file)}" if file is not None else ""
    if file is None and source.name.partition(":")[0] in LIBRARIES:
        said = source.weights
    return {"source": _line(source.name) + (f", weights {said}" if said else "")}


def weights_digest(model: nn.Module) -> str:
    """Return the start of the SHA-256 over a model's parameters and buffers with their names, in order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def _line(name: str) -> str:
    if name.endswith(".onnx"):
        return Path(name).name + _checksum(Path(name))
    origin, _, rest = name.rpartition(":")
    if origin.endswith(".py"):
        return f"{Path(origin).name}:{rest}{_checksum(Path(origin))}"
    if origin in LIBRARIES:
        return f"{origin}:{Path(rest).name} ({origin} {_version(origin)}){_checksum(Path(rest))}"
    brought = version_of(name.partition(":")[0])
    return f"{name} ({brought})" if brought else name


def _checksum(path: Path) -> str:
    """The start of the file's SHA-256; empty for a name that is no file here."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f" sha256:{digest.hexdigest()[:_DIGITS]}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
