"""ONNX in: how fast a file becomes a module, how exactly, and how much of it can go, beside the PyTorch original.

    python -m benchmarks.onnx_in        # writes benchmarks/results/onnx_in.json and onnx_in.md

The files are YOLOX-nano and FastestDet from CHANNELCUT_ASSETS, and Ultralytics' yolo26n, built from its YAML with
random weights and exported here at 160×160, with its feature maps and without. Errors are relative, on pixels for
YOLOX-nano (it takes 0 to 255) and on noise in [0, 1) for the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import channelcut as cc
from benchmarks.zoo.data import require_assets
from benchmarks.zoo.registry import ENTRIES
from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically
from channelcut.onnx_out.comparison import max_relative_error, tensor_leaves
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.module import onnx_from_module
from channelcut.onnx_out.parity import run_onnx
from channelcut.sources import open_source

RESULTS = Path(__file__).parent / "results"


class Detections(nn.Module):
    """The decoded detections alone, as a deployment exports them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the first output."""
        first: Tensor = self.model(x)[0]
        return first


def measure(name: str, path: Path, original: nn.Module | None, scale: float = 1.0) -> dict[str, Any]:
    """One row: import, parity, and what keep=0.5 leaves."""
    start = time.perf_counter()
    module = cc.from_onnx(path)
    seconds = time.perf_counter() - start
    inputs = tuple(torch.rand_like(x) * scale for x in cc.example_inputs_from_onnx(path))
    with torch.no_grad():
        mine = tensor_leaves(module(*inputs))
    theirs = run_onnx(load_onnx(path), [x.numpy() for x in inputs])
    result = cc.prune(module, inputs, keep=0.5)
    row = {
        "file": name,
        "import_s": seconds,
        "error": max_relative_error(mine, theirs),
        "proof_error": result.proof.max_relative_error,
        "params_left": result.plan.params_ratio,
        "macs_left": result.plan.after.macs,
    }
    if original is not None:
        direct = cc.prune(original, inputs, keep=0.5)
        row |= {"original_params_left": direct.plan.params_ratio, "original_macs_left": direct.plan.after.macs}
    return row


def rows() -> list[dict[str, Any]]:
    """Measure every file."""
    weights = require_assets() / "weights"
    found = [measure("yolox_nano.onnx (416×416)", weights / "yolox_nano.onnx", None, 255.0)]
    fastestdet = ENTRIES["fastestdet"].build().eval()
    found.append(measure("fastestdet.onnx (352×352)", weights / "fastestdet.onnx", fastestdet))
    yolo = open_source("ultralytics:yolo26n.yaml").build()
    with tempfile.TemporaryDirectory() as folder:
        for text, model in (("with its feature maps", yolo), ("its detections alone", Detections(yolo))):
            path = Path(folder) / "yolo26n.onnx"
            onnx_from_module(model, (torch.rand(1, 3, 160, 160),), path)
            found.append(measure(f"yolo26n, {text} (160×160)", path, model))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| file | import | error against ONNX Runtime | proof, error | left at keep=0.5 | the PyTorch original |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        mine = f"{row['params_left']:.2f} of the parameters, {row['macs_left'] / 1e6:.1f} M MACs"
        theirs = "–"
        if "original_params_left" in row:
            theirs = f"{row['original_params_left']:.2f}, {row['original_macs_left'] / 1e6:.1f} M MACs"
        errors = f"{row['error']:.0e} | {row['proof_error']:.0e}"
        lines.append(f"| {row['file']} | {row['import_s']:.1f} s | {errors} | {mine} | {theirs} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything and write the results."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = rows()
    data = {"command": "python -m benchmarks.onnx_in", "environment": environment(1), "rows": found}
    write_atomically(RESULTS / "onnx_in.json", json.dumps(data, indent=1, default=str).encode())
    head = f"Made by `python -m benchmarks.onnx_in` on {environment(1)}.\n\n"
    write_atomically(RESULTS / "onnx_in.md", (head + table(found)).encode())
    print(table(found))


if __name__ == "__main__":
    main()
