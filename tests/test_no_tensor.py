"""A forward that returns no tensor is told so, with the flag of its library where that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc


@dataclass
class Found:
    """What no list, tuple or dict is."""

    boxes: list[float]


class Decoded(nn.Module):
    """Returns what `how` makes of its scores."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.b(self.a(x).relu())
        if self.how == "words":
            return {"preds": [("text", 0.9) for _ in y]}
        if self.how == "arrays":
            return [row.numpy() for row in y]
        if self.how == "numbers":
            return y.mean((1, 2, 3)).tolist()
        return None if self.how == "none" else Found([1.0])


@pytest.mark.parametrize("tracer", ["auto", "export"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("words", r"dict \(preds: list of tuple\)"),
        ("arrays", "list of ndarray"),
        ("none", "NoneType"),
        ("object", "Found"),
    ],
)
def test_a_forward_that_returns_no_tensor(how: str, words: str, tracer: str) -> None:
    if tracer == "export" and how in ("arrays", "object"):
        pytest.skip("torch.export refuses these itself")
    with pytest.raises(cc.UserError, match=rf"Decoded returns no tensor but {words}.* whose forward returns what"):
        cc.analyze(Decoded(how).eval(), torch.rand(1, 3, 4, 4), tracer=tracer)


def test_the_flag_of_a_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoded, "__module__", "doctr.models.detection")
    with pytest.raises(cc.UserError, match=r"no tensor but dict.* built with exportable=True"):
        cc.prune(nn.Sequential(Decoded("words")).eval(), torch.rand(1, 3, 4, 4), keep=0.5)


def test_numbers_that_were_read_are_no_tensor_either() -> None:
    with pytest.raises(cc.UserError, match="no tensor but list of float"):
        cc.prune(Decoded("numbers").eval(), torch.rand(1, 3, 4, 4), keep=0.5)
