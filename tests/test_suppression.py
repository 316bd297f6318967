"""Times of two files say whether suppression of boxes is in them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from channelcut.bench.engines import Comparison, measure_files
from channelcut.bench.measure import BenchOptions
from channelcut.bench.suppression import suppression_of
from channelcut.core.measurement import suppression_words
from channelcut.report.facts import deployed_words
from channelcut.report.reader import Part

QUICK = BenchOptions(warmup_s=0.0, min_rounds=2, max_rounds=2, time_limit_s=0.2)


def detector(path: Path, said: dict[str, str] | None = None, *, suppressed: bool = False, inside: bool = False) -> Path:
    """Boxes and scores; suppressed in the graph, or inside a branch of it."""
    boxes = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 6, 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 6])
    kept = helper.make_tensor_value_info("kept", TensorProto.INT64, None)
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores"], ["kept"])
    if inside:
        branch = helper.make_graph([node], "branch", [], [kept])
        true = helper.make_node("Constant", [], ["true"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
        nodes = [true, helper.make_node("If", ["true"], ["kept"], then_branch=branch, else_branch=branch)]
    else:
        nodes = [node] if suppressed else [helper.make_node("Shape", ["boxes"], ["kept"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [boxes, scores], [kept]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    helper.set_model_props(model, said or {})
    onnx.save(model, path)
    return path


def test_where_boxes_are_suppressed(tmp_path: Path) -> None:
    path, detects = tmp_path / "a.onnx", {"task": "detect", "head": "Detect"}
    assert suppression_of(detector(path)) == ""
    assert suppression_of(detector(path, suppressed=True)) == "in the file"
    assert suppression_of(detector(path, detects | {"end2end": "False"}, inside=True)) == "in the file"
    assert suppression_of(detector(path, detects | {"end2end": "False"})) == "left to the caller"
    assert suppression_of(detector(path, detects | {"end2end": "True"})) == "none needed"
    assert suppression_of(detector(path, {"task": "classify"})) == ""
    assert suppression_of(tmp_path / "a.engine") == ""


@pytest.mark.parametrize(
    ("baseline", "candidate", "words"),
    [
        ("", "", ""),
        ("in the file", "in the file", "timed on both sides"),
        ("none needed", "none needed", "timed on neither side (none needed)"),
        (
            "left to the caller",
            "none needed",
            "timed on neither side (left to the caller in the baseline, none needed in the candidate)",
        ),
        ("in the file", "", "timed on one side only: in the file in the baseline, none in the candidate"),
    ],
)
def test_what_was_timed_in_words(baseline: str, candidate: str, words: str) -> None:
    assert suppression_words({"baseline": baseline, "candidate": candidate}) == words


def test_a_file_with_suppression_beside_one_without_is_warned_of(tmp_path: Path) -> None:
    a, b = detector(tmp_path / "a.onnx", suppressed=True), detector(tmp_path / "b.onnx")
    found = measure_files(Comparison(a, b, stages=False, memory=False), QUICK)
    assert any("suppression is timed on one side only" in warning for warning in found.warnings)
    same = measure_files(Comparison(a, a, stages=False, memory=False), QUICK)
    assert not any("suppression" in warning for warning in same.warnings)
    assert same.details["suppression"] == {"baseline": "in the file", "candidate": "in the file"}
    report = {"deployed": {"suppression": "in the file"}, "measurement": {"details": dict(same.details)}}
    assert deployed_words(Part(report)) == "suppression in the file, timed on both sides"
