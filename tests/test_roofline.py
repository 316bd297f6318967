"""Time without a device at hand: rooflines, tiles, waves, and what moves between layers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.core.groups import Groups
from channelcut.cost.bilinear import macs_cost
from channelcut.cost.devices import DEVICES, Device, device_named
from channelcut.cost.roofline import roofline

EXAMPLE = torch.rand(1, 3, 16, 16)
SLOW = Device("slow", "computes slowly", {"fp32": 1e6}, 1e6, 1e15, {"fp32": 8}, 0, "")
NARROW = Device("narrow", "moves slowly", {"fp32": 1e18}, 1e18, 1e6, {"fp32": 8}, 0, "")


class Net(nn.Module):
    """Two branches that are concatenated, a depthwise layer, a sum and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(3, 24, 3, 1, 1)
        self.c, self.norm, self.d = nn.Conv2d(40, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.e, self.head = nn.Conv2d(32, 48, 3, 1, 1), nn.Conv2d(48, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.c(torch.cat([self.a(x), self.b(x)], 1))))
        x = torch.max_pool2d(x + torch.relu(self.d(x)), 2)
        found: Tensor = self.head(torch.relu(self.e(x)))
        return found


@pytest.fixture(scope="module")
def groups() -> Groups:
    return cc.analyze(Net().eval(), EXAMPLE)


def widths_of(groups: Groups) -> np.ndarray:
    return np.array([group.width for group in groups.groups])


def test_where_arithmetic_is_slow_it_is_multiply_accumulates_at_whole_tiles(groups: Groups) -> None:
    cost, macs, full = roofline(groups, SLOW, "fp32"), macs_cost(groups), widths_of(groups)
    eights = np.maximum(8, full // 2 // 8 * 8)
    for widths in (full, eights):  # the 3 channels of the image count as 8, the 4 of the head too
        parts = cost.by_layer(widths)
        w = dict(zip((g.name.split(".")[0] for g in groups.groups), widths.tolist(), strict=True))
        expected = [256 * 9 * 8 * w["a"], 256 * 9 * 8 * w["b"], 256 * (w["a"] + w["b"]) * w["c"], 256 * 9 * w["c"]]
        expected += [64 * 9 * w["c"] * w["e"], 64 * w["e"] * 8]
        assert list(parts.values()) == pytest.approx([count / 1e6 * 1e3 for count in expected])
    last = np.array([0, 0, 0, 1])
    assert cost(eights) < cost(eights + last) == pytest.approx(cost(eights + 8 * last))
    assert macs(eights) < macs(eights + last) < macs(eights + 8 * last)


def test_where_memory_is_slow_it_is_bytes_activations_included(groups: Groups) -> None:
    cost, full = roofline(groups, NARROW, "fp32"), widths_of(groups)
    layers = {
        "a": 768 + 256 * 16 + 27 * 16 + 16, "b": 768 + 256 * 24 + 27 * 24 + 24, "c": 256 * (40 + 32) + 40 * 32 + 32,
        "d": 256 * 64 + 9 * 32 + 32, "e": 64 * (32 + 48) + 9 * 32 * 48 + 48, "head": 64 * (48 + 4) + 48 * 4 + 4,
    }  # fmt: skip
    assert cost.by_layer(full) == pytest.approx({name: 4 * count / 1e6 * 1e3 for name, count in layers.items()})
    # Concatenated: read and written; summed: the second value read; pooled: read and written. Norms are free.
    others = 256 * 80 + 256 * 32 + (256 + 64) * 32
    assert cost(full) == pytest.approx(sum(cost.by_layer(full).values()) + 4 * others / 1e6 * 1e3)


def test_its_tables_are_it_but_where_three_groups_meet(groups: Groups) -> None:
    cost = roofline(groups, SLOW, "fp32")
    steps = [np.arange(8, group.width + 1, 8) for group in groups.groups]
    tables = cost.pairwise(steps)
    for places in itertools.product(*(range(len(step)) for step in steps)):
        widths = np.array([step[i] for step, i in zip(steps, places, strict=True)])
        assert tables.at(places) == pytest.approx(cost(widths))
    uneven = [np.arange(1, group.width + 1) for group in groups.groups]
    off = [i - 4 for i in map(len, uneven)]  # a + b rounded together, or each by itself: not the same
    widths = np.array([step[i] for step, i in zip(uneven, off, strict=True)])
    assert cost.pairwise(uneven).at(off) == pytest.approx(cost(widths), rel=0.05)


def test_a_gpu_deals_blocks_in_waves() -> None:
    layer = nn.Sequential(nn.Conv2d(64, 512, 1), nn.Conv2d(512, 4, 1)).eval()
    groups = cc.analyze(layer, torch.rand(1, 64, 64, 64))
    two = Device("two", "two multiprocessors", {"fp16": 1e9}, 1e9, 1e15, {"fp16": 8}, 2, "")
    # 4096 positions are 16, 32 or 64 blocks high: never a wave that is half empty, but for narrow layers.
    cost = roofline(groups, two, "fp16")
    assert cost(np.array([512])) == pytest.approx(4096 * (64 * 512 + 512 * 32) / 1e9 * 1e3)  # 4 channels fill 32
    many = Device("many", "as many as blocks", {"fp16": 1e9}, 1e9, 1e15, {"fp16": 8}, 1024, "")
    narrow = roofline(groups, many, "fp16")
    first, more = (narrow.by_layer(np.array([width]))["0"] for width in (264, 288))
    assert first == pytest.approx(more)  # the last block is there anyway


def test_devices_are_described_with_their_sources() -> None:
    assert {"avx2", "avx512", "t4", "a10", "l4", "a100", "h100", "h200", "rtx4090", "orin-nano", "orin-agx"} == {
        *DEVICES
    }
    for device in DEVICES.values():
        assert "https://" in device.source
        assert device.rates["int8"] >= device.rates["fp16"] >= device.rates["fp32"] > 0
        assert device.tile("fp32") >= 4
    assert (device_named("avx2").tile("fp32"), device_named("avx512").tile("fp32")) == (8, 16)
    with pytest.raises(cc.UserError, match=r"'v100' is no device that is described.*avx2 .*orin-agx .*measure"):
        device_named("v100")
    with pytest.raises(cc.UserError, match=r"precision='fp8' is none that t4 is described in.*fp32, fp16, int8"):
        device_named("t4").tile("fp8")


def test_a_plan_for_a_described_device() -> None:
    model = Net().eval()
    groups = cc.analyze(model, EXAMPLE)
    cost = roofline(groups, "orin-nano", "fp16")
    plan = cc.plan(model, groups, latency=0.8, cost=cost, exclude=["b"])
    assert plan.options["align"] == 8  # the tile
    assert plan.options["allocation"]["gap"] == 0
    full = widths_of(groups)
    widths = np.array([{g.name: g.kept for g in plan.groups}.get(g.name, g.width) for g in groups.groups])
    assert cost(widths) <= 0.8 * cost(full)
