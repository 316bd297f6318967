"""Whether suppression of boxes is part of what a file computes, so that times of two files say what is in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from onnx import GraphProto

from channelcut.core.measurement import IN_FILE
from channelcut.onnx_out.files import load_onnx

NEEDLESS, LEFT = "none needed", "left to the caller"
_BOXES = ("detect", "segment", "pose", "obb")  # Ultralytics' tasks that end in boxes


def suppression_of(path: Path) -> str:
    """Where an ONNX file's boxes are suppressed; empty where it is not known to have any.

    In the file, where it has an op of suppression; else by what Ultralytics wrote into it: none is needed behind a head
    that gives each object one box (one-to-one), and what a one-to-many head gives is left to the caller.
    """
    if path.suffix.lower() != ".onnx":
        return ""
    model = load_onnx(path, weights=False)
    if any(graph_has_suppression(graph) for graph in (model.graph, *model.functions)):
        return IN_FILE
    said = {entry.key: entry.value for entry in model.metadata_props}
    if said.get("task") not in _BOXES:
        return ""
    return NEEDLESS if said.get("end2end") == "True" or said.get("head") == "RTDETRDecoder" else LEFT


def graph_has_suppression(graph: GraphProto) -> bool:
    """Whether an op of suppression is in it, or in a branch or loop of it."""
    return any(
        node.op_type in ("NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMSDynamic_TRT")
        or any(graph_has_suppression(inner) for inner in _inner(node.attribute))
        for node in graph.node
    )


def _inner(attributes: Iterable[object]) -> list[GraphProto]:
    found: list[GraphProto] = []
    for attribute in attributes:
        found += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]  # type: ignore[attr-defined]
    return found
