"""What is handed in around `measure` and costs of time by mistake is one paragraph, before anything is written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import channelcut as cc
from channelcut.bench.layers.clock import MeasureOptions
from channelcut.core.errors import UserError
from channelcut.cost import macs_cost
from channelcut.cost.asked import asked_cost
from channelcut.cost.mixed import MixedCost
from channelcut.cost.roofline import roofline

X = torch.rand(1, 3, 12, 12)
NAN = math.nan
ANY: Any = None


def net(width: int = 16, further: int = 0) -> nn.Sequential:
    torch.manual_seed(0)
    last = [nn.Conv2d(8, 8, 1) for _ in range(further)]
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), *last, nn.Conv2d(8, 4, 1)).eval()


@pytest.fixture(scope="module")
def groups() -> cc.Groups:
    return cc.analyze(net(), X)


@pytest.fixture(scope="module")
def cost(groups: cc.Groups, tmp_path_factory: pytest.TempPathFactory) -> Any:
    quick = MeasureOptions(min_rounds=2, max_rounds=2, network_runs=1, step=8)
    return cc.measure(net(), X, groups=groups, options=quick, table=tmp_path_factory.mktemp("costs") / "table.jsonl")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"threads": 1.5}, "threads=1.5: expected a whole number from 1 on"),
        ({"threads": "2"}, "threads='2': expected a whole number"),
        ({"threads": 0}, "threads=0: expected a whole number"),
        ({"threads": True}, "threads=True: expected a whole number"),
        ({"backend": 5}, "no back end called 5 whose layers can be timed; known: onnxruntime"),
        ({"backend": None}, "no back end called None"),
        ({"precision": ["fp32"]}, "['fp32'] is asked for"),
        ({"batch": 0}, "batch=0: expected a number of items"),
        ({"batch": 1.5}, "batch=1.5: expected a number of items"),
        ({"batch": True}, "batch=True: expected a number of items"),
        ({"table": 5}, "table is 5, an int. Expected a path"),
        ({"table": ""}, "table is '', a str. Expected a path"),
        ({"options": None}, "options is a NoneType. Expected a MeasureOptions"),
        ({"options": {}}, "options is a dict. Expected a MeasureOptions"),
        ({"deploy": 3}, "deploy is an int. Expected a Deploy"),
        ({"progress": 3}, "progress is an int. Expected a function"),
        ({"groups": 3}, "groups is an int. Expected a Groups"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_measure_is_asked_for_nonsense(
    given: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        cc.measure(net(), X, **given)
    assert text in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())  # no table was begun


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"half_width": "a"}, "half_width='a': expected a share of the median, such as 0.03, above 0"),
        ({"half_width": 0}, "half_width=0: expected"),
        ({"half_width": NAN}, "half_width=nan: expected"),
        ({"half_width": None}, "half_width=None: expected"),
        ({"limit_s": "9"}, "limit_s='9': expected a number of seconds above 0"),
        ({"limit_s": -1}, "limit_s=-1: expected"),
        ({"step": 8.5}, "step=8.5: expected a whole number from 1 on"),
        ({"step": 0}, "step=0: expected"),
        ({"min_rounds": 1}, "min_rounds=1: expected a whole number from 2 on"),
        ({"max_rounds": 7.5}, "max_rounds=7.5: expected a whole number"),
        ({"min_rounds": 9, "max_rounds": 8}, "min_rounds=9 and max_rounds=8: expected min_rounds <= max_rounds"),
        ({"network_runs": 0}, "network_runs=0: expected"),
        ({"workers": -1}, "workers=-1: expected a whole number from 0 on"),
        ({"workers": "2"}, "workers='2': expected"),
        ({"seed": 1.5}, "seed=1.5: expected"),
        ({"ray_address": 3}, "ray_address=3: expected the address of a running cluster"),
        ({"ray_address": " "}, "ray_address=' ': expected the address"),
    ],
    ids=str,
)
def test_options_of_measuring_are_checked(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as error:
        MeasureOptions(**given)
    assert text in str(error.value)


class Settings:
    step = 8


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (lambda widths: NAN, "cost returned nan for the widths ["),
        (lambda widths: math.inf, "cost returned inf"),
        (lambda widths: -1.0, "cost returned -1 for the widths"),
        (lambda widths: 0, "cost returned 0 for the widths"),
        (lambda widths: "4 ms", "cost returned a str"),
        (lambda widths: None, "cost returned a NoneType"),
        (lambda widths: True, "cost returned a bool"),
        (lambda widths: np.ones(2), "cost returned an ndarray"),
        (lambda: 1, "cost cannot be called with the widths alone (too many positional arguments)"),
        (lambda widths, scale: 1, "cost cannot be called with the widths alone (missing a required argument: 'scale')"),
        (nn.Conv2d, "cost is a type. Expected a function that is called as cost(widths)"),
        (Settings(), "cost is a Settings. Expected a function"),
        (7, "cost is an int. Expected a function"),
    ],
)
def test_a_cost_that_is_none(cost: Any, text: str, groups: cc.Groups) -> None:
    for call in (
        lambda: cc.plan(net(), groups, latency=0.6, cost=cost),
        lambda: cc.prune(net(), X, latency=0.6, cost=cost),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert text in str(error.value) and "\n" not in str(error.value)


def test_a_cost_of_the_callers_is_as_it_was() -> None:
    """What it has beside the numbers stays, what it raises comes out, and any number will do."""

    class Mine:
        step = 8

        def __call__(self, widths: Any) -> Any:
            return {1: np.float32(2), 2: torch.tensor(3.0), 3: np.array(4)}[int(widths[0])]

    mine = asked_cost(Mine())
    assert [mine(np.array([w])) for w in (1, 2, 3)] == [2.0, 3.0, 4.0]
    assert mine.step == 8 and not hasattr(mine, "pairwise") and "Mine" in repr(mine)
    with pytest.raises(KeyError):
        mine(np.array([4]))
    assert asked_cost(lambda widths: 0.0)(np.array([0, 3])) == 0.0  # a block that goes takes nothing
    assert asked_cost(None) is None


def test_groups_of_another_model_are_refused(tmp_path: Path) -> None:
    for call in (
        lambda: cc.measure(net(), X, groups=cc.analyze(net(24), X), table=tmp_path / "table.jsonl"),
        lambda: cc.mixed_cost(net(), X, ANY, groups=cc.analyze(net(24), X)),
    ):
        with pytest.raises(UserError, match=r"These groups were found in another model: 0\.bias, 0\.weight, 2\.weight"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_cost_of_another_network_is_refused(cost: Any, groups: cc.Groups) -> None:
    wider, deeper = cc.analyze(net(24), X), cc.analyze(net(further=1), X)
    with pytest.raises(UserError, match=r"measured of another network: .*0\.weight is 16x3x3x3 there, 24x3x3x3 here"):
        cc.plan(net(24), wider, latency=0.6, cost=cost)
    with pytest.raises(UserError, match="measured of another network"):
        cc.prune(net(24), X, latency=0.6, cost=cost)
    with pytest.raises(UserError, match="measured of another network"):
        cost.on(deeper)  # whose first layers are alike
    torch.manual_seed(0)
    more = nn.Sequential(*net()[:3], nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    with pytest.raises(UserError, match=r"network: 4\.weight differ \(4\.weight is missing there, 4x4x1x1 here"):
        cost.on(cc.analyze(more, X))
    fewer = nn.Sequential(*net()[:3]).eval()
    with pytest.raises(UserError, match=r"network: 3\.weight differ \(3\.weight is 4x8x1x1 there, missing here"):
        cost.on(cc.analyze(fewer, X))
    assert cost.without(["3"]).on(cc.analyze(fewer, X)).layers  # that it is left out is known
    assert cost.on(cc.analyze(net(), X, tracer="export"))(cost.full_widths) == pytest.approx(cost(cost.full_widths))
    mixed = MixedCost({"fp32": cost, "int8": cost}, {"0": {"int8": 0.1}}, 0.1)
    with pytest.raises(UserError, match="measured of another network"):
        cc.plan(net(24), wider, latency=0.6, cost=mixed)
    assert mixed.on(groups).ways
    with pytest.raises(UserError, match=r"errors of the mixed cost are of another network: no layer 'stem' is here"):
        replace(mixed, errors={"stem": {"int8": 0.1}}).on(groups)


def test_a_cost_of_other_groups_is_refused(groups: cc.Groups) -> None:
    with pytest.raises(UserError, match=r"a function of the widths of 3 groups, and there are 2 here"):
        cc.plan(net(), groups, latency=0.6, cost=macs_cost(cc.analyze(net(further=1), X)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda groups: roofline(groups, None), "None is no device that is described. Expected one of avx2"),
        (lambda groups: roofline(groups, ["t4"]), "['t4'] is no device"),
        (lambda groups: roofline(None, "t4"), "groups is a NoneType. Expected a Groups"),
        (lambda groups: roofline(groups, "t4", None), "precision=None is none that t4 is described in"),
        (lambda groups: roofline(groups, "t4", ["fp32"]), "precision=['fp32'] is none that t4"),
        (lambda groups: MixedCost(None, {}, 0.1), "costs is a NoneType. Expected {'fp32': ..., 'int8': ...}"),
        (lambda groups: MixedCost({"fp32": None, "int8": 3}, {}, 0.1), "costs['fp32'] is a NoneType, of whose layers"),
        (
            lambda groups: cc.mixed_cost(net(), X, {}, "images", groups=groups),
            "images is a str. Expected a tensor",
        ),
        (lambda groups: cc.mixed_cost(net(), X, ANY, groups=groups), "costs is a NoneType"),
        (
            lambda groups: MixedCost(dict.fromkeys(("fp32", "int8"), roofline(groups, "t4")), {}, "a"),
            "max_error='a': expected an output error",
        ),
    ],
)
def test_costs_that_cannot_be_made(call: Callable[..., Any], text: str, groups: cc.Groups) -> None:
    with pytest.raises(UserError) as error:
        call(groups)
    assert text in str(error.value) and "\n" not in str(error.value)


def test_a_model_of_which_nothing_can_go_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channelcut.latency.api.onnx_from_deployed", lambda *_: pytest.fail("it was written"))
    fixed = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    with pytest.raises(UserError, match=r"No channel of this model can be removed, .*network output.*channelcut bench"):
        cc.measure(fixed, X, table=tmp_path / "table.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["t4", "avx2"])
def test_a_layer_without_channels_is_silent(device: str, groups: cc.Groups) -> None:
    found = roofline(groups, device, "fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(np.zeros(len(groups.groups), np.int64)) >= 0
        assert found(np.array([0, 8])) < found(np.array([16, 8]))
