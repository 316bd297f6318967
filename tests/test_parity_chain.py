"""The parity chain names the stage that breaks, and only that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

from channelcut.cli import main
from channelcut.core.checked import read_json
from channelcut.core.deployed import Deployed
from channelcut.onnx_out.module import onnx_from_module
from channelcut.onnx_out.parity import Parity
from channelcut.parity import compare_files
from channelcut.parity.chain import Matching, Stage, difference, run_chain
from channelcut.parity.detections import agreement

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "out"
    model = f"{HERE / 'networks.py'}:residual"
    argv = ["compress", model, "--input", "1x3x16x16", "--macs", "0.6", "--no-bench", "--quiet", "--out", str(folder)]
    assert main([*argv, "--capability", "sm89"]) == 0
    return folder


def test_a_sound_folder_passes(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(result), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    status = {row["stage"]: row["status"] for row in found["stages"]}
    assert status["onnx"] == "passed"
    assert status["fp16"] == status["model.sm89.engine"] == "not run"
    assert "random" in found["inputs"]
    assert read_json(result / "parity.json", "", "") == found
    assert main(["verify", str(result)]) == 0
    assert "model.sm89.engine was not run here: tensorrt_rtx: " in capsys.readouterr().out


def test_a_corrupt_stage_is_named(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    shutil.copytree(result, folder)
    model = onnx.load(folder / "model.onnx")
    weight = max(model.graph.initializer, key=lambda w: len(w.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 1.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / "model.onnx")
    images = tmp_path / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(images / f"{i}.png")
    (images / "broken.png").write_bytes(b"no image")
    assert main(["verify", str(folder), "--data", str(images)]) == 1
    shown = capsys.readouterr().out
    assert "First stage that breaks: onnx" in shown
    found = json.loads((folder / "parity.json").read_text())
    assert found["first_broken"] == "onnx"
    assert found["inputs"] == "3 images, 1 unreadable ones skipped"


def test_bad_folders_are_errors(tmp_path: Path, result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert main(["verify", str(result), "--data", str(tmp_path)]) == 2
    assert "plan.json" in capsys.readouterr().err


def boxes(generator: np.random.Generator, count: int = 40) -> np.ndarray[Any, Any]:
    corner, size = generator.uniform(0, 300, (count, 2)), generator.uniform(20, 100, (count, 2))
    score = np.sort(generator.uniform(0.3, 1, (count, 1)), axis=0)[::-1]
    return np.concatenate([corner, corner + size, score, generator.integers(0, 5, (count, 1))], 1)[None]


def test_boxes_in_another_order_agree_and_moved_ones_do_not() -> None:
    found = boxes(np.random.default_rng(0))
    swapped = found[:, np.random.default_rng(1).permutation(found.shape[1])]
    assert agreement(found, swapped) == (1.0, 78)
    moved = found.copy()
    moved[:, :10, :4] += 1000
    share = agreement(found, moved)
    assert share is not None and share[0] == pytest.approx(29 / 39)
    other = found.copy()
    other[:, :10, 5] += 1
    share = agreement(found, other)
    assert share is not None and share[0] < 0.8


def test_which_of_tied_boxes_is_kept_says_nothing() -> None:
    """Of untrained weights every score is the same to four digits, and rounding picks the three hundred."""
    generator = np.random.default_rng(0)
    found, others = boxes(generator), boxes(generator)
    found[..., 4] = others[..., 4] = 0.5 + np.linspace(1e-5, 0, 40)
    assert agreement(found, others) == (1.0, 0)
    found[:, :4, 4] = others[:, :4, 4] = 0.9
    assert agreement(found, others) == (0.0, 8)


def test_raw_outputs_are_boxes_too() -> None:
    generator = np.random.default_rng(0)
    raw = np.concatenate(
        [generator.uniform(50, 300, (1, 2, 60)), generator.uniform(20, 90, (1, 2, 60)), generator.random((1, 5, 60))], 1
    )
    assert agreement(raw, raw) is not None
    assert agreement(raw, raw)[0] == 1.0  # type: ignore[index]
    moved = raw.copy()
    moved[:, :2] += 500
    assert agreement(raw, moved)[0] == 0.0  # type: ignore[index]
    assert agreement(np.zeros((1, 10)), np.zeros((1, 10))) is None
    masks = np.concatenate([raw, 9 * generator.random((1, 4, 60))], 1)  # coefficients of masks are no classes
    others = np.concatenate([raw, 9 * generator.random((1, 4, 60))], 1)
    assert agreement(masks, others)[0] < 1.0  # type: ignore[index]
    assert agreement(masks, others, classes=5) == agreement(raw, raw)


def test_the_first_broken_stage_is_the_one_that_breaks() -> None:
    def run(offset: float) -> Any:
        return lambda batch: {"y": batch + offset}

    stages = [
        Stage("one", run(0.0)),
        Stage("two", run(0.5), before="one"),
        Stage("three", run(0.5), before="two"),
        Stage("four", None, reason="no GPU"),
    ]
    found = run_chain(run(0.0), stages, [np.linspace(0, 1, 10)])
    rows = {row["stage"]: row for row in found["stages"]}
    assert found["first_broken"] == "two"
    assert rows["three"]["reason"].startswith("against torch")
    assert rows["four"] == {"stage": "four", "status": "not run", "reason": "no GPU"}


def test_a_value_that_is_not_finite_breaks() -> None:
    good, bad = np.ones(4), np.array([1, np.nan, 1, 1])
    assert difference([{"y": good}], [{"y": bad}]).max_relative == float("inf")
    assert difference([{"y": good}], [{"z": good}]).max_relative == float("inf")


def test_raw_outputs_are_matched_as_boxes_where_they_can_be_decoded() -> None:
    """A map whose numbers hardly change, but whose boxes move: only decoding shows it."""
    rows = np.array([[0, 0, 10, 10, 0.9, 1], [50, 50, 90, 90, 0.8, 2], [0, 50, 20, 90, 0.1, 2]])

    def decode(outputs: Any) -> list[Any]:
        shift = float(outputs["map"].max()) - 1000
        return [rows + np.array([shift, shift, shift, shift, 0, 0])]

    plain = {"map": np.full((1, 3, 4, 4), 1000.0, np.float32)}
    moved = {"map": plain["map"] + np.float32(3)}
    assert difference([plain], [moved]).boxes is None
    found = difference([plain], [moved], Matching(decode=decode))
    assert found.max_relative == pytest.approx(0.003) and found.boxes == 0.0 and found.boxes_asked == 4
    assert difference([plain], [plain], Matching(decode=decode)).boxes == 1.0
    chain = run_chain(
        lambda _: plain, [Stage("int8", lambda _: moved, "int8")], [plain["map"]], Matching(decode=decode)
    )
    assert chain["first_broken"] == "int8" and "boxes matched" in chain["stages"][0]["reason"]


def test_boxes_decide_on_real_images_where_the_outputs_are_picked_boxes() -> None:
    found = boxes(np.random.default_rng(0))
    dimmed, moved = found.copy(), found.copy()
    dimmed[..., 4] *= 0.9  # every score is off by a tenth, and no box is another
    moved[:, :10, :4] += 1000
    stages = [Stage("dimmed", lambda _: {"y": dimmed}, "fp16"), Stage("moved", lambda _: {"y": moved}, "fp16")]
    for real, verdict, broken in ((False, "numbers and boxes", "dimmed"), (True, "boxes", "moved")):
        chain = run_chain(lambda _: {"y": found}, stages, [found], Matching(real=real))
        assert {row["verdict"] for row in chain["stages"]} == {verdict} and chain["first_broken"] == broken
    assert "boxes matched" in chain["stages"][1]["reason"] and "relative" not in chain["stages"][1]["reason"]
    lost = {"y": np.where(np.arange(6) == 4, np.nan, found)}
    chain = run_chain(lambda _: {"y": found}, [Stage("lost", lambda _: lost)], [found], Matching(real=True))
    assert chain["first_broken"] == "lost" and chain["stages"][0]["verdict"] == "numbers"
    raw = {"y": found.transpose(0, 2, 1)}
    assert difference([raw], [raw], Matching(real=True)).verdict == "numbers and boxes"


def test_boxes_of_next_to_no_score_decide_nothing_about_what_has_a_judge() -> None:
    """A cut that nothing has restored finds nothing: which class of 1e-6 is the largest is rounding."""
    found = boxes(np.random.default_rng(0))
    other = found.copy()
    other[..., 5] += 1
    for score, broken in ((1e-6, None), (1.0, "onnx")):
        pair = [{"y": np.concatenate([a[..., :4], a[..., 4:5] * score, a[..., 5:]], -1)} for a in (found, other)]
        stages = [Stage("onnx", lambda _, y=pair[1]: y, judge=lambda: Parity(0.0))]  # type: ignore[misc]
        chain = run_chain(lambda _, y=pair[0]: y, stages, [found])  # type: ignore[misc]
        assert chain["first_broken"] == broken
        assert chain["stages"][0]["verdict"] == ("numbers and boxes" if broken else "numbers")


def test_a_file_that_cannot_be_loaded_here_was_not_run(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(result, folder)
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, folder / "model.bf16.onnx")
    assert main(["verify", str(folder), "--images", "1", "--json"]) == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["stages"]}
    assert rows["bf16"]["status"] == "not run" and "cannot load" in rows["bf16"]["reason"]
    assert rows["openvino"]["status"] in ("passed", "not run")


class Quiet(nn.Module):
    """Probabilities of nothing, and features divided by their size, which a black image does not have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        f = self.conv(x)
        return (f - 14).sigmoid(), f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10)


def test_quiet_outputs_pass_and_black_images_are_tried(tmp_path: Path) -> None:
    module, image = Quiet().eval(), np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    onnx_from_module(module, (torch.from_numpy(image),), tmp_path / "model.onnx")
    found = compare_files(tmp_path, Deployed(module, (torch.from_numpy(image),)), [image])
    assert found["first_broken"] is None and found["stages"][0]["status"] == "passed"
    model = onnx.load(tmp_path / "model.onnx")
    (addition,) = [node for node in model.graph.node if node.op_type == "Add"]
    addition.op_type = "Identity"
    del addition.input[1:]
    onnx.save(model, tmp_path / "model.onnx")
    found = compare_files(tmp_path, Deployed(module, (torch.from_numpy(image),)), [image])
    assert found["first_broken"] == "onnx"
    assert "'output_1' is not finite at 2048 of 2048 places where the module is finite" in found["stages"][0]["reason"]
    wrong = {"y": np.array([2e-4, 1e-4])}
    assert difference([{"y": np.array([1e-4, 1e-4])}], [wrong], rounding={"y": 1e-7}).max_relative == pytest.approx(1)
