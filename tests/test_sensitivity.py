"""Squared output gradients by random projections, against the exact Jacobian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.sensitivity import Projections, Weighing, differentiable, projections, squared_gradients


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.b(self.act(self.a(x)))
        return {"map": y, "count": torch.zeros(len(x), dtype=torch.long)}


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().eval()
    return model.requires_grad_(False)  # as a checkpoint may be


def batch(images: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    return (torch.rand(images, 2, 4, 4, generator=torch.Generator().manual_seed(1)),), {}


def test_the_mean_over_projections_is_the_squared_jacobian() -> None:
    """A hook before an activation that works in place sees what the layer returned."""
    model = net()
    clone = differentiable(model)
    unit = Projections(Weighing(in_units=True))
    found = squared_gradients(clone, batch(1), ["a", "b"], unit, rounds=400)
    middle = model.a(*batch(1)[0])
    jacobian = torch.autograd.functional.jacobian(lambda z: model.b(nn.functional.silu(z)), middle)
    exact = jacobian.square().sum((0, 1, 2, 3))
    assert torch.allclose(found["a"][0], exact, rtol=0.4, atol=0.05 * float(exact.max()))
    assert abs(float(found["a"][0].sum() / exact.sum()) - 1) < 0.05
    assert torch.equal(found["b"][0], torch.ones_like(found["b"][0]))
    assert not any(p.requires_grad for p in model.parameters())


def test_signs_belong_to_images_not_to_batches() -> None:
    clone, layers = differentiable(net()), ["a"]
    given = batch(4)
    weighed = projections(clone, [given])
    whole = squared_gradients(clone, given, layers, weighed)["a"][0]
    parts = [
        squared_gradients(clone, ((given[0][0][i : i + 1],), {}), layers, weighed, first=i)["a"][0] for i in range(4)
    ]
    assert torch.allclose(whole, torch.cat(parts), rtol=1e-4, atol=1e-9)


def test_outputs_are_taken_in_their_own_deviation() -> None:
    clone = differentiable(net())
    before = projections(clone, [batch(8)]).factors[0]
    with torch.no_grad():
        clone.b.weight.mul_(10)
        clone.b.bias.mul_(10)
    assert before / projections(clone, [batch(8)]).factors[0] == pytest.approx(10, rel=1e-4)


def test_what_cannot_be_differentiated_is_said() -> None:
    class Blind(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"map": super().forward(x)["map"].detach()}

    with pytest.raises(UserError, match="No gradient reaches"):
        squared_gradients(differentiable(Blind().eval()), batch(1), ["a"], Projections(Weighing()))
    model = net()
    model.b.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        squared_gradients(differentiable(model), batch(1), ["a"], Projections(Weighing()))
