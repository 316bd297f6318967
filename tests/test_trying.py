"""Of a detector of a known library the criterion is chosen by a trial, where nobody names one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import channelcut as cc
from channelcut import trying
from channelcut.adapters import teaching_of
from channelcut.core.errors import BudgetError
from channelcut.report.facts import options_of
from channelcut.report.reader import Part
from channelcut.sources import open_source

pytest.importorskip("ultralytics")
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found() -> tuple[nn.Module, cc.Groups]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_source("ultralytics:yolov8n.yaml").build()
    return model, cc.analyze(model, IMAGES[:1])


@pytest.mark.parametrize(
    ("lost", "chosen", "tried"),
    [
        ((1.0, 0.5), "fisher", {"taylor": 1.0, "fisher": 0.5}),
        ((1.0, 0.8), "taylor", {"taylor": 1.0, "fisher": 0.8}),
        ((0.5, 1.0), "taylor", {"taylor": 0.5, "fisher": 1.0}),
        ((1.0, math.inf), "taylor", None),
        ((math.nan, 1.0), "taylor", None),
    ],
)
def test_what_has_clearly_lost_less_is_taken(
    found: tuple[nn.Module, cc.Groups],
    monkeypatch: pytest.MonkeyPatch,
    lost: tuple[float, float],
    chosen: str,
    tried: dict[str, float] | None,
) -> None:
    model, groups = found
    values = iter(lost)
    monkeypatch.setattr(trying, "_lost", lambda *_: next(values))
    plan = cc.plan(model, groups, macs=0.8, calibration=IMAGES)
    assert (plan.options["importance"], plan.options.get("tried")) == (chosen, tried)
    said = options_of(Part({"options": plan.options}))
    words = "" if tried is None else " (of cuts by each, what is detected was off by: taylor {:.3g}, fisher {:.3g})"
    assert f"importance {chosen}{words.format(*lost)}, scored_images 3" in said
    named = cc.plan(model, groups, macs=0.8, calibration=IMAGES, importance=chosen)
    assert named.kept == plan.kept and "tried" not in named.options


def test_a_trial_is_of_cuts_that_differ(found: tuple[nn.Module, cc.Groups], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are cut to the share, and compared with the original by what its library's detectors say."""
    model, groups = found
    seen, lost = [], trying._lost

    def noted(original: nn.Module, small: nn.Module, batches: Any, loss: Any) -> float:
        seen.append(sum(p.numel() for p in small.parameters()))
        assert sum(len(args[0]) for args, _ in batches) == 3
        assert lost(original, original, batches, loss) == pytest.approx(0, abs=1e-6)
        return lost(original, small, batches, loss)

    monkeypatch.setattr(trying, "_lost", noted)
    plan = cc.plan(model, groups, macs=0.8, calibration=IMAGES)
    assert len(set(seen)) == 2 and max(seen) < sum(p.numel() for p in model.parameters())
    assert all(value > 0 for value in plan.options["tried"].values())


def test_nothing_is_tried_where_something_is_named_or_nothing_allows_it(
    found: tuple[nn.Module, cc.Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, groups = found
    allocate = trying.allocate

    def refused(*given: Any, **others: Any) -> Any:
        raise BudgetError("floors")

    monkeypatch.setattr(trying, "allocate", refused)
    assert trying.allocate is not allocate
    plan = cc.plan(model, groups, macs=0.8, calibration=IMAGES)
    assert plan.options["importance"] == "taylor" and "tried" not in plan.options
    monkeypatch.setattr(trying, "_lost", lambda *_: pytest.fail("it was tried"))
    for asked in ({"importance": "group-fisher", "calibration": IMAGES}, {}):
        assert "tried" not in cc.plan(model, groups, macs=0.8, **asked).options
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    assert teaching_of(plain).output is None
    assert "tried" not in cc.prune(plain, IMAGES[:1], macs=0.8, calibration=IMAGES).plan.options
