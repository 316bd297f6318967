"""What survives keeps its size where a mean is of fewer channels, or a weight norm divides by a shorter length."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import channelcut as cc

X = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def zeroed(model: nn.Module, result: cc.PruneResult) -> nn.Module:
    """The original with everything at zero that the plan drops."""
    other = copy.deepcopy(model)
    tensors = dict(other.named_parameters())
    with torch.no_grad():
        for name, axes in result.plan.kept.items():
            for axis, positions in axes.items():
                gone = sorted(set(range(tensors[name].shape[axis])) - set(positions))
                tensors[name].index_fill_(axis, torch.tensor(gone), 0.0)
    return other


class Volume(nn.Module):
    """A cost volume: the mean of a product over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b((y * y.flip(3)).mean(1, keepdim=True))  # type: ignore[no-any-return]


class Beside(nn.Module):
    """A mean beside a sum and beside channels, read by one layer; and by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(34, 2, 7, padding=3)
        self.c = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x).relu()
        mean = y.mean(1, keepdim=True)
        return self.b(torch.cat([y.sum(1, keepdim=True), y, mean], 1)), self.c((mean / 2).flatten(1))


class Transposed(nn.Module):
    """A mean through pooling and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.ConvTranspose2d(1, 4, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.avg_pool2d(self.a(x).relu().mean(1, keepdim=True), 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("tracer", ["dispatch", "export"])
@pytest.mark.parametrize("network", [Volume, Beside, Transposed])
def test_what_reads_a_mean_is_scaled_by_kept_of_total(network: type[nn.Module], tracer: str) -> None:
    torch.manual_seed(0)
    model = network().eval()
    plain = cc.prune(model, X[:2], keep=0.5, tracer=tracer)
    result = cc.prune(model, X[:2], keep=0.5, tracer=tracer, rescale="always")
    as_cut, found, wanted = plain.model(X), result.model(X), zeroed(model, result)(X)
    if not isinstance(wanted, tuple):
        as_cut, found, wanted = (as_cut,), (found,), (wanted,)
    for cut, mine, theirs in zip(as_cut, found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(cut, theirs, rtol=1e-3, atol=1e-4)
    (change,) = result.plan.changes
    assert change["step"] == "rescale" and change["mean"] and result.rescaling is not None
    assert plain.plan.changes == () and plain.rescaling is None


def test_a_mean_that_something_else_reads_as_well_is_left_alone() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean = self.a(x).mean(1, keepdim=True)
            return self.b(mean), mean.sigmoid()

    assert cc.prune(Read().eval(), X[:2], keep=0.5, rescale="always").plan.changes == ()


WEIGHTS: dict[str, Any] = {
    "convolution": lambda: parametrizations.weight_norm(nn.Conv2d(32, 16, 3)),
    "transposed": lambda: parametrizations.weight_norm(nn.ConvTranspose2d(32, 16, 4, 2, 1)),
    "linear": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), parametrizations.weight_norm(nn.Linear(32, 16))
    ),
}


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
def test_surviving_weights_keep_their_size(kind: str) -> None:
    torch.manual_seed(0)
    last = nn.Linear(16, 2) if kind == "linear" else nn.Conv2d(16, 2, 1)
    model: Any = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), WEIGHTS[kind](), nn.ReLU(), last).eval()
    plain = cc.prune(model, X[:2], keep=0.5)
    result: Any = cc.prune(model, X[:2], keep=0.5, rescale="always")

    def weight(module: Any) -> Tensor:
        layer = module[2][2] if kind == "linear" else module[2]
        return layer.weight.detach()  # type: ignore[no-any-return]

    name = next(n for n in result.plan.kept if n.endswith("original1"))
    wanted = weight(model)
    for axis, positions in result.plan.kept[name].items():
        wanted = wanted.index_select(axis, torch.tensor(positions))
    torch.testing.assert_close(weight(result.model), wanted)
    assert weight(plain.model).norm() > 1.1 * wanted.norm()
    assert result.proof.passed and result.plan.changes[0]["weight_norm"]


def test_data_decide_for_each_kind() -> None:
    """Where all channels are alike the mean of the kept ones is right as it is; where the others are zero it is not."""
    torch.manual_seed(0)
    model = Volume().eval()
    for alike in (True, False):
        with torch.no_grad():
            model.a.weight[:], model.a.bias[:] = model.a.weight[:1], model.a.bias[:1]  # type: ignore[index]
            model.a.weight[16:] *= 1.0 - 1e-3 if alike else 1e-3
            model.a.bias[16:] *= 1.0 - 1e-3 if alike else 1e-3  # type: ignore[index]
        result = cc.prune(model, X[:2], keep=0.5, importance="l2", calibration=X, restore="recalibrate")
        steps = [change["step"] for change in result.plan.changes]
        assert steps == ["recalibrate"] if alike else ["rescale", "recalibrate"]
        if result.rescaling is not None:
            assert result.rescaling.after < result.rescaling.before
    assert cc.prune(model, X[:2], keep=0.5, calibration=X, rescale="never").rescaling is None


def test_a_rescaled_cut_is_saved_proven_and_cut_again(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), WEIGHTS["convolution"](), nn.Conv2d(16, 2, 1)).eval()
    build = copy.deepcopy(model)
    first = cc.prune(model, X[:2], keep=0.5, rescale="always")
    cc.save(first, tmp_path / "first")
    assert torch.equal(cc.load(lambda: copy.deepcopy(build), tmp_path / "first")(X), first.model(X))
    assert "rescale" in cc.prove(model, first.model, first.plan, X[:2]).note
    second = cc.prune(first.model, X[:2], keep=0.5, rescale="always")
    assert second.proof.passed and [change["round"] for change in second.plan.changes] == [1, 2]
    cc.save(second, tmp_path / "second")
    assert torch.equal(cc.load(lambda: copy.deepcopy(build), tmp_path / "second")(X), second.model(X))


def test_an_unknown_choice() -> None:
    with pytest.raises(cc.UserError, match=r"rescale='yes' is unknown: use 'auto' .*'always' or 'never'"):
        cc.prune(Volume().eval(), X[:2], keep=0.5, rescale="yes")
