"""The layers of a deployed file: which parameter of the network each weight is, and along which axis it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.bench.layers.reading import read_deployed
from channelcut.cost.measured import slot_shares

EXAMPLE = torch.rand(2, 3, 16, 16)


class Tokens(nn.Module):
    """A convolution, attention and linear layers, as transformers have them; and a product by a weight of (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.mixed = nn.Parameter(torch.randn(32, 40) / 6)
        self.head = nn.Linear(40, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return self.head(torch.relu(x @ self.mixed).mean(1))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Tokens().eval()


def widths_in(path: Path) -> list[tuple[int, int]]:
    """What each weight of a file reads and writes, in the order in which it runs."""
    graph = onnx.load(path).graph
    shapes = {w.name: tuple(w.dims) for w in graph.initializer}
    found = []
    for node in graph.node:
        shape = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        if node.op_type in ("Conv", "MatMul", "Gemm") and len(shape) > 1:
            transposed = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
            found.append((shape[1], shape[0]) if transposed else (shape[0], shape[1]))
    return found


def test_linear_layers_are_found_behind_the_exporters_transposition(model: nn.Module, tmp_path: Path) -> None:
    groups = cc.analyze(model, EXAMPLE)
    cc.export(model, tmp_path / "whole.onnx", EXAMPLE)
    found = read_deployed(tmp_path / "whole.onnx", groups)
    assert not found.notes
    names = [layer.name for layer in found.layers]
    assert {"patches.weight", "up.weight", "down.weight", "mixed", "head.weight"} < set(names)
    assert len(set(names)) == len(names)


def test_the_widths_of_a_cut_file_are_those_that_were_read(model: nn.Module, tmp_path: Path) -> None:
    groups = cc.analyze(model, EXAMPLE)
    cc.export(model, tmp_path / "whole.onnx", EXAMPLE)
    result = cc.prune(model, EXAMPLE, macs=0.7)
    cc.export(result, tmp_path / "cut.onnx", EXAMPLE)
    found = read_deployed(tmp_path / "whole.onnx", groups)
    widths = np.array([1.0, *(group.kept for group in result.plan.groups)])
    shares = slot_shares(found.slots, groups) @ widths
    full = [layer.extent.full for layer in found.layers]
    assert len({group.kept for group in result.plan.groups}) == 2, "the cut narrows two groups to different shares"
    told = [
        (round(float(layer.reads @ shares) * width.cin), round(float(layer.writes @ shares) * width.cout))
        for layer, width in zip(found.layers, full, strict=True)
    ]
    assert told == widths_in(tmp_path / "cut.onnx")
