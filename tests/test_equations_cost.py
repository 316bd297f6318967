"""A number that is no linear function keeps each of many lanes whole wherever it is used: each is read once."""

from __future__ import annotations

from channelcut.core.graph import Site
from channelcut.core.reasons import NUMBER_OF_WIDTH
from channelcut.coupling.linear import Linear
from channelcut.coupling.system import Row, Shares, tied

SITE = Site("aten.view", "", "net.py:1")


def row(difference: Linear) -> Row:
    return Row(difference, NUMBER_OF_WIDTH, SITE)


def test_many_rows_of_many_lanes_are_read_a_few_times(monkeypatch):
    merged = []
    plain = Linear.merged
    monkeypatch.setattr(Linear, "merged", lambda self, root: merged.append(1) or plain(self, root))
    whole = [row(Linear(1, {lane: -1})) for _ in range(50) for lane in range(100)]
    long = [row(Linear(0, {lane: -99 if lane == k else 1 for lane in range(200, 300)})) for k in range(200, 230)]
    shares = Shares()
    ties, held = tied([*whole, *long], shares)
    assert sorted(found.lanes for found in held) == [(lane,) for lane in range(100)]
    assert {lane for found in ties for lane in found.lanes} == set(range(200, 300))
    assert len({shares.root(lane) for lane in range(200, 300)}) == 1
    assert len(merged) < 300, "each row once, and no pass that can find nothing"
