"""Weights that the forward computes: of parameters alone they are cut with these, of anything else they pin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import example
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import channelcut as cc
from channelcut.core.graph import Node
from channelcut.core.reasons import COMPUTED_WEIGHT
from channelcut.ops.registry import OPS
from channelcut.proof import lockstep


def convolution(weight: Callable[[Any], Tensor]) -> type[nn.Conv2d]:
    """A layer whose weight is computed in every forward."""

    class Computed(nn.Conv2d):
        def __init__(self, i: int, o: int, k: int = 3) -> None:
            super().__init__(i, o, k)
            self.gain = nn.Parameter(torch.rand(o, 1, 1, 1) + 0.5)
            self.register_buffer("mask", (torch.rand(o, i, k, k) > 0.3).float())

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, weight(self), self.bias * 2)

    return Computed


def standardised(layer: Any) -> Tensor:
    w = layer.weight
    return (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)


def flat(layer: Any) -> Tensor:
    rows = layer.weight.view(layer.out_channels, -1)
    return (rows - rows.mean(1, keepdim=True)).view(layer.weight.shape) * layer.gain


def rounded(layer: Any) -> Tensor:
    w = torch.tanh(layer.weight)
    return torch.round(w / w.abs().max() * 7) / 7


def demodulated(layer: Any) -> Tensor:
    return layer.weight * torch.rsqrt(layer.weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)


WEIGHTS: dict[str, Callable[[Any], Tensor]] = {
    "scaled": lambda layer: layer.weight * 0.5,
    "clamped": lambda layer: layer.weight.clamp(0.01, 0.5),  # which is not zero at zero
    "cast": lambda layer: layer.weight.half().float(),
    "masked": lambda layer: layer.weight * layer.mask * layer.gain.sigmoid(),
    "binary": lambda layer: layer.weight.sign() * layer.weight.abs().mean((1, 2, 3), keepdim=True),
    "unit length": lambda layer: F.normalize(layer.weight, dim=1),
    "a part of the kernel": lambda layer: layer.weight[:, :, 1:2, 1:2] + layer.weight.sum((2, 3), keepdim=True),
    "standardised": standardised,
    "flat": flat,
    "rounded": rounded,
    "demodulated": demodulated,
}


def network(layer: Callable[..., nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(layer(3, 16), nn.ReLU(), layer(16, 24), nn.ReLU(), nn.Conv2d(24, 5, 1)).eval()


def kept(model: nn.Module, x: Tensor, tracer: str = "dispatch") -> list[tuple[int, int]]:
    """The widths of the groups before and after a proven cut to half."""
    result = cc.prune(model, x, keep=0.5, tracer=tracer)
    assert result.proof.passed and result.proof.training == "passed"
    return sorted((group.width, group.kept) for group in result.plan.groups)


@pytest.mark.parametrize("tracer", ["dispatch", "export"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_function_of_parameters_is_cut_with_them(name: str, tracer: str) -> None:
    assert kept(network(convolution(WEIGHTS[name])), example(), tracer) == [(16, 8), (24, 12)]


class Absolute(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


def parametrized(i: int, o: int) -> nn.Module:
    layer = nn.Conv2d(i, o, 3)
    parametrize.register_parametrization(layer, "weight", Absolute())
    return layer


def sparse(i: int, o: int) -> nn.Module:
    return prune.l1_unstructured(nn.Conv2d(i, o, 3), "weight", 0.3)


class Reparametrized(nn.Module):
    """The deployed weight is made of the trained ones in the forward, through `.data`."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.a, self.b, self.deployed = nn.Conv2d(i, o, 3), nn.Conv2d(i, o, 1), nn.Conv2d(i, o, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.deployed.weight.data = self.a.weight.data + F.pad(self.b.weight.data, [1, 1, 1, 1])
        self.deployed.bias.data = self.a.bias.data + self.b.bias.data
        return self.deployed(x)


class Written(Reparametrized):
    """The same by a write in place."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.deployed.weight.copy_(self.a.weight + F.pad(self.b.weight, [1, 1, 1, 1]))
        return self.deployed(x)


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "parametrize": parametrized,
    "prune": sparse,
    "spectral norm": lambda i, o: parametrizations.spectral_norm(nn.Conv2d(i, o, 3)),
    "data": Reparametrized,
    "copy_": Written,
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_modules_make_of_parameters_is_cut_with_them(name: str) -> None:
    found = kept(network(LAYERS[name]), example())
    assert found == [(16, 8), (24, 12)]


def test_what_is_written_over_is_cut_as_well() -> None:
    result = cc.prune(network(Reparametrized), example(), keep=0.5)
    deployed = result.model[2].deployed
    assert deployed.weight.shape == (12, 8, 3, 3) and (deployed.in_channels, deployed.out_channels) == (8, 12)


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 0.5, self.bias, groups=self.groups)


@pytest.mark.parametrize(("groups", "expected"), [(16, (16, 8)), (4, (4, 2))])
def test_groups_of_a_computed_weight_go_like_those_of_a_stored_one(groups: int, expected: tuple[int, int]) -> None:
    torch.manual_seed(0)
    middle = Scaled(16, 16, 3, groups=groups)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), middle, nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    result = cc.prune(model, example(), keep=0.5)
    assert [(g.width, g.kept) for g in result.plan.groups] == [expected]
    assert result.model[1].groups == groups // 2 and result.model[1].weight.shape[0] == 8


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.b(self.a(x).relu()).relu()
        return self.head(x.float())


def test_autocast_computes_weights_in_another_type() -> None:
    torch.manual_seed(0)
    assert kept(Autocast().eval(), example()) == [(16, 8), (24, 12)]


class Adapted(nn.Linear):
    """A low-rank update that is merged in every forward."""

    def __init__(self, i: int, o: int, rank: int = 4) -> None:
        super().__init__(i, o)
        self.down, self.up = nn.Parameter(torch.randn(rank, i)), nn.Parameter(torch.randn(o, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + (self.up @ self.down) * 0.5, self.bias)


def test_a_merged_update_loses_rows_columns_and_ranks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(6, 16), nn.ReLU(), Adapted(16, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    result = cc.prune(model, torch.randn(3, 6), keep=0.5)
    assert sorted((g.width, g.kept) for g in result.plan.groups) == [(4, 2), (4, 2), (16, 8), (24, 12)]
    assert result.model[2].up.shape == (12, 2) and result.model[2].down.shape == (2, 8)


class MergedByConvolution(nn.Module):
    """Layers one after the other that are deployed as one, whose weight is one kernel convolved with the other."""

    def __init__(self, i: int, o: int, middle: int = 12) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(i, middle, 1), nn.Conv2d(middle, o, 3)

    def kernel(self) -> Tensor:
        return (
            F.conv2d(self.a.weight.permute(1, 0, 2, 3), self.b.weight.flip(2, 3), padding=2).flip(2, 3).transpose(0, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel()
        bias = F.conv2d(self.a.bias.view(1, -1, 1, 1), self.b.weight.sum((2, 3), keepdim=True), self.b.bias)
        return F.conv2d(x, kernel, bias.flatten(), padding=1)


class MergedTransposed(MergedByConvolution):
    def kernel(self) -> Tensor:
        kernel = self.b.weight.transpose(0, 1)
        return F.conv_transpose2d(self.a.weight.permute(1, 0, 2, 3), kernel, padding=0).transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.b.bias, padding=1)


class MergedAndWritten(MergedByConvolution):
    """The merged kernel is written into a layer of its own."""

    def __init__(self, i: int, o: int, middle: int = 12) -> None:
        super().__init__(i, o, middle)
        self.deployed = nn.Conv2d(i, o, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.deployed.weight.data = self.kernel()
        return self.deployed(F.pad(x, [1, 1, 1, 1]))


@pytest.mark.parametrize("layer", [MergedByConvolution, MergedTransposed, MergedAndWritten])
def test_weights_convolved_with_each_other_lose_what_is_between_them(layer: Callable[..., nn.Module]) -> None:
    model = network(layer)
    result = cc.prune(model, example(), keep=0.5)
    assert sorted((g.width, g.kept) for g in result.plan.groups) == [(12, 6), (12, 6), (16, 8), (24, 12)]
    assert result.model[2].b.weight.shape == (12, 6, 3, 3) and result.model[2].a.weight.shape == (6, 8, 1, 1)


def test_a_convolved_table_of_positions_stays_a_value() -> None:
    """Of one sample, a parameter is a value, and what a layer makes of it has channels like any other."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Parameter(torch.randn(1, 6, 8, 8)), nn.Conv2d(6, 16, 1)
            self.image, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(24, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.image(x), self.layer(self.table)], 1))

    torch.manual_seed(0)
    assert kept(Positions().eval(), torch.rand(1, 3, 8, 8)) == [(8, 4), (16, 8)]


class Pinned(nn.Conv2d):
    """A mask that is neither parameter nor buffer."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3)
        self.fixed = (torch.rand(o, i, 3, 3) > 0.3).float()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.fixed, self.bias)


class Dynamic(nn.Module):
    """A weight that the input makes."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.make, self.shape = nn.Linear(i, o * i * 9), (o, i, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.make(x.mean((0, 2, 3))).view(self.shape))


@pytest.mark.parametrize(
    "layer",
    [Pinned, Dynamic, lambda i, o: parametrizations.orthogonal(nn.Conv2d(i, o, 3))],
    ids=["fixed", "dynamic", "mixed"],
)
def test_any_other_computed_weight_pins_both_sides_with_the_reason(layer: Callable[[int, int], nn.Module]) -> None:
    groups = cc.analyze(network(layer), example())
    assert not [group for group in groups.groups if group.width in (16, 24)]
    held = {pin.module.split(".")[0]: pin for pin in groups.pins if pin.reason == COMPUTED_WEIGHT.text}
    assert len(held["0"].channels) >= 16 and len(held["2"].channels) >= 24
    assert held["0"].remedy.startswith("fuse first")


@pytest.mark.parametrize("name", ["clamped", "standardised"])
def test_the_proof_looks_at_what_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mask of a computed weight its removed columns count; statistics over all of it are not the cut's."""

    def over_all(node: Node, args: Any, kwargs: Any, lines: Any) -> Any:
        assert node.target is not None
        return node.target(*args, **kwargs)

    if name == "clamped":
        monkeypatch.setattr(lockstep.Lockstep, "_read", lambda self, index: None)
    else:
        monkeypatch.setattr(lockstep, "of_kept_weights", over_all)
    with pytest.raises(cc.ProofError):
        cc.prune(network(convolution(WEIGHTS[name])), example(), keep=0.5)


def test_a_wrong_rule_for_parameters_is_refused() -> None:
    """The rows of the weight are turned around, and the rule says that they are not."""
    before = dict(OPS)
    try:
        cc_known = OPS["aten.flip"]
        OPS["aten.flip"] = type(cc_known)(**{**vars(cc_known), "weights": OPS["aten.abs"].weights})
        with pytest.raises(cc.ProofError):
            cc.prune(network(convolution(lambda layer: layer.weight.flip(0))), example(), keep=0.5)
    finally:
        OPS.clear()
        OPS.update(before)
    groups = cc.analyze(network(convolution(lambda layer: layer.weight.flip(0))), example())
    assert not groups.groups and COMPUTED_WEIGHT.text in {pin.reason for pin in groups.pins}
