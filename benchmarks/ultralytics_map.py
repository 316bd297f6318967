"""mAP of YOLO26n, YOLO11n and YOLOv8n with COCO weights on coco128 val, original and cut: modules and ONNX files.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.ultralytics_map    # results/ultralytics_map.json, .md

Each network is evaluated three ways: the module by `channelcut.adapters.ultralytics.evaluation.evaluate`, the module by
Ultralytics' own `YOLO(...).val`, and the ONNX file by `YOLO("model.onnx").val`; YOLO26n with both of its heads. Images
are letterboxed to the whole size (`rect=False`), for modules and files alike. Cuts are as cut, but for
those with images, which are compensated. A row that has been written is not measured again, so that the script can be
called anew where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from safetensors.torch import load_file

import channelcut as cc
from benchmarks.rows import rows_in, write_rows
from benchmarks.zoo.data import coco128, fit_image, label_of, require_assets, split_files
from channelcut.adapters.ultralytics.evaluation import evaluate
from channelcut.bench.environment import environment
from channelcut.core.deployed import Deploy

RESULTS = Path(__file__).parent / "results" / "ultralytics_map"
CASES = (("yolo26n", None), ("yolo26n", False), ("yolo11n", None), ("yolov8n", None))
CUTS: dict[str, dict[str, Any]] = {
    "original": {},
    "keep 0.9": {"keep": 0.9},
    "macs 0.9": {"macs": 0.9},
    "macs 0.9, 64 images": {"macs": 0.9, "images": 64, "passes": 1},  # ranked by them, and compensated
}
# Of the assets' README: mAP on the same images by another evaluator (pycocotools).
REFERENCE = {
    416: {"yolov8n": 0.403, "yolo11n": 0.400, "yolo26n": 0.420},
    640: {"yolov8n": 0.423, "yolo11n": 0.436, "yolo26n": 0.449},
}
ALIGN = 8


def main() -> None:
    """Measure what is missing, a row at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[416])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_in(RESULTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data_folder(folder)
        for size in given.sizes:
            for network, nms in CASES:
                for cut in CUTS:
                    key = f"{network} nms={nms} {cut} {size}"
                    if key not in rows:
                        rows[key] = _row(network, nms, cut, size, data)
                        _write(rows)
                        print(key, json.dumps(rows[key]), file=sys.stderr, flush=True)
    _write(rows)


def data_folder(folder: Path, files: Sequence[Path] = ()) -> str:
    """Photographs with their labels, by default of the split, and a data.yaml.

    They are copies, since Ultralytics' own calls write a cache beside the labels.
    """
    from ultralytics.utils import ROOT, YAML

    copied(files or split_files("coco128", "val"), folder, "val")
    names = YAML.load(ROOT / "cfg" / "datasets" / "coco.yaml")["names"]
    lines = [f"path: {folder}", "train: images/val", "val: images/val", "names:"]
    lines += [f"  {index}: {name}" for index, name in names.items()]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n")
    return str(folder / "data.yaml")


def copied(files: Sequence[Path], folder: Path, split: str) -> None:
    """Copy photographs and their labels into a folder of YOLO's layout that may be written to."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / "images" / split / file.name)
        if (label := label_of(file)).is_file():
            shutil.copyfile(label, folder / "labels" / split / label.name)


def coco_model(network: str) -> Any:
    """A stock network of Ultralytics with its COCO weights, in evaluation mode."""
    from ultralytics import YOLO

    model: Any = YOLO(f"{network}.yaml").model
    tensors = load_file(require_assets() / "weights" / f"{network}_coco.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def _row(network: str, nms: bool | None, cut: str, size: int, data: str) -> dict[str, Any]:
    from ultralytics import YOLO

    start = process_time()
    model = coco_model(network)
    x, deploy = torch.rand(1, 3, size, size), Deploy(nms)
    asked = dict(CUTS[cut])
    if count := asked.pop("images", 0):
        seen = [fit_image(sample.image, size, "centre", 114)[0] / 255 for sample in coco128("train", count)]
        asked["calibration"] = torch.stack(seen)
    result = cc.prune(model, x, align=ALIGN, deploy=deploy, **asked) if asked else None
    subject = model if result is None else result.model
    row: dict[str, Any] = {"network": network, "nms": nms, "cut": cut, "size": size}
    if result is not None:
        row["macs"], row["params"] = (
            getattr(result.plan.after, kind) / getattr(result.plan.before, kind) for kind in ("macs", "params")
        )
    row["module"] = evaluate(subject, data, imgsz=size, nms=nms)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if result is None:
            torch.save({"model": model}, folder / "model.pt")
        else:
            cc.ultralytics.save_checkpoint(result, folder / "model.pt")
        cc.export(result or model, folder / "model.onnx", x, deploy=deploy)
        head = {} if nms is None else {"nms": nms}
        row["theirs"] = _theirs(YOLO(folder / "model.pt"), data, size, folder, head)
        row["onnx"] = _theirs(YOLO(folder / "model.onnx", task="detect"), data, size, folder, {})
    return {**row, "process_s": process_time() - start}


def _theirs(model: Any, data: str, size: int, folder: Path, asked: dict[str, Any]) -> dict[str, float]:
    found = model.val(
        data=data, imgsz=size, rect=False, plots=False, verbose=False, workers=0, device="cpu", project=str(folder),
        **asked,
    ).box  # fmt: skip
    return {"map": float(found.map), "map50": float(found.map50)}


def _write(rows: dict[str, Any]) -> None:
    import onnxruntime
    import ultralytics

    said: dict[str, Any] = {"command": "OMP_NUM_THREADS=1 python -m benchmarks.ultralytics_map", "align": ALIGN}
    said |= {"ultralytics": ultralytics.__version__, "onnxruntime": onnxruntime.__version__}
    content = {**said, "environment": environment(1), "rows": rows}
    write_rows(RESULTS, content, _table(content))


def _table(content: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "# mAP on coco128 val",
        "",
        f"`{content['command']}`,",
        f"Ultralytics {content['ultralytics']}, ONNX Runtime {content['onnxruntime']}, one core.",
        "COCO weights, 128 held-out images, letterboxed to the whole size (`rect=False`); cuts are as cut (with",
        "images: compensated), widths in",
        f"multiples of {content['align']}. Module: channelcut's evaluation; theirs: `YOLO(...).val` of the module;",
        "ONNX: `YOLO('model.onnx').val` of the drop-in. Reference: pycocotools on the raw head.",
        "",
        "| Network | Head (`nms`) | Size | Cut | MACs | Module mAP / AP50 | Theirs | ONNX | ONNX - module | Ref. |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"].values():
        cells = [f"{row[kind]['map']:.3f} / {row[kind]['map50']:.3f}" for kind in ("module", "theirs", "onnx")]
        known = REFERENCE[row["size"]][row["network"]] if row["cut"] == "original" else None
        lines.append(
            f"| {row['network']} | {row['nms']} | {row['size']} | {row['cut']} | {row.get('macs', 1):.3f} | "
            f"{' | '.join(cells)} | {row['onnx']['map'] - row['module']['map']:+.4f} | {known or ''} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
