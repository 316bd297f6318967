"""What is said of names and kinds of values, and what a plan and a model's names are as data."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from networks import example
from torch import nn

import channelcut as cc
from channelcut import steps
from channelcut.core.plan import Cost, GroupPlan
from channelcut.core.tensors import aliases, first_names
from channelcut.core.words import kind_of, with_article
from channelcut.sources import libraries


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("int", "an int"),
        ("tuple", "a tuple"),
        ("OrderedDict", "an OrderedDict"),
        ("ndarray", "an ndarray"),
        ("LSTM", "an LSTM"),
        ("YOLO", "a YOLO"),
        ("UNet", "a UNet"),
        ("EfficientNet", "an EfficientNet"),
        ("function", "a function"),
    ],
)
def test_articles(name: str, said: str) -> None:
    assert with_article(name) == said


def test_kinds_have_their_articles_in_messages() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).eval()
    assert kind_of(np.zeros(2)) == "an ndarray"
    for wrong, said in ((7, "x is an int"), (np.zeros((1, 3, 4, 4)), "x is an ndarray"), ("a", "x is a str")):
        with pytest.raises(cc.UserError, match=said):
            cc.analyze(model, wrong)
    with pytest.raises(cc.UserError, match="The model is an OrderedDict"):
        cc.analyze(model.state_dict(), example())  # type: ignore[arg-type]
    with pytest.raises(cc.UserError, match="groups is an int"):
        cc.plan(model, 3, keep=0.5)  # type: ignore[arg-type]


def test_a_tensor_with_several_names_has_a_first_one() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3)})
    model["b"].weight = model["a"].weight
    model["norm"].register_buffer("again", model["norm"].running_mean)
    assert aliases(model) == {"b.weight": "a.weight", "norm.again": "norm.running_mean"}
    assert first_names(model)["a.weight"] == "a.weight"
    assert len(first_names(model)) == len([*model.parameters()]) + 1 + len([*model.buffers()]) + 1


def test_a_big_plan_is_written_without_a_copy_of_every_position() -> None:
    positions = {0: tuple(range(1000)), 1: tuple(range(1000))}
    group = GroupPlan("a", 1, 8, 4)
    options: dict[str, Any] = {"keep": {"*": 0.5}}
    kept = {f"{i}.weight": positions for i in range(200)}
    plan = cc.Plan("f", "w", kept, {"a": {"c": 4}}, {"order": (1, 0)}, (group,),
                   Cost(2.0, 2), Cost(1.0, 1), options, ("aux",), ({"step": "rescale", "round": 1},))  # fmt: skip
    start = time.process_time()
    data = plan.to_dict()
    assert time.process_time() - start < 0.15  # `dataclasses.asdict` takes half a second
    assert cc.Plan.from_dict(json.loads(json.dumps(data))) == plan
    data["options"]["keep"]["*"] = 1.0
    data["groups"][0]["kept"] = 1
    assert plan.options == {"keep": {"*": 0.5}}
    assert plan.groups == (group,)


def test_what_the_probe_alone_needs_is_not_made_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(steps, "CutForwards", never)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).eval()
    assert cc.analyze(model, example(), probe=False).groups


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("error", "said"), [(RuntimeError("operator nms"), "torchvision .* this torch"), (ImportError(), "zoo")]
)
def test_a_library_that_cannot_be_imported(
    library: str, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> None:
        raise error

    monkeypatch.setattr(libraries, "importlib", SimpleNamespace(import_module=broken))
    with pytest.raises(cc.UserError, match=said):
        libraries.LIBRARIES[library][1]("resnet18", "random", False)
