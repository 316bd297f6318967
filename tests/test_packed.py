"""A graph is cut off where values decide, and keeps what is written through views into what stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import channelcut as cc


class Packed(nn.Module):
    """Layers before a recurrent layer that reads a packed sequence."""

    def __init__(self, kind: type[nn.RNNBase], *, batch_first: bool, bidirectional: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.batch_first = nn.Linear(8, 24), nn.Linear(24, 16), batch_first
        self.rnn = kind(16, 32, batch_first=batch_first, bidirectional=bidirectional)
        self.head = nn.Linear(64 if bidirectional else 32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        packed = pack_padded_sequence(y, torch.tensor([6, 4]), batch_first=self.batch_first)
        found, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=self.batch_first)
        return self.head(found)  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_what_stands_before_a_packed_sequence_is_cut(kind: type[nn.RNNBase], batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Packed(kind, batch_first=batch_first).eval()
    result = cc.prune(model, torch.rand(*((2, 6, 8) if batch_first else (6, 2, 8))), keep=0.5)
    assert result.proof.passed and [(g.name, g.kept) for g in result.plan.groups] == [("a.weight", 12)]
    assert any("pack_padded_sequence" in str(pin) for pin in result.groups.pins)


def test_both_directions() -> None:
    model = Packed(nn.LSTM, batch_first=True, bidirectional=True).eval()
    assert cc.prune(model, torch.rand(2, 6, 8), keep=0.5).proof.passed


class Filled(nn.Module):
    """A part of a table is filled through a view of a view, beside a number that is read from the values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 24), nn.Linear(24, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        y = self.b(self.a(x).relu())
        table = torch.zeros(4, 2, 6)
        table[1:3][:, :1].copy_(y.view(2, 1, 6))
        return self.c(table), float(y.mean().item())


def test_what_is_written_through_views_is_seen() -> None:
    torch.manual_seed(0)
    result = cc.prune(Filled().eval(), torch.rand(2, 8), keep=0.5)
    assert result.proof.passed and [(g.name, g.kept) for g in result.plan.groups] == [("a.weight", 12)]
