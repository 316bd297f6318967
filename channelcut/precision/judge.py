"""What a conversion is judged by: the error of the outputs, or of what feeds a selection that orders them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from channelcut.core.errors import UserError
from channelcut.onnx_out.runtime import failures, session_from_model
from channelcut.precision.cast import element_types, without_unread
from channelcut.precision.quantize import Feed

Array = npt.NDArray[Any]
SELECTIONS = ("TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero")


@dataclass(frozen=True)
class Judged:
    """Which values are compared, and which nodes no comparison sees.

    values: outputs of the model, and float values from before a selection that its outputs hang on.
    unseen: nodes that follow a selection; they are never lowered.
    """

    values: tuple[onnx.ValueInfoProto, ...]
    unseen: frozenset[str]

    @property
    def what(self) -> str:
        """The values in words."""
        return "the values before the selection" if self.unseen else "the outputs"


def judged(model: onnx.ModelProto) -> Judged:
    """Find what to compare in a model, `prepared`, that may order or suppress its own detections.

    Rows behind a top-k cannot be compared in place: two scores that differ by a rounding swap, and every later row
    moves. Matching rows by their boxes would need to know the detector's format. So the comparison is at the door:
    every float value that depends on the input, comes from before the top-k (or another of `SELECTIONS`), and is read
    by it or by what follows it. In YOLO26 these are the boxes and scores of all anchors. What follows is
    selection and is left in float32, because an error there would not be seen; in a two-stage detector that is its
    second stage. Outputs that do not hang on a selection are compared as they are.

    Raises `UserError` when there is no float value to compare.
    """
    behind: set[str] = set()
    unseen: set[str] = set()
    live = {i.name for i in model.graph.input} - {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        if live.intersection(node.input):
            live.update(node.output)
            if node.op_type in SELECTIONS or behind.intersection(node.input):
                behind.update(node.output)
                unseen.add(node.name)
    outputs = [o for o in model.graph.output if o.name not in behind]
    names = {o.name for o in model.graph.output}
    types = element_types(model)
    for node in model.graph.node:
        for name in node.input if node.name in unseen else ():
            if name in live - behind - names and types.get(name) == TensorProto.FLOAT:
                names.add(name)
                outputs.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    if not any(types.get(o.name) == TensorProto.FLOAT for o in outputs):
        raise UserError(
            "A precision is chosen by the error of float32 values, and this model has no float32 output, nor a float32 "
            "value from before a top-k, an arg-max or a suppression. Export it with the values that its outputs are "
            "made of."
        )
    return Judged(tuple(outputs), frozenset(unseen))


def judging(model: onnx.ModelProto, values: Judged) -> onnx.ModelProto:
    """Return the model with the compared values as its outputs, without what they do not need."""
    if not values.unseen:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("output")
    copy.graph.output.extend(values.values)
    return without_unread(copy)


def run(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[Array]]:
    """The outputs for every feed, by ONNX Runtime; raises `UserError` when it cannot run the model."""
    session = session_from_model(model)
    read = {i.name for i in session.get_inputs()}
    try:
        return [session.run(None, {k: v for k, v in feed.items() if k in read}) for feed in feeds]
    except failures() as problem:
        raise UserError(f"ONNX Runtime cannot run the model: {' '.join(str(problem).split())[:300]}") from problem


def output_error(reference: Sequence[Sequence[Array]], candidate: Sequence[Sequence[Array]]) -> float:
    """Return the worst output's ‖candidate − reference‖ / ‖reference‖ over all inputs together; infinite if not finite.

    Outputs that are not floating point are not judged.
    """
    worst = 0.0
    for wanted, got in zip(zip(*reference, strict=True), zip(*candidate, strict=True), strict=True):
        if not np.issubdtype(wanted[0].dtype, np.floating):
            continue
        b = np.concatenate([a.ravel() for a in wanted]).astype(np.float64)
        a = np.concatenate([a.ravel() for a in got]).astype(np.float64)
        if not np.isfinite(a).all():
            return math.inf
        worst = max(worst, float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12)))
    return worst
