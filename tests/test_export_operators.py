"""Operators that torch's exporter lacks, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.onnx_out.module import ExportOptions, onnx_from_module


class Pooled(nn.Module):
    """A convolution and the largest values of a grid of windows."""

    def __init__(self, windows: Any, indices: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveMaxPool2d(windows, return_indices=indices)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.conv(x))
        return pooled[0] + pooled[1] if isinstance(pooled, tuple) else pooled


@pytest.mark.parametrize(
    ("size", "windows"),
    [((32, 32), 3), ((30, 20), (3, 5)), ((7, 9), (7, 2)), ((5, 6), 1), ((16, 17), (None, 3))],
)
def test_windows_of_unequal_size_have_a_form(size: tuple[int, int], windows: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = onnx_from_module(Pooled(windows).eval(), (torch.randn(1, 3, *size),), tmp_path / "pooled.onnx")
    assert report.max_relative_error < 1e-5


def test_the_batch_of_windows_may_be_open(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = ExportOptions(dynamic_batch=True)
    path = tmp_path / "pooled.onnx"
    assert onnx_from_module(Pooled(3).eval(), (torch.randn(1, 3, 16, 16),), path, options).max_relative_error < 1e-5


def test_windows_of_an_open_size_and_positions_of_maxima_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pooled.onnx"
    with pytest.raises(cc.UserError, match="cannot be exported to ONNX"):
        onnx_from_module(Pooled(3, indices=True).eval(), (torch.randn(1, 3, 16, 16),), path)
    with pytest.raises(cc.UserError, match="whose size is open"):
        onnx_from_module(Pooled(3).eval(), (torch.randn(1, 3, 16, 16),), path, ExportOptions(dynamic_size=True))
    assert not path.exists()
