"""The parity table: pruned detectors from torch to their files, on real images where the assets are there.

    python -m benchmarks.parity                 # writes benchmarks/results/parity.json and parity.md; resumes
    python -m benchmarks.parity --fresh nanodet_m

NanoDet-m, YOLOv5n and FastestDet have real weights and see coco128 images (`CHANNELCUT_ASSETS`); Ultralytics' models
are built from their YAML with random weights and see the same images. No engine is run: that needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from benchmarks.zoo.data import require_assets
from benchmarks.zoo.registry import ENTRIES
from channelcut.adapters import Source, open_source
from channelcut.bench.environment import environment
from channelcut.command_verify import verify_model
from channelcut.compress import CompressOptions, compress
from channelcut.core.files import write_atomically

RESULTS = Path(__file__).parent / "results"
ULTRALYTICS = ("yolo26n", "yolo11n")
REAL = ("nanodet_m", "yolov5n", "fastestdet")
IMAGES = 8


def measure(name: str) -> dict[str, Any]:
    """The chain of one network, pruned to 0.7 of its MACs and recalibrated on 64 images."""
    from channelcut.recover import load_images

    torch.set_num_threads(1)
    assets = require_assets()
    folder_of_images = assets / "coco128" / "images"
    if name in ULTRALYTICS:
        source, shape = open_source(f"ultralytics:{name}.yaml"), (1, 3, 640, 640)
        torch.manual_seed(0)
        model = source.build()
        images, _ = load_images(folder_of_images, (3, 640, 640), limit=IMAGES)
        calibration: Any = None
    else:
        entry = ENTRIES[name]
        model = entry.load(assets)
        calibration = entry.calibration(64)
        images, shape = calibration[:IMAGES], (1, *calibration.shape[1:])
    options = CompressOptions(
        shape, {"macs": 0.7}, {"align": 8, "calibration": calibration}, capabilities=(), measure=False
    )
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        compress(Source(name, lambda: model, shape), out, options)
        import channelcut as cc

        smaller = cc.load(lambda: model, out)
        batches = [images[i : i + 1].float().numpy() for i in range(len(images))]
        found = verify_model(out, smaller.eval(), batches, Namespace(score=0.25))
    return {**found, "network": name, "inputs": f"{len(images)} coco128 images", "environment": environment(1)}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| network | stage | compared with | max | mean | relative | cosine | boxes matched | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for row in found["stages"]:
            if row["status"] == "not run":
                continue
            d = row["step"]
            boxes = "–" if d["boxes"] is None else f"{d['boxes']:.1%} of {d['boxes_asked']}"
            numbers = f"{d['max_abs']:.1e} | {d['mean_abs']:.1e} | {d['max_relative']:.1e} | {d['cosine']:.7f}"
            lines.append(
                f"| {name} | {row['stage']} | {row['compared_with']} | {numbers} | {boxes} | {row['status']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing; the results are written after every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*REAL, *ULTRALYTICS])
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    flags = parser.parse_args()
    path = RESULTS / "parity.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in track(flags.networks, "parity"):
        if name in results and not flags.fresh:
            continue
        results[name] = measure(name)
        write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(RESULTS / "parity.md", table(results).encode())


if __name__ == "__main__":
    main()
