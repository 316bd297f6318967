"""What comes after the cut, for Ultralytics models: reload, ONNX, an engine, `fuse()`, and Ultralytics' own export."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import channelcut as cc
from benchmarks.zoo.catalogue import open_zoo
from benchmarks.zoo.from_ultralytics import random_backbones
from benchmarks.zoo.record import Record, described

CAPABILITY = "sm89"
FUSE_TOLERANCE = 1e-3


def extras(zoo: str, name: str, record: Record, folder: Path) -> None:
    """Take the result that `cut` left in `folder` through everything; each step says `ok` or why not."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    example = open_zoo(zoo).example(name)
    assert isinstance(example.inputs, tuple)
    inputs, steps = example.inputs, Steps(record)
    model = steps.run("reload", lambda: cc.load(lambda: open_zoo(zoo).example(name).model, folder / "result"))
    if model is not None:
        if steps.run("onnx", lambda: to_onnx(model, inputs, folder)):
            steps.run("engine", lambda: to_engine(folder))
        steps.run("fuse", lambda: fused_agrees(model, inputs))
        steps.run("ultralytics_export", lambda: ultralytics_export(name, model, inputs, folder))
    record.say(outcome="done")


class Steps:
    """Runs steps that may fail and records how each went."""

    def __init__(self, record: Record) -> None:
        self.record, self.found = record, dict[str, str]()

    def run(self, step: str, work: Callable[[], Any]) -> Any:
        """The result of `work`; None where it failed."""
        self.record.say(stage=step)
        result = None
        try:
            with self.record.stage(step):
                result = work()
            self.found[step] = "ok"
        except Exception as error:  # noqa: BLE001  any failure is a cell of the table
            self.found[step] = described(error)
        self.record.say(steps=self.found)
        return result


def to_onnx(model: nn.Module, inputs: tuple[Any, ...], folder: Path) -> Any:
    """ONNX of the deployed form, checked against the module."""
    import channelcut as cc

    return cc.export(model, folder / "pruned.onnx", inputs)


def to_engine(folder: Path) -> Any:
    """An engine for a GPU that need not be here."""
    from channelcut.building import build_engine
    from channelcut.core.progress import silent

    return build_engine(folder / "pruned.onnx", "tensorrt_rtx", CAPABILITY, folder / "pruned.engine", silent)


@torch.no_grad()
def fused_agrees(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Fuse a copy and compare; in float64, because rounding reorders the detections that a top-k selects."""
    doubled = pytree.tree_map_only(Tensor, lambda t: t.double(), inputs)
    expected = first(copy.deepcopy(model).double()(*doubled))
    fused: Any = copy.deepcopy(model).double()
    found = first(fused.fuse(verbose=False)(*doubled))
    if found.shape != expected.shape:
        raise ValueError(f"fused output is {tuple(found.shape)}, unfused {tuple(expected.shape)}")
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not error <= FUSE_TOLERANCE:
        raise ValueError(f"fused and unfused outputs differ by {error:.1e}")
    return True


def first(outputs: Any) -> Tensor:
    """The first tensor of a result: what deployment reads."""
    return next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))


def ultralytics_export(name: str, model: nn.Module, inputs: tuple[Any, ...], folder: Path) -> Path:
    """`YOLO(...).export(format="onnx")` with the cut model in the wrapper's place."""
    from ultralytics import RTDETR, YOLO

    with random_backbones():
        wrapper = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml")
    wrapper.model = copy.deepcopy(model)
    wrapper.model.pt_path = str(folder / f"{name}.pt")  # Ultralytics names its file after this one
    with working_directory(folder):
        path = Path(wrapper.export(format="onnx", imgsz=int(inputs[0].shape[-1]), device="cpu", simplify=False))
    if not path.exists():
        raise FileNotFoundError(f"export returned {path.name}, which is not there")
    return path


@contextlib.contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Work in `folder`: what third parties leave lying about goes with it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
