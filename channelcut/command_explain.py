"""`channelcut explain`: a parameter of a result, or what an ONNX file says of itself."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError

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


def add_flags(command: ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("what", type=Path, metavar="DIR|FILE.onnx", help="a result folder, or an ONNX file")
    command.add_argument(
        "parameter", nargs="?", help="of a folder: name of a parameter or buffer, or of its module; without, its files"
    )


def run(flags: Namespace) -> int:
    """Explain and print; returns 1 when a file names another plan than the folder's, else 0."""
    from channelcut.console import console, print_json

    if flags.what.suffix.lower() == ".onnx":
        if flags.parameter is not None:
            raise UserError(
                f"{flags.what} is one file: it knows nothing of groups. Explain {flags.parameter!r} in its "
                "result folder."
            )
        found: dict[str, Any] = {"files": [describe(flags.what)]}
        lines = file_lines(found["files"][0])
    elif flags.parameter is None:
        found = describe_folder(flags.what)
        lines = [line for file in found["files"] for line in file_lines(file)]
    else:
        from channelcut.commands import read_report
        from channelcut.report.explain import explain, sentences

        found = explain(read_report(flags.what), flags.parameter)
        lines = sentences(found)
    if flags.json:
        print_json(found)
    elif not flags.quiet:
        for line in lines:
            console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if any(file.get("plan_matches") is False for file in found.get("files", ())) else 0


def describe(path: Path) -> dict[str, Any]:
    """What is in an ONNX file, in plain data: sizes, inputs, outputs, metadata. Raises `UserError` as `load_onnx`."""
    from channelcut.onnx_out.files import file_bytes, load_onnx
    from channelcut.onnx_out.metadata import metadata_of

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
    """Every ONNX file of a result folder, with whether the plan that it names is the folder's."""
    from channelcut.cutting.storage import PLAN, plan_fingerprint

    if not (folder / PLAN).is_file():
        raise UserError(f"{folder} is no result of `channelcut compress`: it has no {PLAN}.")
    files = [describe(path) for path in sorted(folder.glob("*.onnx"))]
    for file in files:
        if "plan" in file["metadata"]:
            file["plan_matches"] = file["metadata"]["plan"] == plan_fingerprint(folder)
    return {"files": files}


def file_lines(file: Mapping[str, Any]) -> list[str]:
    """A file in words, one line a fact."""
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


def _type(value: Any) -> str:
    """Such as: float32 batch×3×640×640."""
    import onnx

    kind = value.type.tensor_type
    extents = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    return f"{onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)} {'×'.join(extents) or 'scalar'}"
