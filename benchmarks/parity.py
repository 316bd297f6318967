"""The parity table: detectors from torch to their files, original and pruned, in every precision, on real images.

    CHANNELCUT_ASSETS=... python -m benchmarks.parity      # writes benchmarks/results/parity.json and .md; resumes
    python -m benchmarks.parity --fresh nanodet_m

NanoDet-m, YOLOv5n and FastestDet have real weights, see the first images of coco128 val, and are converted to fp16 and
int8, on 64 images of coco128 train; their boxes are decoded, suppressed and matched. Ultralytics' models are built from
their YAML with random weights, in fp32 only, and see the same images. OpenVINO is a stage where it is installed. No
engine is run: that needs a GPU. What a conversion refuses is a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.zoo import fastestdet, metrics, nanodet, yolov5
from benchmarks.zoo.data import coco128, require_assets
from benchmarks.zoo.registry import ENTRIES, MAX_IOU
from channelcut.adapters import deployed_form
from channelcut.bench.environment import environment
from channelcut.compress import ORIGINAL, PRUNED, compress
from channelcut.core.deployed import DEFAULT
from channelcut.core.errors import ChannelcutError
from channelcut.core.files import write_atomically
from channelcut.core.specs import InputSpec
from channelcut.onnx_out.files import copy_onnx
from channelcut.options import CompressOptions, PruneOptions
from channelcut.parity import Matching, compare_files
from channelcut.precision.convert import convert_precision
from channelcut.sources import Source, open_source

RESULTS = Path(__file__).parent / "results"
ULTRALYTICS = ("yolo26n", "yolo11n")
REAL: dict[str, Any] = {"nanodet_m": nanodet, "yolov5n": yolov5, "fastestdet": fastestdet}
PRECISIONS = ("fp16", "int8")
IMAGES, CALIBRATION, SCORE = 8, 64, 0.25


def measure(name: str) -> dict[str, Any]:
    """The chains of one network, original and pruned to 0.7 of its MACs and recalibrated."""
    torch.set_num_threads(1)
    assets = require_assets()
    photographs = list(coco128("val", IMAGES))
    calibration: Any = None
    decode = None
    if name in ULTRALYTICS:
        source, shape = open_source(f"ultralytics:{name}.yaml"), (1, 3, 640, 640)
        torch.manual_seed(0)
        model = source.build()
        images = [yolov5.preprocess(sample.image, 640)[0] for sample in photographs]
    else:
        entry = ENTRIES[name]
        model, shape = entry.load(assets), entry.input_shape
        calibration = entry.calibration(CALIBRATION)
        images = [REAL[name].preprocess(sample.image, size=shape[3])[0] for sample in photographs]
        decode = _decoder(REAL[name].decode)
    batches = [image[None].float().numpy() for image in images]
    options = CompressOptions(PruneOptions(macs=0.7, align=8, calibration=calibration), capabilities=(), measure=False)
    sides = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        compress(Source(name, lambda: model, (InputSpec(shape),)), out, options)
        import channelcut as cc

        for side, file, module in (("original", ORIGINAL, model), ("pruned", PRUNED, cc.load(lambda: model, out))):
            folder = Path(temporary) / side
            copy_onnx(out / file, folder / PRUNED)
            refused = _converted(folder, calibration)
            form = deployed_form(module.eval(), (torch.from_numpy(batches[0]),), DEFAULT)
            found = compare_files(folder, form, batches, matching=Matching(SCORE, decode=decode, real=True))
            for row in found["stages"]:
                row["reason"] = refused.get(row["stage"], row["reason"])
            sides[side] = found
    return {
        "network": name,
        "inputs": f"{len(batches)} images of coco128 val",
        "weights": "random" if name in ULTRALYTICS else "real",
        "sides": sides,
        "environment": environment(1),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "Made by `python -m benchmarks.parity`. `boxes`: share of boxes, decoded and suppressed, of score 0.25 and",
        "more (or an image's twenty best where none reaches it, as of pruned networks, which are not trained after the",
        "cut) that have a partner of their class with IoU of at least 0.9 on the other side, both ways round.",
        "",
        "| network | side | stage | compared with | max | mean | relative | cosine | boxes | against torch | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for side, chain in found["sides"].items():
            for row in chain["stages"]:
                head = f"| {name} | {side} | {row['stage']} |"
                if row["status"] == "not run":
                    if row["stage"] in PRECISIONS and found["weights"] == "real":
                        lines.append(f"{head} – | – | – | – | – | – | – | not made: {row['reason'][:120]} |")
                    continue
                d = row["step"]
                numbers = f"{d['max_abs']:.1e} | {d['mean_abs']:.1e} | {d['max_relative']:.1e} | {d['cosine']:.7f}"
                reason = f": {row['reason']}" if row["reason"] else ""
                lines.append(
                    f"{head} {row['compared_with']} | {numbers} | {_boxes(d)} | {_boxes(row['reference'])} | "
                    f"{row['status']}{reason} |"
                )
    return "\n".join(lines) + "\n"


def _converted(folder: Path, calibration: Any) -> dict[str, str]:
    """Write the precisions beside model.onnx; returns the reasons of those that were refused."""
    refused = {}
    for precision in PRECISIONS if calibration is not None else ():
        out = folder / f"model.{precision}.onnx"
        try:
            convert_precision(folder / PRUNED, out, precision, calibration.float().numpy())
        except ChannelcutError as problem:
            refused[precision] = " ".join(str(problem).split())[:300]
    return refused


def _decoder(decode: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Rows (K, 6) of every image of a batch, as the network's own decoding and the zoo's suppression leave them."""

    def rows(outputs: Mapping[str, Any]) -> list[Any]:
        found = []
        for boxes, scores, classes in decode([torch.from_numpy(np.asarray(o)) for o in outputs.values()]):
            kept = metrics.nms(boxes, scores, classes, MAX_IOU)
            found.append(np.concatenate([boxes[kept], scores[kept, None], classes[kept, None]], axis=1))
        return found

    return rows


def _boxes(difference: dict[str, Any]) -> str:
    return "–" if difference["boxes"] is None else f"{difference['boxes']:.1%} of {difference['boxes_asked']}"


def main() -> None:
    """Measure what is missing; the results are written after every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*REAL, *ULTRALYTICS])
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--out", type=Path, default=RESULTS / "parity.json")
    flags = parser.parse_args()
    results: dict[str, Any] = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    for name in track(flags.networks, "parity"):
        if "sides" in results.get(name, {}) and not flags.fresh:
            continue
        results[name] = measure(name)
        write_atomically(flags.out, (json.dumps(results, indent=1) + "\n").encode())
        measured = {n: r for n, r in results.items() if "sides" in r}
        write_atomically(flags.out.with_suffix(".md"), table(measured).encode())


if __name__ == "__main__":
    main()
