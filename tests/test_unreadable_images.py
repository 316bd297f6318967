"""Images of a folder that cannot be decoded are counted, named in the report, and not the most of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import channelcut as cc
from channelcut.options import CompressOptions, PruneOptions
from channelcut.ranking import ranking_notes
from channelcut.recovery.images import load_images
from channelcut.samples import real_inputs, with_images

X = torch.rand(1, 3, 8, 8)
SAID = {"images": 2, "read": 6, "names": ["0.png", "1.png"]}
NOTE = "Of what was given to calibrate, 2 of 8 images could not be decoded and were left out: 0.png, 1.png."


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def folder(path: Path, broken: int, files: int = 8) -> Path:
    """PNG files of noise, the first of them cut short."""
    path.mkdir()
    for number in range(files):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
        if number < broken:
            (path / f"{number}.png").write_bytes((path / f"{number}.png").read_bytes()[:40])
    return path


def test_some_are_left_out_and_the_result_says_so(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 2)
    for importance in ("fisher", "l2"):
        result = cc.prune(net(), X, keep=0.5, calibration=images, importance=importance)
        assert result.plan.options["unreadable"] == SAID
        assert NOTE in ranking_notes(result.plan)
        assert result.compensation is not None and (result.compensation.images, result.compensation.unreadable) == (
            6,
            2,
        )
    plan = cc.plan(net(), cc.analyze(net(), X), keep=0.5, calibration=images)
    assert plan.options["unreadable"] == SAID
    model = net()
    again = cc.compensate(model, cc.prune(model, X, keep=0.5), images).compensation
    assert again is not None and again.unreadable == 2
    assert "unreadable" not in cc.prune(net(), X, keep=0.5, calibration=folder(tmp_path / "good", 0)).plan.options


def test_images_that_compress_reads_once_are_counted_too(tmp_path: Path) -> None:
    asked = CompressOptions(PruneOptions(keep=0.5, calibration=folder(tmp_path / "images", 2)))
    options, images = with_images(asked, net(), X)
    assert images is not None and len(images) == 6
    assert len(real_inputs(options.prune, X)) == 2
    result = cc.prune(net(), X, keep=0.5, calibration=options.prune.calibration)
    assert result.plan.options["unreadable"] == SAID


@pytest.mark.parametrize(
    "call",
    [
        lambda images: cc.prune(net(), X, keep=0.5, calibration=images),
        lambda images: cc.plan(net(), cc.analyze(net(), X), keep=0.5, calibration=images),
        lambda images: cc.compensate(net(), cc.prune(net(), X, keep=0.5), images),
        lambda images: cc.recover(net(), cc.prune(net(), X, keep=0.5), images, epochs=1),
    ],
)
def test_a_folder_that_is_mostly_broken_is_refused(call: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(cc.UserError, match=r"Of 8 images in .*, 5 cannot be decoded, which leaves 3: too few") as error:
        call(folder(tmp_path / "images", 5))
    assert "\n" not in str(error.value)


def test_a_few_images_of_many_are_read_past_broken_ones(tmp_path: Path) -> None:
    images, broken = load_images(folder(tmp_path / "images", 3), (3, 8, 8), limit=2)
    assert len(images) == 2
    assert broken == ["0.png", "1.png", "2.png"]
