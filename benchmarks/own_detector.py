"""A user's own detector: YOLO26n fine-tuned on blood cells, cut to 0.6 and 0.4 of its MACs, and brought back.

    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.own_detector     # results/own_detector.json, .md
    CHANNELCUT_ASSETS=... OMP_NUM_THREADS=1 python -m benchmarks.own_detector --macs 0.6 --seeds 0 --ways recovered

Ways: `compensated` (205 unlabelled training images, no training), `recovered` (`cc.recover`, the uncut network as
teacher, no labels), `labelled` (the same, with the labels of `train` and Ultralytics' loss beside the teacher),
`trained` (Ultralytics' trainer, labels, from the compensated network) for a fifth of the epochs that made the uncut
one, and `scratch`: the same cut shape from drawn weights, Ultralytics' trainer, all of the epochs. Their cuts are
ranked by `taylor`, but where the way says `fisher`, which keeps more on the images of val, by `benchmarks.scores` and
by the trial of the default.
Everything is judged on the 72 test images, which nothing else reads, by the protocol of `benchmarks.zoo.registry`;
the interval is of the difference to the uncut network, the images drawn with replacement, both networks on the same
ones (Efron 1979, paired percentile bootstrap). A row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import channelcut as cc
from benchmarks.rows import rows_in, write_rows
from benchmarks.ultralytics_map import copied
from benchmarks.zoo import metrics, ultralytics_coco, yolov5
from benchmarks.zoo.data import read_image, require_assets, sample_of, split_files
from benchmarks.zoo.registry import detections
from channelcut.bench.environment import environment
from channelcut.core.result import PruneResult

RESULTS = Path(__file__).parent / "results" / "own_detector"
NAMES = ("RBC", "WBC", "Platelets")
SIZE, ALIGN, BATCH, EPOCHS, SHARE, DRAWS = 320, 8, 16, 14, 5, 1000
"""`EPOCHS` made the uncut network; recovery has one in `SHARE` of them."""
TAUGHT = ("train", "val")
MACS, SEEDS = (0.6, 0.4), (0, 1, 2)


def network() -> Any:
    """The uncut detector: YOLO26n whose class branches end in three channels, in evaluation mode."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo26n.yaml", verbose=False)
    head: Any = model.model[-1]
    for branches in (head.cv3, head.one2one_cv3):
        for branch in branches:
            branch[-1] = nn.Conv2d(branch[-1].in_channels, len(NAMES), 1)
    head.nc, head.no = len(NAMES), len(NAMES) + 4 * head.reg_max
    model.nc, model.names = len(NAMES), dict(enumerate(NAMES))
    model.yaml["nc"] = len(NAMES)
    return model.eval()


def trained() -> Any:
    """The uncut detector with its weights."""
    model = network()
    tensors = load_file(require_assets() / "weights" / "yolo26n_bccd.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model


def seen_files(*splits: str) -> list[Path]:
    """The images that rank, restore and teach (`train`), and by which a trainer chooses its epoch (`val`)."""
    return [file for split in splits or TAUGHT for file in split_files("bccd", split)]


def test_files() -> list[Path]:
    """The images that judge, which nothing is chosen by."""
    return split_files("bccd", "test")


class Bench:
    """What all rows share: the uncut network, its images, and what it finds in the test images."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.model = trained()
        images = [read_image(file) for file in seen_files("train")]
        self.images = torch.stack([yolov5.preprocess(image, size=SIZE)[0] for image in images])
        self.test = [sample_of(file) for file in test_files()]
        self.whole = self.evaluated(self.model)
        self.data = self._data()

    def evaluated(self, model: nn.Module) -> Any:
        """COCO's evaluation of a network on each test image."""
        preprocess = partial(yolov5.preprocess, size=SIZE)
        found = detections("bccd test", preprocess, ultralytics_coco.decode, model, self.test, BATCH)
        return metrics.evaluated(found, self.test)

    def judged(self, model: nn.Module, seed: int = 0) -> dict[str, Any]:
        """mAP on the test images, and the interval of 95 % of its difference to the uncut network's."""
        found, every = self.evaluated(model), range(len(self.test))
        generator = np.random.default_rng(seed)
        differences = []
        for _ in range(DRAWS):
            drawn = generator.integers(0, len(every), len(every)).tolist()
            differences.append(metrics.redrawn(found, drawn) - metrics.redrawn(self.whole, drawn))
        low, high = np.percentile(differences, (2.5, 97.5))
        return {"map": metrics.redrawn(found, every), "difference": [float(low), float(high)]}

    def cut(self, macs: float, importance: str = "taylor", passes: int = 1) -> PruneResult:
        """The compensated network."""
        example = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        asked: dict[str, Any] = {"macs": macs, "align": ALIGN, "importance": importance, "calibration": self.images}
        return cc.prune(self.model, example, **asked, passes=passes)

    def _data(self) -> Path:
        """The data set with labels of its own, since their cache lies beside these; `val` chooses the best epoch."""
        data = self.work / "data"
        for split in TAUGHT:
            copied(seen_files(split), data, split)
        names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
        file = self.work / "data.yaml"
        file.write_text(f"path: {data}\ntrain: images/train\nval: images/val\nnames:\n{names}")
        return file


def recovered(bench: Bench, macs: float, seed: int, importance: str = "taylor") -> nn.Module:
    """With the uncut network as teacher, without labels."""
    return _taught(bench, bench.cut(macs, importance), seed, bench.images, f"recovered-{macs}-{importance}")


def with_labels(bench: Bench, macs: float, seed: int) -> nn.Module:
    """With the uncut network as teacher, and labels by Ultralytics' loss and augmentation."""
    return _taught(bench, bench.cut(macs), seed, str(bench.data), f"labelled-{macs}")


def _taught(bench: Bench, result: PruneResult, seed: int, data: Any, name: str) -> nn.Module:
    options, out = cc.RecoverOptions(batch=BATCH, seed=seed), bench.work / f"{name}-{seed}"
    model: nn.Module = cc.recover(bench.model, result, data, epochs=_fifth(), out=out, options=options).model
    return model


def by_their_trainer(bench: Bench, macs: float, seed: int) -> nn.Module:
    """With labels, by Ultralytics' trainer."""
    return _their_trainer(bench, bench.cut(macs), _fifth(), f"trained-{macs}-{seed}", seed)


def scratch(bench: Bench, macs: float, seed: int) -> nn.Module:
    """The cut shape from drawn weights, for as long as the uncut network was trained."""
    torch.manual_seed(seed)
    result = bench.cut(macs)
    drawn = replace(result, model=cc.apply(network(), result.plan))
    return _their_trainer(bench, drawn, EPOCHS, f"scratch-{macs}-{seed}", seed)


def _fifth() -> int:
    return round(EPOCHS / SHARE)


def _their_trainer(bench: Bench, result: PruneResult, epochs: int, name: str, seed: int) -> nn.Module:
    found = cc.ultralytics.train(
        result, data=str(bench.data), epochs=epochs, imgsz=SIZE, batch=BATCH, optimizer="AdamW", lr0=1e-3, seed=seed,
        workers=0, project=str(bench.work / "runs"), name=name, exist_ok=True, verbose=False,
    )  # fmt: skip
    model: nn.Module = found.model.float().eval()
    return model


Way = Callable[[Bench, float, int], nn.Module]
WAYS: dict[str, Way] = {
    "compensated": lambda bench, macs, seed: bench.cut(macs).model,  # noqa: ARG005
    "compensated, fisher": lambda bench, macs, seed: bench.cut(macs, "fisher").model,  # noqa: ARG005
    "compensated, fisher, 4 passes": lambda bench, macs, seed: bench.cut(macs, "fisher", 4).model,  # noqa: ARG005
    "recovered": recovered,
    "recovered, fisher": partial(recovered, importance="fisher"),
    "labelled": with_labels,
    "trained": by_their_trainer,
    "scratch": scratch,
}


def main() -> None:
    """Measure what is missing, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macs", type=float, nargs="+", default=MACS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "channelcut-own-detector")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    rows = rows_in(RESULTS)
    bench = Bench(given.work.resolve())
    for seed in given.seeds:
        for macs in given.macs:
            for way in given.ways:
                key = f"{macs} {way}" + ("" if way.startswith("compensated") else f" seed {seed}")
                if key not in rows:
                    said = {"command": f"python -m benchmarks.own_detector --macs {macs} --seeds {seed} --ways '{way}'"}
                    rows[key] = {"macs": macs, "way": way, "seed": seed, **_row(bench, WAYS[way], macs, seed), **said}
                    content = {"environment": environment(1), "original": _original(bench), "rows": rows}
                    write_rows(RESULTS, content, table(content))
                    print(key, json.dumps(rows[key]), file=sys.stderr, flush=True)


def _original(bench: Bench) -> dict[str, float]:
    return {"map": metrics.redrawn(bench.whole, range(len(bench.test)))}


def _row(bench: Bench, way: Way, macs: float, seed: int) -> dict[str, Any]:
    wall, busy = perf_counter(), process_time()
    model = way(bench, macs, seed)
    spent = {"wall_s": perf_counter() - wall, "processor_s": process_time() - busy}
    return {**bench.judged(model), **spent}


def table(content: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    original = content["original"]["map"]
    lines = [
        "# A user's own detector",
        "",
        f"`python -m benchmarks.own_detector`: YOLO26n of {len(NAMES)} kinds of blood cells, {SIZE}×{SIZE}, 72 test",
        f"images, mAP50-95 of the uncut network {original:.3f}. The interval (95 %) is of the difference to it on",
        "the same images. Processor seconds hold the cut and its compensation too.",
        "",
        "| MACs | way | seed | mAP50-95 | difference | processor time |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"].values():
        low, high = row["difference"]
        lines.append(
            f"| {row['macs']} | {row['way']} | {row['seed']} | {row['map']:.3f} | {low:+.3f} to {high:+.3f} | "
            f"{row['processor_s']:.0f} s |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
