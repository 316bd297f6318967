"""Blocks in one another, blocks that exclude holds, and blocks of which the forward reads more than the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.depth.finding import blocks_of

X = torch.rand(2, 3, 8, 8)


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))


class Block(nn.Module):
    """It adds; `inner` is within."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.inner, self.b = nn.Conv2d(8, 8, 1), inner or nn.ReLU(), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.inner(torch.relu(self.a(x))))


class Late(Block):
    """A step stands behind the sum."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(super().forward(x))


class Net(nn.Module):
    """Two branches, of which `how` says what the forward does with the first."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.stem, self.first, self.mid, self.second = nn.Conv2d(3, 8, 3, 1, 1), body(), nn.Conv2d(8, 8, 1), body()
        self.gamma, self.head, self.how = nn.Parameter(torch.rand(8)), nn.Conv2d(8, 4, 1), how
        if how == "in place":
            self.first = nn.Sequential(nn.ReLU(), *body())
        if how == "lent":
            self.mid.weight = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.how == "in place":
            x += self.first(x)
        elif self.how == "scaled":
            x = x + self.first(x) * self.gamma.view(1, -1, 1, 1)
        elif self.how == "divided":
            x = x + self.first(x) / 3
        else:
            depth = len(self.first) if self.how == "measured" else 1
            x = x + self.first(x) + 0 * depth
        x = torch.relu(self.mid(x))
        return self.head(x + self.second(x))


def seeded(make: Any, *given: Any) -> Any:
    torch.manual_seed(0)
    return make(*given).eval()


def found(net: nn.Module) -> list[str]:
    return list(blocks_of(net, cc.analyze(net, X), ((X,), {})))


def test_a_block_in_another_goes_with_it() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Block(Block()), Block(), nn.Conv2d(8, 2, 1)))
    assert found(net) == ["1", "1.inner", "2"]
    assert cc.drop_blocks(net, X, ["1.inner", "1"]).plan.dropped == ("1",)
    most = cc.drop_blocks(net, X, 2).plan.dropped
    assert len(most) == 2
    assert {"1", "1.inner"} - set(most)
    with pytest.raises(cc.UserError, match="has 2 residual blocks"):
        cc.drop_blocks(net, X, 3)
    for limit in (0.7, 0.3):
        assert "1" not in cc.prune(net, X, macs=limit, blocks="auto").plan.dropped  # the innermost one is offered


def test_what_cannot_be_proven_is_not_chosen() -> None:
    def weak(block: Block) -> Block:
        with torch.no_grad():
            block.b.weight.mul_(1e-3)
        return block

    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), weak(Late(nn.GELU())), weak(Block()), nn.Conv2d(8, 2, 1)))
    assert found(net) == ["1", "2"]
    assert cc.prune(net, X, macs=0.4, blocks="auto").plan.dropped == ("2",)
    assert cc.prune(net[:2], X, macs=0.6, blocks="auto").plan.dropped == ()
    written = seeded(Net, "in place")
    with torch.no_grad():
        written.first[3].weight.mul_(1e-3)
        written.first[3].bias.mul_(1e-3)
    assert "first" not in cc.prune(written, X, macs=0.4, blocks="auto").plan.dropped
    with pytest.raises(cc.ProofError, match="Without 1 the network does not compute"):
        cc.prune(net, X, macs=0.4, blocks=["1"])


def test_what_has_weights_behind_its_sum_is_no_whole_block() -> None:
    for step in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)):
        net = seeded(lambda step=step: nn.Sequential(nn.Conv2d(3, 8, 1), Late(step), nn.Conv2d(8, 2, 1)))
        net[1].a, net[1].b = nn.Identity(), body()
        assert found(net) == ["1.b"]


def test_what_is_excluded_stays_with_the_block_that_holds_it() -> None:
    net = seeded(Net)
    for exclude in ([net.first[0]], "first.0", "*.0"):
        with pytest.raises(cc.UserError, match=r"'first' is to go, and exclude holds first\.0\.weight"):
            cc.prune(net, X, keep=0.5, blocks=["first"], exclude=exclude)
        assert "first" not in cc.prune(net, X, macs=0.4, blocks="auto", exclude=exclude).plan.dropped
    result: Any = cc.prune(net, X, keep=0.5, blocks=["first"], exclude=[net.mid])
    assert (result.model.stem.out_channels, result.model.mid.out_channels) == (4, 8)
    assert result.plan.options["exclude"] == ["mid"]


def test_a_plan_of_blocks_alone_says_what_was_asked_for() -> None:
    plan = cc.prune(seeded(Net), X, macs=0.9, blocks=["first"]).plan
    assert {name: plan.options.get(name) for name in ("importance", "input", "macs", "blocks")} == {
        "importance": "l2",
        "input": "2x3x8x8",
        "macs": 0.9,
        "blocks": ["first"],
    }


def test_a_tiny_limit_is_no_share_of_the_rest() -> None:
    with pytest.raises(cc.BudgetError, match=r"Without first, of the network that is left: .* params=\d+") as caught:
        cc.prune(seeded(Net), X, params=0.0004, blocks=["first"])
    assert "Of the whole network the nearest possible budget is params=0.0" in str(caught.value)


def test_what_lost_channels_before_its_block_went_is_no_place_to_recover_by() -> None:
    net = seeded(Net)
    cut = cc.prune(net, X, keep=0.5, restore="none")
    result = cc.recover(net, cc.drop_blocks(cut.model, X, ["first"]), torch.rand(4, 3, 8, 8), epochs=1)
    assert result.plan.dropped == ("first",)


@pytest.mark.parametrize("how", ["scaled", "divided"])
def test_a_factor_behind_a_branch_goes_with_it(how: str, tmp_path: Path) -> None:
    net = seeded(Net, how)
    assert found(net) == ["first", "second"]
    cc.export(cc.drop_blocks(net, X, ["first"]), tmp_path / "model.onnx", X)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert sorted(kinds) == ["Add", "Conv", "Conv", "Conv", "Conv", "Conv", "Relu", "Relu"]


def test_a_block_whose_weights_another_layer_has_stays() -> None:
    assert found(seeded(Net, "lent")) == ["second"]
    shared = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Block(), Block(), nn.Conv2d(8, 8, 1)))
    shared[3].weight = shared[1].a.weight
    assert found(shared) == ["2"]


def test_a_block_that_the_forward_measures_stays() -> None:
    net = seeded(Net, "measured")
    with pytest.raises(cc.UserError, match=r"Without first the model's forward does not run \(TypeError: .*len"):
        cc.drop_blocks(net, X, ["first"])
    assert cc.drop_blocks(net, X, 1).plan.dropped == ("second",)
    assert "first" not in cc.prune(net, X, macs=0.5, blocks="auto").plan.dropped


def test_a_sum_in_place_that_no_training_survives_is_said() -> None:
    with pytest.raises(cc.ProofError, match=r"Without first the network could not be trained.*write x = x \+"):
        cc.drop_blocks(seeded(Net, "in place"), X, ["first"])


def test_a_number_in_a_tensor_names_no_blocks() -> None:
    with pytest.raises(cc.UserError, match=r"blocks=tensor\(1\) names no residual blocks"):
        cc.drop_blocks(seeded(Net), X, torch.tensor(1))  # type: ignore[arg-type]
