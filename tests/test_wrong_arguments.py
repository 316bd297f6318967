"""What callers hand in by mistake is one paragraph, and calibration data comes in all the shapes that loaders give."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import channelcut as cc
from channelcut.recovery.batches import MOST

X = torch.rand(2, 3, 16, 16)
NAN, INFINITE = float("nan"), float("inf")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()


def pruned(x: Any = X, model: Any = None, **options: Any) -> cc.PruneResult:
    found: cc.PruneResult = cc.prune(net() if model is None else model, x, keep=0.5, **options)
    return found


def partly_meta() -> nn.Module:
    model = net()
    model[3] = nn.Conv2d(16, 4, 1, device="meta")
    return model


SPOILT = X.clone()
SPOILT[1, 2, 3, 4] = NAN


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: pruned(model=net().to("meta"), x=X.to("meta")),
            "The model has no weights: 0.weight, 0.bias, 1.weight",
        ),
        (lambda: pruned(model=partly_meta()), "The model has no weights: 3.weight, 3.bias are on the meta device"),
        (lambda: pruned(x=X.to("meta")), "own forward fails on the example inputs"),
        (lambda: pruned(x=X * INFINITE), "is not finite: input 0 (2x3x16x16) holds NaN or infinity"),
        (lambda: pruned(x={"input": SPOILT}), "is not finite: input (2x3x16x16) holds NaN or infinity"),
        (lambda: pruned(x=X * -INFINITE), "is not finite"),
        (lambda: cc.prove(net(), net(), pruned().plan, SPOILT), "is not finite"),
        (lambda: pruned(model=torch.jit.trace(net(), X)), "which torch.jit has compiled"),
        (lambda: pruned(model=torch.jit.script(net())), "which torch.jit has compiled"),
        (lambda: pruned(model=lambda x: x), "The model is a function. Expected a torch.nn.Module"),
        (lambda: pruned(model=net().state_dict()), "The model is an OrderedDict"),
        (lambda: pruned(importance=lambda *_: 1), "is no criterion. Expected a name"),
        (lambda: pruned(importance=lambda tensor, slot: 1), "is an int. Expected one number for each of 16 channels"),
        (lambda: pruned(importance=lambda tensor, slot, *, scale: 1), "is no criterion"),
        (lambda: pruned(importance=nn.Conv2d), "is no criterion"),
        (lambda: pruned(importance=tp.importance.MagnitudeImportance(p=2)), "give its name, 'tp:MagnitudeImportance'"),
        (lambda: pruned(exclude=["*"]), "No channel is left to remove: every one that could go is excluded by '*'"),
        (lambda: pruned(prunable_outputs=[3]), "expected a sequence of patterns on the paths of outputs"),
        (lambda: pruned(prunable_outputs=7), "expected a sequence of patterns on the paths of outputs"),
        (lambda: pruned(probe="no"), "expected True or False"),
        (lambda: pruned(progress=3), "progress is an int. Expected a function that is called as progress(stage"),
        (lambda: pruned(calibration=X, preprocessing=3), "preprocessing is an int. Expected channelcut.Preprocessing"),
        (lambda: pruned(calibration=X, preprocessing={}), "preprocessing is a dict. Expected channelcut.Preprocessing"),
        (
            lambda: cc.compensate(net(), pruned(), None),
            "images is None, and a compensation reads some. Expected a fold",
        ),
        (lambda: pruned(blocks=2), "blocks=2 names no residual blocks. Expected the paths of modules, such as"),
        (lambda: pruned(blocks=True), "blocks=True names no residual blocks"),
        (lambda: pruned(blocks=[2]), "blocks=[2] names no residual blocks"),
        (lambda: cc.drop_blocks(net(), X, None), "blocks=None names no residual blocks"),  # type: ignore[arg-type]
        (lambda: pruned(deploy=3), "deploy is an int. Expected a Deploy"),
        (lambda: cc.save(None, "out"), "The model is a NoneType"),  # type: ignore[arg-type]
        (lambda: cc.save(pruned(), None), "folder is None, a NoneType. Expected a path"),  # type: ignore[arg-type]
        (lambda: cc.load(net, None), "folder is None, a NoneType. Expected a path"),  # type: ignore[arg-type]
        (lambda: cc.load(net(), "out"), "build is a Sequential. Expected a function without arguments"),
        (lambda: cc.load(None, "out"), "build is a NoneType"),  # type: ignore[arg-type]
        (lambda: cc.export(pruned(), None, X), "path is None, a NoneType"),  # type: ignore[arg-type]
        (lambda: cc.export(pruned(), "m.onnx", X, opset="a"), "need opset 18 or later"),  # type: ignore[arg-type]
        (lambda: cc.from_onnx(None), "path is None, a NoneType. Expected a path"),  # type: ignore[arg-type]
        (lambda: cc.Plan.from_dict({}), "The plan is damaged: "),
        (lambda: cc.Plan.from_dict(None), "The plan is damaged: "),  # type: ignore[arg-type]
        (lambda: cc.Plan.from_dict(pruned().plan.to_dict() | {"kept": 3}), "The plan is damaged: "),
    ],
)
def test_mistakes_are_one_paragraph(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(cc.UserError) as error:
        call()
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda width: net(), "build() fails with TypeError"),
        (lambda: 3, "The model is an int. Expected a torch.nn.Module"),
        (lambda: nn.Linear(3, 3), "belongs to another architecture"),
    ],
)
def test_builders_that_make_something_else(build: Any, text: str, tmp_path: Path) -> None:
    cc.save(pruned(), tmp_path)
    with pytest.raises(cc.UserError) as error:
        cc.load(build, tmp_path)
    assert text in str(error.value)


def test_a_mask_may_hold_minus_infinity() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.b(self.a(x).relu()).flatten(2).softmax(-1) + mask.softmax(-1)

    mask = torch.zeros(1, 1, 256)
    mask[..., 5] = -INFINITE
    assert pruned(model=Masked().eval(), x=(X[:1], mask)).proof.passed


# -- calibration --

IMAGES, LABELS = torch.rand(64, 3, 16, 16), torch.arange(64)
LOADER = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)


@pytest.mark.parametrize(
    "calibration",
    [
        IMAGES,
        IMAGES.numpy(),
        list(IMAGES.split(8)),
        LOADER,
        TensorDataset(IMAGES, LABELS),  # single inputs
        [(batch, label, "path") for batch, label in LOADER],
        [[batch] for batch, _ in LOADER],
        [{"image": batch, "label": label} for batch, label in LOADER],
        [batch.numpy() for batch, _ in LOADER],
        [batch.double() for batch, _ in LOADER],
        (batch for batch, _ in LOADER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_calibration_in_every_shape_gives_the_same(calibration: Any) -> None:
    found = pruned(calibration=calibration, restore="recalibrate")
    assert found.recalibration is not None and found.recalibration.images == 64
    wanted = found.model[0](IMAGES).mean((0, 2, 3))  # type: ignore[index, operator]
    assert torch.allclose(found.model[1].running_mean, wanted, atol=1e-5)  # type: ignore[index, union-attr, arg-type]


def test_endless_calibration_ends() -> None:
    found = pruned(calibration=itertools.repeat((torch.rand(512, 3, 16, 16), 0)), restore="recalibrate")
    assert found.recalibration is not None and found.recalibration.images == MOST


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.b(self.norm(self.a(image * mask)).relu())


@pytest.mark.parametrize(
    ("x", "calibration"),
    [
        ((X, X[:, :1]), [(IMAGES, IMAGES[:, :1])]),
        ((X, X[:, :1]), [((IMAGES, IMAGES[:, :1]), LABELS)]),
        ((X, X[:, :1]), [(IMAGES, IMAGES[:, :1], LABELS)]),
        ({"image": X, "mask": X[:, :1]}, [{"mask": IMAGES[:, :1], "image": IMAGES, "label": LABELS}]),
        ({"mask": X[:, :1], "image": X}, [(IMAGES[:, :1], IMAGES)]),
    ],
)
def test_calibration_of_several_inputs(x: Any, calibration: Any) -> None:
    found = pruned(model=Two().eval(), x=x, calibration=calibration, restore="recalibrate")
    assert found.recalibration is not None and found.recalibration.images == 64


def test_calibration_follows_the_type_of_the_example() -> None:
    found = pruned(model=net().half(), x=X.half(), calibration=LOADER, restore="recalibrate")
    assert found.recalibration is not None and found.recalibration.images == 64


@pytest.mark.parametrize(
    ("calibration", "text"),
    [
        (5, "calibration is an int. Expected a folder of images, a tensor"),
        (True, "calibration is a bool"),
        (object(), "calibration is an object"),
        (lambda: X, "calibration is a function"),
        ({"image": IMAGES}, "calibration is a dict"),
        ([], "calibration holds no inputs"),
        (X[:0], "calibration holds no inputs"),
        (["cat.png"], "Item 0 of calibration holds a str where a tensor is due"),
        ([()], "Item 0 of calibration holds 0 inputs, and the network takes 1"),
        ([{"label": LABELS}], "Item 0 of calibration is a dict of label, and the network takes one tensor"),
        ((IMAGES * 255).byte(), "is uint8, and the network takes float32. Prepare it as for the network"),
        ([X, X.to("meta")], "Item 1 of calibration is on the meta device"),
        ([X[0], X[0, :, :8]], "single inputs of several shapes"),
        (torch.rand(8, 5, 16, 16), "The calibration inputs (1x5x16x16) do not run through the network"),
        (np.full((8, 3, 16, 16), INFINITE), "outputs of the network are not finite on the calibration images"),
    ],
)
def test_calibration_that_cannot_be_used(calibration: Any, text: str) -> None:
    with pytest.raises(cc.UserError) as error:
        pruned(calibration=calibration)
    assert text in str(error.value) and "\n" not in str(error.value)
