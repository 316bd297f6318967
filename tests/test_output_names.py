"""The table of outputs in docs/export.md is that of the models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.onnx_out.module import ExportOptions, onnx_from_module
from channelcut.onnx_out.names import output_names
from channelcut.report.files import describe_onnx
from channelcut.sources import open_source

pytest.importorskip("ultralytics", reason="Ultralytics is not installed: pip install 'channelcut[ultralytics]'")
torch.set_num_threads(1)
DOCS = (Path(__file__).parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
N, C, H, W = 2, 80, 96, 160
A = H * W // 64 + H * W // 256 + H * W // 1024
LETTERS = {"N": N, "C": C, "H": H, "W": W, "A": A, "Q": min(300, A)}


def documented() -> dict[str, dict[str, tuple[int, ...]]]:
    table = DOCS.partition("<!-- outputs -->")[2].partition("<!-- /outputs -->")[0]
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    names: list[str] = []
    for line in table.strip().splitlines()[2:]:
        first, output, shape, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        names = [name.strip() for name in re.split(r", (?!end2end)", first)] if first else names
        assert output.startswith("`"), line
        for name in names:
            extents = (eval(extent.replace("/", "//"), {}, LETTERS) for extent in shape.split("×"))
            found.setdefault(name, {})[output.strip("`")] = tuple(extents)
        assert meaning or not first, f"{line}: say what it is"
    return found


def model_of(name: str) -> torch.nn.Module:
    model = open_source(f"ultralytics:{name.removesuffix(', end2end')}.yaml").build()
    if name.endswith("end2end"):
        model.model[-1].end2end = True  # type: ignore[index, union-attr]
    return model


@pytest.mark.parametrize("name", documented())
def test_every_output_is_documented_with_its_shape(name: str) -> None:
    model, image = model_of(name), torch.rand(N, 3, H, W)
    with torch.no_grad():
        result = model(image)
    shapes = {n: tuple(t.shape) for n, t in zip(output_names(result, ["x"], model), tensor_leaves(result), strict=True)}
    if name.endswith("end2end"):
        shapes = {"output_0": shapes["output_0"]}  # the others are those of the model above
    assert shapes == documented()[name]


def test_the_file_has_these_names_and_boxes_in_pixels(tmp_path: Path) -> None:
    model = model_of("yolo26n, end2end")
    options = ExportOptions(simplifiers=())
    onnx_from_module(model, (torch.rand(N, 3, H, W),), tmp_path / "m.onnx", options)
    outputs = describe_onnx(tmp_path / "m.onnx")["outputs"]
    wanted = documented()["yolo26n"] | documented()["yolo26n, end2end"]
    assert {n: tuple(map(int, t.split()[1].split("×"))) for n, t in outputs.items()} == wanted
    with torch.no_grad():
        best, raw = model(torch.rand(N, 3, H, W))
    assert bool((best[..., 4].diff(dim=1) <= 0).all()), "best first"
    assert float(raw["one2one"]["boxes"].abs().max()) < float(best[..., :4].abs().max()), "strides, and pixels"
