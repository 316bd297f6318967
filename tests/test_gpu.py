"""What runs on a GPU alone. Everything else of these paths is tested on the CPU, or on stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import channelcut as cc
from channelcut.bench.layers.torch import TorchClock
from channelcut.cost.kinds import Entry, LayerKind, Widths
from channelcut.engine import torch_cuda
from channelcut.engine.protocol import EngineOptions
from tests.test_engine import convnet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
KIND = LayerKind("Conv", (1,), (8, 8), (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)), ("strides", (1, 1))), ())


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()


def test_graphs_replay_what_the_cpu_computes(tmp_path: Path) -> None:
    source = convnet(tmp_path / "net.onnx")
    here = torch_cuda.runner_from_onnx(source, EngineOptions(), "cpu")
    image = {name: np.random.default_rng(0).random(shape).astype(kind) for name, (shape, kind) in here.inputs.items()}
    for precision, tolerance in (("fp32", 1e-3), ("fp16", 2e-2)):
        there = torch_cuda.load(source, EngineOptions(precision=precision, graph=True))
        for name, value in here(image).items():
            assert np.allclose(there(image)[name], value, atol=tolerance * np.abs(value).max())


def test_a_graph_keeps_what_it_reads() -> None:
    """A lone layer is held by nothing but its run: later captures and their memory must not take its weights."""
    clock = TorchClock("fp16")
    runs = [clock.prepared(Entry(KIND, Widths(64, width))) for width in (16, 32, 48)]
    torch.cuda.empty_cache()
    assert all(0 < run() < 10 for run in runs for _ in range(3))
    torch.cuda.synchronize()


def test_algorithms_are_tried_within_alone() -> None:
    before = torch.backends.cudnn.benchmark
    with torch_cuda.tried_algorithms():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before


def test_a_cut_is_restored_and_taught_there_as_here() -> None:
    model, images = net(), torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    asked: dict[str, Any] = {"keep": 0.5, "calibration": images, "importance": "l2"}
    result = cc.prune(model, images[:1], **asked)
    assert result.compensation is not None and result.compensation.refitted
    options = cc.RecoverOptions(batch=16, learning_rate=1e-3, precision="fp32")
    found = cc.recover(model, result, images, epochs=2, options=options)
    assert found.recovery is not None and found.recovery.after <= found.recovery.before
    assert next(found.model.parameters()).device.type == "cpu"
