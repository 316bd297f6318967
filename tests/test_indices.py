"""Channels that a buffer of positions picks: the positions go with them, and those that are left are numbered anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import conv
from torch import Tensor, nn

import channelcut as cc

ORDER = torch.tensor([3, 9, 15, 0, 12, 6, 1, 14, 7, 2, 11, 5, 8, 13, 4, 10])
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Picking(nn.Module):
    """Two layers with channels picked in between; `pick` is how."""

    def __init__(self, index: Tensor, pick: Callable[[Tensor, Tensor], Tensor], *, persistent: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.pick = conv(3, 16), conv(len(index), 4), pick
        self.register_buffer("index", index.clone(), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.pick(self.a(x), self.index))


def select(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(1, index)


def bracket(x: Tensor, index: Tensor) -> Tensor:
    return x[:, index]


def cast(x: Tensor, index: Tensor) -> Tensor:
    return torch.index_select(x, dim=-3, index=index.long().detach())


def twice(x: Tensor, index: Tensor) -> Tensor:
    return torch.relu(x[:, index])[:, index]


def beside(x: Tensor, index: Tensor) -> Tensor:
    return x[:, index] + select(x * 2, index)


@pytest.mark.parametrize("tracer", ["dispatch", "export"])
@pytest.mark.parametrize(
    ("index", "pick"),
    [(ORDER, select), (ORDER, bracket), (ORDER.int(), cast), (ORDER - 16, bracket), (ORDER, beside)],
)
def test_a_permutation_loses_the_positions_of_what_goes(
    index: Tensor, pick: Callable[[Tensor, Tensor], Tensor], tracer: str
) -> None:
    model = Picking(index, pick).eval()
    result = cc.prune(model, X, keep=0.5, tracer=tracer, exclude=["b"])
    left = result.model.get_buffer("index")
    assert result.proof.passed
    assert left.dtype == index.dtype
    assert torch.equal(model.index, index)
    kept = result.plan.kept["a.0.weight"][0]
    assert len(kept) == 8
    assert left.tolist() == [kept.index(i) for i in (index % 16).tolist() if i in kept]
    assert result.plan.indices == {"index": tuple(left.tolist())}


def test_one_buffer_in_two_places_goes_by_its_cycles() -> None:
    """What stands at a place goes with what it picks there, and so on: a cycle goes as a whole."""
    order = torch.tensor([1, 2, 3, 0, 5, 4, 7, 6, 9, 10, 11, 8, 13, 12, 15, 14])
    result = cc.prune(Picking(order, twice).eval(), X, keep=0.5, exclude=["b"])
    kept = set(result.plan.kept["a.0.weight"][0])
    assert len(kept) < 16
    assert {int(order[channel]) for channel in kept} == kept


@pytest.mark.parametrize("index", [ORDER[:12], torch.tensor([0, 1, 2, 3, 3, 4, 4, 4, 8, 9, 10, 11])])
def test_a_selection_loses_what_it_picks_and_what_it_does_not(index: Tensor) -> None:
    result = cc.prune(Picking(index, bracket).eval(), X, keep=0.5, exclude=["b"])
    kept = result.plan.kept["a.0.weight"][0]
    assert len(kept) <= 10
    assert result.plan.indices["index"] == tuple(kept.index(i) for i in index.tolist() if i in kept)


class Dense(nn.Module):
    """Every grouped layer picks of all that there is, as a trained CondenseNet does."""

    def __init__(self, indices: list[Tensor], groups: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = conv(3, 16)
        self.layers = nn.ModuleList(conv(len(index), 8, 1, groups=groups) for index in indices)
        self.head = nn.Conv2d(16 + 8 * len(indices), 4, 1)
        for number, index in enumerate(indices):
            self.register_buffer(f"index{number}", index)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, layer in enumerate(self.layers):
            x = torch.cat([x, layer(torch.index_select(x, 1, self.get_buffer(f"index{number}")))], 1)
        return self.head(x)


def drawn(kind: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    if kind == "permutations":
        return [torch.randperm(width, generator=generator) for width in (16, 24, 32)]
    quarters = [[torch.randperm(width, generator=generator)[: width // 4] for _ in range(4)] for width in (16, 24, 32)]
    return [torch.cat(parts) for parts in quarters]


@pytest.mark.parametrize("kind", ["permutations", "learned groups"])
def test_where_no_channel_could_go_with_its_positions_these_go_alone(kind: str) -> None:
    model = Dense(drawn(kind)).eval()
    result = cc.prune(model, X, keep=0.5)
    assert result.proof.passed
    for number, width in enumerate((16, 24, 32)):
        assert len(result.model.get_buffer(f"index{number}")) == width // 2
        assert result.model.layers[number][0].in_channels == width // 2
    assert any(pin.reason == "picked by positions that go by themselves" for pin in result.groups.pins)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_saved_cut_has_its_positions_whatever_the_class_draws(persistent: bool, tmp_path: Path) -> None:
    result = cc.prune(Picking(ORDER, bracket, persistent=persistent).eval(), X, keep=0.5)
    cc.save(result, tmp_path)
    loaded = cc.load(lambda: Picking(torch.arange(16), bracket, persistent=persistent), tmp_path)
    assert torch.equal(loaded.get_buffer("index"), result.model.get_buffer("index"))
    assert torch.equal(loaded(X), result.model(X))


def test_a_cut_of_a_cut_loads_in_one_step(tmp_path: Path) -> None:
    first = cc.prune(Picking(ORDER, bracket).eval(), X, keep=0.75)
    second = cc.prune(first.model, X, keep=0.5)
    assert second.proof.passed
    cc.save(second, tmp_path)
    loaded = cc.load(lambda: Picking(ORDER, bracket), tmp_path)
    assert torch.equal(loaded(X), second.model(X))
    assert sorted(loaded.get_buffer("index").tolist()) == list(range(6))


def counted(x: Tensor, index: Tensor) -> Tensor:
    return x[:, index] * index.view(1, -1, 1, 1)


def shifted(x: Tensor, index: Tensor) -> Tensor:
    return x[:, (index + 1) % 16]


@pytest.mark.parametrize("pick", [counted, shifted])
def test_positions_that_are_read_as_numbers_too_hold_their_channels(pick: Callable[[Tensor, Tensor], Tensor]) -> None:
    groups = cc.analyze(Picking(ORDER, pick).eval(), X)
    assert not groups.groups or all(group.name != "a.0.weight" for group in groups.groups)
    (pin,) = [pin for pin in groups.pins if pin.reason == "indexed by a tensor"]
    assert "register_buffer" in pin.remedy


@pytest.mark.parametrize("pick", [lambda x, index: x[:, :, index], lambda x, index: x.index_select(2, index)])
def test_a_buffer_that_picks_rows_holds_no_channels(pick: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 16), conv(16, 4)
            self.register_buffer("index", torch.randperm(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(pick(self.a(x), self.index))

    result = cc.prune(Rows().eval(), X, keep=0.5)
    assert result.model.a[0].out_channels == 8
    assert not result.plan.indices


def test_a_plan_with_other_positions_is_no_proof() -> None:
    model = Picking(ORDER, bracket).eval()
    plan = cc.plan(model, cc.analyze(model, X), keep=0.5)
    assert cc.Plan.from_dict(plan.to_dict()) == plan
    turned = dataclasses.replace(plan, indices={"index": plan.indices["index"][::-1]})
    proof = cc.prove(model, cc.apply(model, turned), turned, X)
    assert not proof.passed
    assert proof.failures == ("the plan's values of index do not pick the kept channels",)
    short = dataclasses.replace(plan, indices={"index": plan.indices["index"][:-1]})
    with pytest.raises(cc.UserError, match="changed or damaged"):
        cc.apply(model, short)
