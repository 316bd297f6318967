"""The files that channelcut writes of Ultralytics' networks beside those of Ultralytics' own exporter, on real images.

    CHANNELCUT_ASSETS=... python -m benchmarks.deployed     # writes benchmarks/results/deployed.json and deployed.md

Raw outputs: the largest difference of any channel, in units of that channel's range. Outputs that are chosen (top-k,
suppression): the share of rows with a partner on the other side (same class, IoU of at least 0.9), both ways round; of
RT-DETR's queries, which rounding orders, rows that agree to 1e-3.
Metadata: the keys whose values differ, but for the date. A row that is there is not made again.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import channelcut as cc
from benchmarks.zoo.data import require_assets
from channelcut.bench.environment import environment
from channelcut.core.deployed import Deploy
from channelcut.core.files import write_atomically
from channelcut.engine.onnxruntime import load
from channelcut.parity.detections import agreement
from channelcut.recovery.images import Preprocessing, load_images

RESULTS = Path(__file__).parent / "results" / "deployed.json"
SIZE, IMAGES = 320, 8
DETECTORS = ("yolov8n", "yolo11n", "yolo26n")
ROWS = [
    *((name, nms) for name in DETECTORS for nms in (None, True)),
    ("yolo26n", False),
    *((f"{name}{task}", None) for name in DETECTORS for task in ("-seg", "-pose", "-obb", "-cls")),
    *((f"yolo26n{task}", False) for task in ("-seg", "-pose", "-obb")),
    ("rtdetr-l", None),
]


def network(name: str) -> tuple[Any, str]:
    """A model with its COCO weights where they are at hand, else with random ones."""
    from safetensors.torch import load_file
    from ultralytics import RTDETR, YOLO

    torch.manual_seed(0)
    model = (RTDETR if name.startswith("rtdetr") else YOLO)(f"{name}.yaml").model.eval()
    weights = require_assets() / "weights" / f"{name}_coco.safetensors"
    if not weights.is_file():
        return model, "random"
    model.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    return model, "COCO"


def theirs(model: Any, nms: bool | None) -> Path:
    """The file that Ultralytics' exporter writes into the present folder."""
    from ultralytics.engine.exporter import Exporter

    options: dict[str, Any] = {"format": "onnx", "imgsz": SIZE, "batch": 1, "device": "cpu", "verbose": False}
    return Path(Exporter(overrides=options | ({} if nms is None else {"nms": nms}))(model))


def properties(path: Path) -> dict[str, str]:
    """The metadata of a file, but for ours and the date."""
    found = {p.key: p.value for p in onnx.load(path).metadata_props}
    return {key: value for key, value in found.items() if key != "date" and not key.startswith("channelcut.")}


def compared(mine: Mapping[str, Any], other: Mapping[str, Any], *, chosen: bool) -> dict[str, float]:
    """How far two outputs of one image are apart."""
    found = {"error": 0.0, "matched": 1.0}
    for name, wanted in other.items():
        if chosen and name == "output0":
            rows = agreement(wanted[..., :6], mine[name][..., :6])
            assert rows is not None
            found["matched"] = min(found["matched"], rows[0])
            continue
        if wanted.ndim == 3 and wanted.shape[2] == 84 and wanted.shape[1] == 300:
            one, two = wanted[0], mine[name][0]
            found["matched"] = min(found["matched"], _partners(one, two), _partners(two, one))
            continue
        axis = 1 if wanted.ndim > 2 else 0
        channels, others = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (wanted, mine[name]))
        extent = np.maximum(np.ptp(channels, axis=1 if wanted.ndim > 2 else None), 1e-6)
        found["error"] = max(found["error"], float((np.abs(channels - others).max(1) / extent).max()))
    return found


def _partners(rows: Any, others: Any) -> float:
    """The share of RT-DETR's rows that are on the other side too, to 1e-3: rounding decides about their order."""
    return float(np.mean([np.abs(others - row).max(1).min() < 1e-3 for row in rows]))


def row(name: str, nms: bool | None, images: torch.Tensor) -> dict[str, Any]:
    """One network under one choice of the head."""
    model, weights = network(name)
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            report = cc.export(model, "ours.onnx", images[:1], deploy=Deploy(nms))
            path = theirs(model, nms)
            ours, wanted = properties(Path("ours.onnx")), properties(path)
            runners = load(Path("ours.onnx")), load(path)
        finally:
            os.chdir(before)
        chosen = nms is not None
        outputs = [[run({"images": image[None].numpy()}) for run in runners] for image in images]
        gaps = [compared(mine, other, chosen=chosen) for mine, other in outputs]
    arguments = [ast.literal_eval(said.pop("args")) for said in (ours, wanted)]
    return {
        "network": name,
        "nms": nms,
        "weights": weights,
        "outputs": list(report.output_names),
        "error": max(gap["error"] for gap in gaps),
        "matched": min(gap["matched"] for gap in gaps),
        "metadata": sorted({k for k in ours | wanted if ours.get(k) != wanted.get(k)} | _differing(*arguments)),
    }


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {f"args.{key}" for key in {**one, **other} if one.get(key) != other.get(key)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| network | nms | weights | outputs | error | rows matched | metadata that differs |", "|" + "---|" * 7]
    for r in rows:
        chosen = (r["nms"] is not None and len(r["outputs"]) == 1) or r["network"].startswith("rtdetr")
        error = "–" if chosen else f"{r['error']:.0e}"
        differs = ", ".join(r["metadata"]) or "none"
        cells = (
            r["network"],
            str(r["nms"]),
            r["weights"],
            ", ".join(r["outputs"]),
            error,
            f"{r['matched']:.1%}",
            differs,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make what is not there, and the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    folder = require_assets() / "coco128" / "images" / "val"
    images = load_images(folder, (3, SIZE, SIZE), Preprocessing("letterbox"), IMAGES)[0]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for name, nms in ROWS:
        if not any((r["network"], r["nms"]) == (name, nms) for r in rows):
            rows.append(row(name, nms, images))
            print(rows[-1], flush=True)
            write_atomically(RESULTS, json.dumps({"environment": environment(1), "rows": rows}, indent=1).encode())
    how = f"`CHANNELCUT_ASSETS=... python -m benchmarks.deployed`, {SIZE}×{SIZE}, {IMAGES} images of coco128 val."
    text = f"{(__doc__ or '').splitlines()[0]}\n\n{how}\n\n"
    RESULTS.with_suffix(".md").write_text(text + table(rows) + "\n")


if __name__ == "__main__":
    main()
