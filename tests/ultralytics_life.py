"""The life of a tiny detector of Ultralytics in a process of its own, for the release that PYTHONPATH holds.

It prints what it found as JSON; `test_ultralytics_versions.py` runs it with the oldest release and the newest.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from ultralytics_data import tiny_data

import channelcut as cc

SIZE = 64
TINY: dict[str, Any] = {
    "nc": 2,
    "end2end": True,  # both heads, as YOLO26 has them
    "reg_max": 1,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C2f", [32, True]],
                 [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[[2, 3], 1, "Detect", ["nc"]]],
}  # fmt: skip


def torchvision_for_this_torch() -> str:
    """Give torch the operator that Ultralytics' validators take of torchvision, where that was built for another torch.

    Beside a torch for CPUs the registry has a torchvision for CUDA alone, whose library of operators does not load.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", suppressed, "CPU")
        globals()["_kept"] = library  # its operators go with it
        import torchvision

        torchvision.extension._HAS_OPS = torchvision.extension._has_ops = torchvision.ops.boxes._assert_has_ops = bool
        return "stand-in"
    return str(torchvision.__version__)


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy suppression: the best box, and all that overlap none that was kept."""
    kept: list[int] = []
    size = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for index in scores.argsort(descending=True).tolist():
        low, high = torch.maximum(boxes[kept, :2], boxes[index, :2]), torch.minimum(boxes[kept, 2:], boxes[index, 2:])
        both = (high - low).clamp(min=0).prod(1)
        if not (both / (size[kept] + size[index] - both) > threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long)


def life(folder: Path) -> dict[str, Any]:
    """Cut, deploy with every head, write, load, train, evaluate; the network and its file."""
    import ultralytics
    from ultralytics.nn.tasks import DetectionModel

    from channelcut.adapters import deployed_form
    from channelcut.adapters.ultralytics import YOLO, save_checkpoint
    from channelcut.adapters.ultralytics.evaluation import evaluate
    from channelcut.core.deployed import Deploy

    found: dict[str, Any] = {"version": ultralytics.__version__, "torchvision": torchvision_for_this_torch()}
    data, x = tiny_data(folder / "data", "detect"), torch.rand(1, 3, SIZE, SIZE)
    model = DetectionModel(TINY, verbose=False)
    result = cc.prune(model.eval(), x, keep=0.5)
    forms = {nms: deployed_form(result.model, (x,), Deploy(nms)) for nms in (None, False, True)}
    found["heads"] = {str(nms): [list(form.module(x).shape), dict(form.words)] for nms, form in forms.items()}
    found["metadata"] = sorted(forms[None].metadata)
    found["cut"] = sum(p.numel() for p in result.model.parameters())
    save_checkpoint(result, folder / "pruned.pt")
    found["theirs"] = sum(p.numel() for p in ultralytics.YOLO(folder / "pruned.pt").model.parameters())
    options: dict[str, Any] = {"imgsz": SIZE, "batch": 4, "workers": 0, "device": "cpu", "plots": False, "amp": False}
    ours = YOLO(folder / "pruned.pt")
    ours.train(data=data, epochs=1, project=str(folder / "runs"), **options)
    found["trained"] = sum(p.numel() for p in ours.model.parameters())
    try:
        ultralytics.YOLO(folder / "pruned.pt").train(data=data, epochs=1, project=str(folder / "runs"), **options)
    except KeyError as error:
        found["refused"] = str(error)
    cc.export(ours.model.eval(), folder / "model.onnx", x)
    found["map"] = [evaluate(what, data, imgsz=SIZE)["map"] for what in (ours.model, folder / "model.onnx")]
    return found


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(life(Path(sys.argv[1]))) + "\n")
