"""What `benchmarks.gpu` measures: ONNX files prepared without a GPU, and packed so that they travel in small parts.

Weights are random, and times do not depend on them, so that a pack leaves them out: each large tensor is kept as its
mean and deviation and drawn anew from a seed when it is unpacked. What was 1.5 GB becomes some megabytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from channelcut.core.errors import ChannelcutError, UserError
from channelcut.core.files import write_atomically
from channelcut.onnx_out.files import all_tensors, load_onnx, save_onnx

SOURCES = {
    "yolo26n": "ultralytics:yolo26n.yaml",
    "yolov8n": "ultralytics:yolov8n.yaml",
    "yolo11n": "ultralytics:yolo11n.yaml",
    "yolo26s": "ultralytics:yolo26s.yaml",
    "yolo26m": "ultralytics:yolo26m.yaml",
    "resnet50": "torchvision:resnet50",
    "nanodet_m": "",
}
SIZES = {"resnet50": 224, "nanodet_m": 320}  # the others are at the size that is asked for
CUTS = ((0.5, 8), (0.75, 8), (0.5, 16), (0.25, 8), (0.5, 1))
PRECISIONS = ("fp32", "fp16")
PART_BYTES = 60 * 2**20

_LARGE = 4096  # bytes; smaller tensors are packed as they are
_RANDOM = "channelcut.random"  # the property that names the tensors of a packed file that are drawn anew


def file_of(folder: Path, model: str, cut: tuple[float, int] | None, precision: str = "fp32") -> Path:
    """Return the path of an original (`cut` None) or of a cut, (share of the MACs, alignment), in that precision."""
    side = "original" if cut is None else f"macs{cut[0]}.align{cut[1]}"
    return folder / f"{model}.{side}{'' if precision == 'fp32' else '.' + precision}.onnx"


def prepare(folder: Path, models: list[str], cuts: list[tuple[float, int]], size: int) -> None:
    """Write each model's original and cuts as ONNX with an open batch, in fp32 and fp16; what is there already stays.

    Nothing is kept in float32 for accuracy's sake in the fp16 files: the weights are random.
    """
    import torch

    import channelcut as cc

    folder.mkdir(parents=True, exist_ok=True)
    for name in models:
        side = min(size, SIZES.get(name, size))
        shape = (1, 3, side, side)
        if all(file_of(folder, name, c, p).is_file() for c in (None, *cuts) for p in PRECISIONS):
            continue
        torch.manual_seed(0)
        try:
            model, inputs = built(name), (torch.rand(shape),)
            for cut in cuts:
                if not file_of(folder, name, cut).is_file():
                    result = cc.prune(model, inputs, macs=cut[0], align=cut[1])
                    _write(result.model, inputs, file_of(folder, name, cut))
                _lower(file_of(folder, name, cut), file_of(folder, name, cut, "fp16"), shape)
            if not file_of(folder, name, None).is_file():
                _write(model, inputs, file_of(folder, name, None))
            _lower(file_of(folder, name, None), file_of(folder, name, None, "fp16"), shape)
        except (ChannelcutError, ImportError) as problem:
            print(f"{name}: skipped: {' '.join(str(problem).split())[:300]}", flush=True)
            continue
        print(f"{name}: prepared", flush=True)


def built(name: str) -> Any:
    """Make the network with random weights."""
    from channelcut.sources import open_source

    if name == "nanodet_m":
        from benchmarks.zoo import nanodet

        return nanodet.build().eval()
    return open_source(SOURCES[name]).build()


def pack(folder: Path, out: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write the folder's ONNX files into `out`/part-NN.tar.gz, none larger than `part_bytes`; returns the parts.

    Raises `UserError` for a folder without files, or a file that does not fit a part even without its weights.
    """
    paths = sorted(folder.glob("*.onnx"))
    if not paths:
        raise UserError(f"{folder} holds no .onnx files. Prepare them first: python -m benchmarks.gpu --prepare DIR.")
    parts: list[Path] = []
    names: list[str] = []
    held: list[tuple[str, bytes]] = []
    for path in [*paths, None]:
        content = b"" if path is None else light(load_onnx(path)).SerializeToString()
        whole = _tar([*held, (path.name, content)]) if path is not None else b""
        if path is not None and len(whole) <= part_bytes:
            held.append((path.name, content))
            continue
        if not held:
            raise UserError(f"{path} needs more than {part_bytes} bytes without its weights. Allow larger parts.")
        parts.append(out / f"part-{len(parts):02d}.tar.gz")
        write_atomically(parts[-1], _tar(held))
        names += [name for name, _ in held]
        held = [] if path is None else [(path.name, content)]
        if path is not None and len(_tar(held)) > part_bytes:
            raise UserError(f"{path} needs more than {part_bytes} bytes without its weights. Allow larger parts.")
    manifest = {"parts": [part.name for part in parts], "files": names}
    write_atomically(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return parts


def unpack(packed: Path, folder: Path) -> list[Path]:
    """Write the packed files into `folder` with weights drawn from their seeds; returns them.

    Raises `UserError` where a part that the manifest names is missing or damaged.
    """
    try:
        manifest = json.loads((packed / "manifest.json").read_text(encoding="utf-8"))
        found = []
        for part in manifest["parts"]:
            for name, content in _untar((packed / part).read_bytes()):
                save_onnx(heavy(onnx.load_model_from_string(content)), folder / Path(name).name)
                found.append(folder / Path(name).name)
    except (OSError, ValueError, KeyError, tarfile.TarError, EOFError) as problem:
        raise UserError(
            f"{packed} cannot be unpacked ({problem}). Expected manifest.json and every part that it names, as --pack "
            "wrote them."
        ) from problem
    if sorted(path.name for path in found) != sorted(manifest["files"]):
        raise UserError(f"{packed} lacks files that its manifest names: a part is incomplete. Pack again.")
    return found


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its large floating-point tensors replaced by their mean and deviation."""
    drawn = {}
    for tensor in all_tensors(model):
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if len(tensor.raw_data) < _LARGE or kind not in (np.float32, np.float16) or not tensor.name:
            continue
        values = np.frombuffer(tensor.raw_data, kind).astype(np.float64)
        drawn[tensor.name] = [float(values.mean()), float(values.std())]
        tensor.raw_data = b""
    entry = model.metadata_props.add()
    entry.key, entry.value = _RANDOM, json.dumps(drawn)
    return model


def heavy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a `light` model with its tensors drawn: the same name and shape always give the same values."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    drawn = json.loads(said.pop(_RANDOM))
    onnx.helper.set_model_props(model, said)
    for tensor in all_tensors(model):
        if tensor.name in drawn:
            mean, deviation = drawn[tensor.name]
            seed = int.from_bytes(hashlib.sha256(f"{tensor.name} {list(tensor.dims)}".encode()).digest()[:8], "big")
            values = np.random.default_rng(seed).normal(mean, deviation, list(tensor.dims))
            tensor.raw_data = values.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
    return model


def _write(model: Any, inputs: Any, path: Path) -> None:
    from channelcut.onnx_out.module import ExportOptions, onnx_from_module

    onnx_from_module(model, inputs, path, ExportOptions(dynamic_batch=True))
    print(f"  {path.name}", flush=True)


def _lower(plain: Path, path: Path, shape: tuple[int, ...]) -> None:
    from channelcut.precision.convert import PrecisionOptions, convert_precision

    if not path.is_file():
        options = PrecisionOptions(budget=float("inf"), judged=1, size=(shape[2], shape[3]))
        convert_precision(plain, path, "fp16", None, options)


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _untar(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            if file is not None:
                yield entry.name, file.read()
