"""A front: YOLO11n at five shares of its time, compensated, beside YOLO26n and YOLOv8n as they are.

    CHANNELCUT_ASSETS=... python -m benchmarks.front --out FOLDER     # results/front.json, .md; goes on in FOLDER

What `channelcut sweep` makes, at 320 px: cut by the measured time of this machine's layers (ONNX Runtime, one thread),
chosen and compensated by the train half of coco128, and evaluated on its val half, all three networks with their COCO
weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import write_rows
from benchmarks.ultralytics_map import coco_model, copied, data_folder
from benchmarks.zoo.data import split_files
from channelcut.bench.environment import environment
from channelcut.options import CompressOptions, PruneOptions
from channelcut.report.front import front_rows
from channelcut.sources import Source, open_source
from channelcut.sweep import SweepOptions, sweep

RESULTS = Path(__file__).parent / "results" / "front"
TARGETS, SIZE = (0.9, 0.8, 0.7, 0.6, 0.5), 320
CUT, BESIDE = "yolo11n", ("yolo26n", "yolov8n")


def yolo11n() -> tuple[Any, torch.Tensor]:
    """With its COCO weights, and an example."""
    return coco_model("yolo11n"), torch.rand(1, 3, SIZE, SIZE)


def yolo26n() -> tuple[Any, torch.Tensor]:
    """The same of another one."""
    return coco_model("yolo26n"), torch.rand(1, 3, SIZE, SIZE)


def yolov8n() -> tuple[Any, torch.Tensor]:
    """The same of a third one."""
    return coco_model("yolov8n"), torch.rand(1, 3, SIZE, SIZE)


def source_of(network: str) -> Source:
    """A network of this file, as a user's own file would give it."""
    return open_source(f"{__file__}:{network}", None, trust=False, inputs=())


def main() -> None:
    """Make the points that are missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweep")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = given.out.with_name(f"{given.out.name}-data")  # a sweep goes on where its data set has the same name
    file = Path(data_folder(data))
    copied(split_files("coco128", "train"), data, "train")
    file.write_text(file.read_text().replace("train: images/val", "train: images/train"))
    compress = CompressOptions(PruneOptions(calibration=str(file)), capabilities=())
    asked = SweepOptions(compress, TARGETS, tuple(map(source_of, BESIDE)))
    found = sweep(source_of(CUT), given.out, asked)
    points = [point | {"name": point["name"].rpartition(":")[2]} for point in found["points"]]
    said = {"command": "python -m benchmarks.front --out FOLDER", "environment": environment(1), "size": SIZE}
    write_rows(RESULTS, said | {"rows": points}, table(points))


def table(points: list[dict[str, Any]]) -> str:
    """The points in Markdown."""
    heads, rows = front_rows(points)
    lines = [
        "# A front: YOLO11n beside its siblings",
        "",
        "`python -m benchmarks.front --out FOLDER`: 320 px, ONNX Runtime, one thread; time is the share of YOLO11n's,",
        "in processor time of the thread that works; mAP50-95 on the 128 images of coco128 val, by Ultralytics'",
        "validator.",
        "",
        f"| {' | '.join(head or 'Kind' for head in heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
