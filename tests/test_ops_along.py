"""Ops that work on every channel alone are cut through, and pin along the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import example
from torch import Tensor, nn

import channelcut as cc
from benchmarks.aten import counted, page
from channelcut.core.reasons import DECIDE_ABOUT_OTHERS, HARD_CODED_POSITION, INDEXED
from channelcut.ops.registry import OPS, Op


class Middle(nn.Module):
    """A function between two layers, which may read layers of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: Any) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 1)
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.function(self, F.silu(self.a(x)))))


def gathered(net: Any, x: Tensor) -> Tensor:
    """The rows with the largest values, of every channel its own."""
    index = x.sum(3).topk(4, 2)[1]
    return x.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, x.shape[3]))


def scattered(net: Any, x: Tensor) -> Tensor:
    index = x.argmax(3, keepdim=True)
    return torch.zeros_like(x).scatter(3, index, x.gather(3, index))


def written(net: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, [0, 2]] = x[:, :, [1, 3]] * 2
    return x.index_add(3, torch.tensor([0, 1]), x[..., 2:4])


def unpooled(net: Any, x: Tensor) -> Tensor:
    return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)


def spectrum(net: Any, x: Tensor) -> Tensor:
    found = torch.fft.rfft2(x)
    return torch.fft.irfft2(torch.view_as_complex(torch.view_as_real(found) * 0.5) * found.abs().sqrt())


def statistics(net: Any, x: Tensor) -> Tensor:
    low, high = x.flatten(2).aminmax(dim=2, keepdim=True)
    deviation, mean = torch.std_mean(x, (2, 3), keepdim=True)
    return (x - mean) / (deviation + (high - low).unsqueeze(-1)) + x.nansum((2, 3), keepdim=True)


FUNCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "index": lambda net, x: x[:, :, [0, 2]],
    "index, two axes": lambda net, x: x[:, :, torch.tensor([[0], [2]]), torch.tensor([1, 3, 5])],
    "index_select": lambda net, x: x.index_select(3, torch.tensor([0, 2, 4])),
    "gather": gathered,
    "scatter": scattered,
    "written": written,
    "topk": lambda net, x: x.flatten(2).topk(4, -1)[0].unsqueeze(-1),
    "sort": lambda net, x: x.sort(2)[0],
    "median": lambda net, x: x.median(3, keepdim=True)[0],
    "kthvalue": lambda net, x: x.flatten(2).kthvalue(3, 2, keepdim=True)[0].unsqueeze(-1),
    "argmax": lambda net, x: x * x.argmax(3, keepdim=True),
    "cummax": lambda net, x: x.cummax(2)[0] + x.cumsum(3) + x.logcumsumexp(3),
    "diff": lambda net, x: x.diff(dim=2),
    "rot90": lambda net, x: x.rot90(1, (2, 3)).flip(2),
    "diagonal": lambda net, x: x.diagonal(dim1=2, dim2=3).diag_embed(),
    "tril": lambda net, x: x.tril() + x.triu(1),
    "fft": spectrum,
    "unpool": unpooled,
    "statistics": statistics,
    "lanczos": lambda net, x: F.interpolate(x, size=(9, 7), mode="bicubic", antialias=True),
    "activations": lambda net, x: F.hardshrink(x) + F.softshrink(x) + F.logsigmoid(x) + F.rrelu(x) + torch.erfc(x),
    "of several": lambda net, x: torch.hypot(x, x + 1) + torch.logaddexp(x, -x) + torch.copysign(x, x - 1),
    "in place": lambda net, x: x.clone().add_(1).clamp_min_(0.1).sqrt_().mul_(x),
    "quantised": lambda net, x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "grid": lambda net, x: F.grid_sample(x, net.grid.expand(len(x), -1, -1, -1), align_corners=False),
}
GRID = F.affine_grid(torch.eye(2, 3)[None] * 0.5, [1, 1, 5, 5], align_corners=False)


@pytest.mark.parametrize("front_end", ["dispatch", "export"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_op_that_acts_on_every_channel_alone_is_cut_through(name: str, front_end: str) -> None:
    torch.manual_seed(0)
    model = Middle(FUNCTIONS[name], grid=GRID).eval()
    result = cc.prune(model, example(), keep=0.5, tracer=front_end)
    assert result.proof.passed and result.model.a.out_channels == 8


def along_channels(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: function(x)


PINNED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "index": (lambda x: x[:, torch.arange(15, -1, -1)], INDEXED.text),
    "gather": (lambda x: x.gather(1, x.argsort(1)), DECIDE_ABOUT_OTHERS.text),
    "topk": (lambda x: x.topk(16, 1)[0], DECIDE_ABOUT_OTHERS.text),
    "fft": (lambda x: torch.fft.fft(x, dim=1).abs(), DECIDE_ABOUT_OTHERS.text),
    "rot90": (lambda x: F.pad(x, (0, 0, 0, 0))[..., :16].rot90(1, (1, 2)).contiguous(), HARD_CODED_POSITION.text),
}


@pytest.mark.parametrize("name", PINNED)
def test_along_the_channels_it_pins(name: str) -> None:
    function, reason = PINNED[name]
    groups = cc.analyze(Middle(along_channels(function)).eval(), example())
    assert "a.weight" not in {group.name for group in groups.groups}
    assert reason in {pin.reason for pin in groups.pins}


def test_every_op_that_torch_calls_pointwise_has_a_rule() -> None:
    """Of the registry of whatever torch is installed: a new one shows what it brought."""
    rules, missing, _ = counted()
    assert not missing["pointwise"] and len(rules["pointwise"]) > 200
    assert "| pointwise |" in page()


class Distances(nn.Module):
    """Tokens compared by their distance, and by a bilinear form."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.form = nn.Linear(3, 12), nn.Linear(3, 12), nn.Bilinear(12, 12, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        q, k = self.q(x), self.k(x)
        return self.head(self.form(q, k)) * torch.cdist(q, k).mean(2, keepdim=True)


def test_distances_and_bilinear_layers_sum_over_channels() -> None:
    torch.manual_seed(0)
    result = cc.prune(Distances().eval(), example(), keep=0.5)
    assert result.proof.passed
    assert result.model.form.weight.shape == (3, 6, 6)
    assert (result.model.form.in1_features, result.model.form.in2_features, result.model.form.out_features) == (6, 6, 3)


class Spectral(nn.Module):
    """A layer of its own for each frequency, with complex weights (Fourier neural operators)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(i, o, 5, 4, dtype=torch.cfloat) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.fft.rfft2(x)[:, :, :5, :4]
        return torch.fft.irfft2(torch.einsum("bixy,ioxy->boxy", found, self.weight), s=x.shape[-2:])


def test_complex_weights_of_frequencies_are_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), Spectral(12, 8), nn.GELU(), nn.Conv2d(8, 4, 1)).eval()
    result = cc.prune(model, example(), keep=0.5)
    assert result.proof.passed and result.model[1].weight.shape == (6, 4, 5, 4)


def test_a_wrong_rule_along_another_axis_is_refused() -> None:
    """A sort along the channels, said to leave them where they are."""
    before = dict(OPS)
    try:
        OPS["aten.sort"] = Op("aten.sort", rule=lambda call: (call.ids("self"), call.ids("self")))
        with pytest.raises(cc.ProofError):
            cc.prune(Middle(lambda net, x: x.sort(1)[0]).eval(), example(), keep=0.5)
    finally:
        OPS.clear()
        OPS.update(before)
