"""`describe_onnx`, `describe_folder`: what ONNX files say of themselves, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from channelcut.core.errors import UserError
from channelcut.cutting.storage import PLAN, plan_fingerprint
from channelcut.onnx_out.files import file_bytes, load_onnx
from channelcut.onnx_out.metadata import metadata_of

MEANINGS = {
    "source": "made from",
    "source_weights": "the original's weights",
    "plan": "plan fingerprint",
    "precision": "precision",
    "calibration": "calibrated by",
    "output_error": "output error against float32",
    "kept_float32": "nodes kept in float32",
    "judged_on": "judged on",
    "version": "written by channelcut",
}


def describe_onnx(path: Path) -> dict[str, Any]:
    """What is in an ONNX file, in plain data: sizes, inputs, outputs, metadata. Raises `UserError` as `load_onnx`."""
    model = load_onnx(path, weights=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        "file": path.name,
        "size_bytes": file_bytes(path),
        "opset": next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), None),
        "nodes": len(model.graph.node),
        "inputs": {v.name: _type(v) for v in model.graph.input if v.name not in weights},
        "outputs": {v.name: _type(v) for v in model.graph.output},
        "metadata": metadata_of(model),
    }


def describe_folder(folder: Path) -> dict[str, Any]:
    """Every ONNX file of a result folder, with whether the plan that it names is the folder's.

    Raises:
        UserError: the folder is no result, or one of its files cannot be read.
    """
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder} is no result of `channelcut compress`: it has no {PLAN}.")
    files = [describe_onnx(path) for path in sorted(folder.glob("*.onnx"))]
    for file in files:
        if "plan" in file["metadata"]:
            file["plan_matches"] = file["metadata"]["plan"] == plan_fingerprint(folder)
    return {"files": files}


def file_lines(file: Mapping[str, Any]) -> list[str]:
    """What `describe_onnx` found, in words, one line per fact."""
    lines = [f"{file['file']}: opset {file['opset']}, {file['nodes']} nodes, {file['size_bytes'] / 2**20:.2f} MiB"]
    said = file["metadata"]
    known = [key for key in MEANINGS if key in said]
    for key in [*known, *sorted(set(said) - set(known))]:
        more = ""
        if key == "plan" and "plan_matches" in file:
            more = (
                " (that of plan.json)"
                if file["plan_matches"]
                else " (NOT that of plan.json: they do not belong together)"
            )
        lines.append(f"  {MEANINGS.get(key, key)}: {said[key]}{more}")
    if not said:
        lines.append("  channelcut has written nothing about itself into this file")
    for side in ("inputs", "outputs"):
        lines += [f"  {side[:-1]} {name}: {kind}" for name, kind in file[side].items()]
    return lines


def _type(value: onnx.ValueInfoProto) -> str:
    """Such as: float32 batch×3×640×640."""
    kind = value.type.tensor_type
    extents = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    return f"{onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)} {'×'.join(extents) or 'scalar'}"
