"""Residual blocks that go as wholes: found by what they compute, proven, and gone without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import channelcut as cc
from channelcut.coupling.branches import residual_blocks

X = torch.rand(2, 3, 12, 12)
ACT = nn.SiLU()  # shared: the trace names it after its first place


class Plain(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(width, 12, 3, 1, 1), nn.Conv2d(12, width, 3, 1, 1), ACT
        self.f, self.sources = -1, [1, 2]  # what the parent's forward may read

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.act(self.a(x)))


class Basic(nn.Module):
    def __init__(self, act: Any = F.relu_) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.last = act

    def forward(self, x: Tensor) -> Tensor:
        out = self.b(F.relu(self.n(self.a(x)), inplace=True))
        out += x
        return self.last(out)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.one(x)
        return x + torch.tanh(self.two(x))


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, 1, 1), ACT
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.act(self.stem(x)))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net(Basic(), Plain(), Twice(), nn.Sequential(nn.Conv2d(8, 8, 1))).eval()


def test_blocks_are_found_by_what_they_compute(net: Net) -> None:
    found = residual_blocks(cc.analyze(net, X).graph)
    assert [(block.module, len(block.sums)) for block in found] == [("blocks.0", 1), ("blocks.1", 1), ("blocks.2", 2)]
    lone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    assert residual_blocks(cc.analyze(lone, X).graph) == ()


def test_a_network_without_blocks_is_what_its_branches_at_zero_make_of_it(net: Net) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = cc.drop_blocks(net, X, ["blocks.1", "blocks.2"])
    assert result.proof.passed
    assert result.proof.max_relative_error < 1e-9 < result.proof.signal
    assert result.plan.dropped == ("blocks.1", "blocks.2")
    assert isinstance(result.model.blocks[1], nn.Identity)  # type: ignore[index,union-attr]
    assert (result.model.blocks[1].f, result.model.blocks[1].sources) == (-1, [1, 2])  # type: ignore[index,union-attr]
    assert 0 < result.plan.after.macs < result.plan.before.macs
    expected = net.head(net.blocks[3](net.blocks[0](F.relu(ACT(net.stem(X))))))
    assert torch.allclose(result.model(X), expected, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_block_whose_activation_changes_what_it_was_given_is_refused(net: Net) -> None:
    net.blocks[0] = Basic(F.gelu)
    with pytest.raises(cc.ProofError, match=r"Without blocks\.0 the network does not compute"):
        cc.drop_blocks(net, X, ["blocks.0"])
    for wrong in (["blocks.3"], "head", [], 7, 0):
        with pytest.raises(cc.UserError, match=r"no residual block|residual blocks that could go"):
            cc.drop_blocks(net, X, wrong)


def test_groups_are_what_analyze_returns(net: Net) -> None:
    with pytest.raises(cc.UserError, match=r"groups is an int.*channelcut\.analyze"):
        cc.drop_blocks(net, X, 1, groups=3)  # type: ignore[arg-type]


def test_the_least_missed_block_goes_first(net: Net) -> None:
    with torch.no_grad():
        net.blocks[1].b.weight.mul_(1e-3)  # type: ignore[union-attr,operator]
        net.blocks[1].b.bias.mul_(1e-3)  # type: ignore[union-attr,operator]
    assert cc.drop_blocks(net, X, 1).plan.dropped == ("blocks.1",)
    assert cc.drop_blocks(net, X, 1, calibration=torch.rand(8, 3, 12, 12)).plan.dropped == ("blocks.1",)


def test_what_is_left_is_pruned_stored_and_written_without_a_trace(net: Net, tmp_path: Path) -> None:
    shorter = cc.drop_blocks(net, X, ["blocks.0"])
    result = cc.prune(shorter.model, X, keep=0.5)
    assert result.proof.passed
    assert result.plan.dropped == ("blocks.0",)
    cc.save(result, tmp_path / "out")
    loaded = cc.load(lambda: Net(Basic(), Plain(), Twice(), nn.Sequential(nn.Conv2d(8, 8, 1))), tmp_path / "out")
    assert torch.equal(loaded(X), result.model(X))
    cc.export(result.model, tmp_path / "model.onnx", X)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert sum(node.op_type == "Add" for node in nodes) == 3
    assert all("channelcut" not in type(module).__module__ for module in result.model.modules())
