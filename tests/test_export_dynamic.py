"""Open resolution: equal to the module at sizes that were not traced, or refused with the place."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from channelcut.cli import main
from channelcut.core.errors import UserError
from channelcut.engine.protocol import EngineOptions
from channelcut.onnx_out.comparison import max_relative_error, tensor_leaves
from channelcut.onnx_out.dynamic import OpenAxes, guard_probes
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.module import ExportOptions, onnx_from_module
from channelcut.onnx_out.parity import run_onnx

torch.set_num_threads(1)
OPEN = ExportOptions(dynamic_size=True)
EXAMPLE = (torch.rand(1, 3, 64, 64),)


class Anchors(nn.Module):
    """Keeps a grid for the last size, as detectors' heads do, and recomputes it when the size changes."""

    def __init__(self, remembers: str = "shape") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, 2, 1)
        self.remembers = remembers
        self.shape: Any = None

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        if self.shape is None or (self.remembers == "shape" and self.shape != features.shape):
            height, width = features.shape[2:]
            self.grid = torch.arange(height)[:, None] * 100.0 + torch.arange(width)[None]
            self.shape = features.shape
        return features + self.grid


class Branching(nn.Module):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.conv, self.most = nn.Conv2d(3, 4, 3, padding=1), most

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        return features * 2 if image.shape[2] > self.most else features


def test_a_kept_grid_is_computed_anew_in_the_file(tmp_path: Path) -> None:
    model, path = Anchors().eval(), tmp_path / "a.onnx"
    model(EXAMPLE[0])  # it comes to the export with the grid of its example
    options = ExportOptions(dynamic_size=True, dynamic_batch=True)
    report = onnx_from_module(model, EXAMPLE, path, options)
    assert report.max_relative_error < 1e-5
    file = load_onnx(path)
    (given,) = file.graph.input
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    assert file.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for shape in ((1, 3, 64, 64), (2, 3, 96, 128), (5, 3, 32, 160), (1, 3, 65, 63)):
        image = torch.rand(shape)
        assert max_relative_error(tensor_leaves(model(image)), run_onnx(file, [image.numpy()])) < 1e-5, shape


def test_dynamic_batch_with_an_example_of_that_batch(tmp_path: Path) -> None:
    """Traced at the batch it has just run at, the model would keep that batch's grid."""
    model, path = Anchors().eval(), tmp_path / "b.onnx"
    onnx_from_module(model, (torch.rand(2, 3, 16, 16),), path, ExportOptions(dynamic_batch=True))
    image = torch.rand(4, 3, 16, 16)
    assert max_relative_error([model(image)], run_onnx(load_onnx(path), [image.numpy()])) < 1e-5


def test_a_forward_that_runs_at_one_size_only_is_refused_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot have a dynamic size.*\(at .*test_export_dynamic\.py:\d+\)"):
        onnx_from_module(Anchors("nothing").eval(), EXAMPLE, tmp_path / "m.onnx", OPEN)
    with pytest.raises(UserError, match=r"images \(N, C, H, W\)"):
        onnx_from_module(nn.Linear(4, 4), (torch.rand(2, 4),), tmp_path / "m.onnx", OPEN)
    assert not list(tmp_path.iterdir())


def test_a_literal_size_is_refused_with_its_line_and_module(tmp_path: Path) -> None:
    class Inner(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * len(range(image.shape[3]))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, image: Tensor) -> Tensor:
            return self.inner(image)

    message = r"Outer cannot be.*dynamic size: the line .*dynamic\.py:\d+ in inner works only if width is 128\."
    with pytest.raises(UserError, match=message):
        onnx_from_module(Outer(), EXAMPLE, tmp_path / "m.onnx", OPEN)
    assert not list(tmp_path.iterdir())


def test_a_branch_on_the_size_is_found_away_from_the_sizes_that_are_checked(tmp_path: Path) -> None:
    """At 64, 96 and 128 rows the branch is the same; at 32 it is not."""
    with pytest.raises(UserError, match=r"decides by the size.*assumes height > 40.*at 32×32.*dynamic\.py:\d+"):
        onnx_from_module(Branching(40).eval(), EXAMPLE, tmp_path / "m.onnx", OPEN)
    assert not list(tmp_path.iterdir())
    onnx_from_module(Branching(40).eval(), EXAMPLE, tmp_path / "fixed.onnx")


def test_what_the_trace_assumes_and_no_size_breaks_stays_silent(tmp_path: Path) -> None:
    """Equal maps before a sum, a kept grid at the example's own size: the assumptions hold wherever the module runs."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 3, 3, 2, 1), nn.Upsample(scale_factor=2)

        def forward(self, image: Tensor) -> Tensor:
            return self.up(self.down(image)) + image

    report = onnx_from_module(Pyramid().eval(), EXAMPLE, tmp_path / "m.onnx", OPEN)
    assert not [w for w in report.warnings if "module runs" in w]


def test_a_file_that_does_not_run_at_a_small_size_says_so(tmp_path: Path) -> None:
    class Best(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            rows = image.mean(1).flatten(1)
            return rows.topk(2048, 1).values if rows.shape[1] > 2048 else rows[:, :2048] * 1.0

    report = onnx_from_module(Best(), EXAMPLE, tmp_path / "m.onnx", OPEN)
    assert any(w.startswith("at 32×32 the module runs and the ONNX model does not") for w in report.warnings)


def test_command_and_engine_with_a_range_of_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()).eval()\n"
    )
    path, model = tmp_path / "m.onnx", f"{tmp_path / 'net.py'}:make"
    flags = ["--input", "1x3x64x64", "--out", str(path), "--dynamic-size", "--dynamic-batch", "--json"]
    assert main(["export", model, *flags]) == 0
    assert json.loads(capsys.readouterr().out)["max_relative_error"] < 1e-5
    pytest.importorskip("tensorrt_rtx")
    from channelcut.engine import tensorrt_rtx

    sizes = ((32, 32), (64, 96), (128, 160))
    options = EngineOptions(capability="sm89", resolution=sizes, batch=(1, 2, 4))
    report = tensorrt_rtx.build(path, tmp_path / "m.engine", options)
    assert report.batch == (1, 2, 4) and (tmp_path / "m.engine").stat().st_size > 0
    with pytest.raises(UserError, match=r"open along axes \[0, 2, 3\].*--size"):
        tensorrt_rtx.build(path, tmp_path / "n.engine", EngineOptions(capability="sm89"))
    assert not (tmp_path / "n.engine").exists() and len(onnx.load(str(path)).graph.input) == 1


def test_sizes_to_try_are_the_smallest_that_break_an_assumption() -> None:
    axes = OpenAxes(batch=False, size=True)
    example = (torch.rand(1, 3, 640, 640),)
    size = "L['inputs'][0].size()"
    told = SimpleNamespace(_guards_code=[f"{size}[2] > 300", f"{size}[3] % 2 == 0", f"{size}[2] != 1000", "never(1)"])
    probes = guard_probes(told, example, axes)
    assert [(guard, tuple(p.shape[2:])) for guard, (p,) in probes] == [
        (f"{size}[2] > 300", (32, 32)),  # and "never(1)", which cannot be told
        (f"{size}[3] % 2 == 0", (32, 641)),
    ]
    assert len(guard_probes(SimpleNamespace(), example, axes)) == 6, "a torch that does not tell its assumptions"
    assert guard_probes(told, example, OpenAxes(batch=True, size=False)) == []
