"""Checkpoints as they come: with an average alone, of another release, without a network, damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import channelcut as cc
from channelcut.sources import open_source

tasks = pytest.importorskip("ultralytics.nn.tasks")

from ultralytics.nn.modules import block  # noqa: E402
from ultralytics_life import TINY  # noqa: E402


def written(path: Path, **content: Any) -> str:
    torch.save({"version": "8.0.10", "train_args": {}, **content}, path)
    return f"ultralytics:{path}"


def network() -> Any:
    return tasks.DetectionModel(TINY, verbose=False)


def test_an_average_is_taken_where_there_is_one(tmp_path: Path) -> None:
    trained, average = network(), network()
    for content in ({"model": None, "ema": average}, {"ema": average}, {"model": trained, "ema": average}):
        found = open_source(written(tmp_path / "a.pt", **content), trust=True).build()
        assert torch.equal(found.state_dict()["model.0.conv.weight"], average.state_dict()["model.0.conv.weight"])


def test_a_checkpoint_of_another_release_says_which_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(nn.Module):
        """A class that this release no longer has."""

    Gone.__module__, Gone.__qualname__ = block.__name__, "Gone"
    monkeypatch.setattr(block, "Gone", Gone, raising=False)
    old = network()
    old.model.add_module("extra", Gone())
    name = written(tmp_path / "old.pt", model=old)
    monkeypatch.undo()
    for trust, words in ((True, "'Gone'.* the release that wrote it: save model.state_dict"), (False, "add --trust")):
        with pytest.raises(
            cc.UserError, match=rf"written by Ultralytics 8\.0\.10; .* is installed\): .*{words}"
        ) as error:
            open_source(name, trust=trust).build()
        assert "\n" not in str(error.value) and str(error.value).isascii() and "/tmp/tmp" not in str(error.value)


def test_a_file_without_a_network_is_one_paragraph(tmp_path: Path) -> None:
    cases = {"none": {"model": None, "ema": None}, "tensors": {"model": network().state_dict()}}
    for name, content in cases.items():
        with pytest.raises(cc.UserError, match=r"holds no network where a checkpoint has it .* Expected a checkpoint"):
            open_source(written(tmp_path / f"{name}.pt", **content), trust=True).build()
    whole = (tmp_path / "tensors.pt").read_bytes()
    (tmp_path / "damaged.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(cc.UserError, match=r"cannot load .*damaged.pt"):
        open_source(f"ultralytics:{tmp_path / 'damaged.pt'}", trust=True).build()
