"""A forward may keep numbers beyond the model: the same call gives the same answer, before and after."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.reasons import NUMBER_OF_WIDTH
from channelcut.tracing import forward
from tests.test_threads import in_threads

KEPT: dict[str, Any] = {}


class Keeps(nn.Module):
    """Computes with a width that it keeps in a dict of the module file, `use` says how."""

    def __init__(self, use: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.use = use
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(torch.relu(self.b(self.use(y, KEPT.setdefault("width", y.shape[1])))))


USES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a factor": lambda y, c: y * c,
    "a quotient": lambda y, c: y * (c / 16),
    "a root": lambda y, c: y / math.sqrt(c),
    "a power": lambda y, c: y * c**-0.5,
}


def found(model: nn.Module) -> list[Any]:
    groups = cc.analyze(model, torch.rand(1, 3, 12, 12))
    return [(g.name, g.width) for g in groups.groups] + [(p.reason, p.module) for p in groups.pins]


@pytest.mark.parametrize("use", sorted(USES))
def test_a_number_of_a_cache_is_met_as_a_plain_one_from_the_first_call_on(use: str) -> None:
    """The value stays what it is, whatever the cut: nothing has to be pinned for it."""
    KEPT.clear()
    model = Keeps(USES[use]).eval()
    first = found(model)
    assert [name for name, *_ in first[:2]] == ["a.weight", "b.weight"]
    assert found(model) == first


@pytest.mark.parametrize("use", sorted(USES))
def test_the_same_number_without_the_cache_pins(use: str) -> None:
    """Else the test above would pass for want of a pin."""

    class Computes(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.c(torch.relu(self.b(self.use(y, y.shape[1]))))

    pin = (str(NUMBER_OF_WIDTH), "")
    found_now = found(Computes(USES[use]).eval())
    assert ("a.weight", 16) not in found_now and pin in found_now


def test_a_size_of_a_cache_is_met_as_a_plain_one_from_the_first_call_on() -> None:
    KEPT.clear()
    model = Keeps(lambda y, c: y.view(1, c, -1).view(y.shape)).eval()
    first = found(model)
    assert first[0] == ("b.weight", 8) and found(model) == first


def test_a_size_of_a_cache_is_noted_no_more_than_one_in_the_code() -> None:
    """The probe would set it right, but with another reason."""

    def uses(model: nn.Module) -> list[Any]:
        return [(use.role, use.axis, use.origin) for use in forward.trace(model, (torch.rand(1, 3, 12, 12),)).uses]

    KEPT.clear()
    written = uses(Keeps(lambda y, _: y.view(1, 16, -1).view(y.shape)).eval())
    assert uses(Keeps(lambda y, c: y.view(1, c, -1).view(y.shape)).eval()) == written
    assert uses(Keeps(lambda y, _: y.view(1, y.shape[1], -1).view(y.shape)).eval()) != written


def test_two_cuts_in_a_row_are_the_same() -> None:
    KEPT.clear()
    model = Keeps(USES["a quotient"]).eval()
    plans = [cc.prune(model, torch.rand(1, 3, 12, 12), keep=0.5).plan for _ in range(2)]
    assert plans[0].kept == plans[1].kept and "a.weight" in plans[0].kept


def test_what_stays_in_the_cache_is_a_number_like_any_other() -> None:
    KEPT.clear()
    cc.analyze(Keeps(USES["a factor"]).eval(), torch.rand(1, 3, 12, 12))
    width = KEPT["width"]
    assert width == 16 and type(width + 0) is int and type(width / 2) is float and type(2**width) is int
    assert type(copy.deepcopy(width)) is int and type(pickle.loads(pickle.dumps(width))) is int
    assert math.sqrt(width) == 4 and torch.zeros(width).shape == (16,)


def test_a_cache_that_two_threads_share_gives_both_the_same_answer() -> None:
    model = Keeps(USES["a factor"]).eval()
    KEPT.clear()
    alone = found(model)
    for _ in range(5):
        KEPT.clear()
        assert in_threads(lambda: found(model), 2) == [alone, alone]


@lru_cache
def window(size: int) -> Tensor:
    return torch.hann_window(size)


class Windowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * window(x.shape[-1]))


@pytest.mark.parametrize(("model", "times"), [(Windowed(), 2), (Windowed().a, 1)], ids=["keeps a number", "does not"])
def test_a_forward_is_recorded_twice_only_where_it_keeps_a_number(
    model: nn.Module, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.cache_clear()
    record, calls = forward.record, []
    monkeypatch.setattr(forward, "record", lambda *a, **k: calls.append(1) or record(*a, **k))
    for expected in (times, 1):
        calls.clear()
        forward.trace(model.eval(), (torch.rand(1, 3, 12, 12),))
        assert len(calls) == expected


class Cyclic(nn.Module):
    """Its layers know it, and it keeps a shape: a copy of it is freed by the garbage collector alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.a.owner = [self]  # type: ignore[assignment]
        self.shape: Any = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.shape = x.shape
        return x


def test_a_copy_that_only_the_garbage_collector_frees_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    record, calls = forward.record, []
    monkeypatch.setattr(forward, "record", lambda *a, **k: calls.append(1) or record(*a, **k))
    forward.trace(Cyclic().eval(), (torch.rand(1, 3, 12, 12),))
    assert len(calls) == 1
