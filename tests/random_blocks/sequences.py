"""Recurrent layers over rows or columns, and sums over windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_blocks.base import WIDTHS, Options, Shape, block

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@block(
    "recurrent", cell=tuple(CELLS), width=WIDTHS, layers=(1, 2), both=(False, True), bias=(True, False),
    batch_first=(True, False), how=("rows", "columns", "last"),
)  # fmt: skip
class Recurrent(nn.Module):
    """Reads every row or column from one end or from both, or gates the map by the last state."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.how, self.batch_first = o.how, o.batch_first
        self.cell = CELLS[o.cell](
            shape[0], o.width, num_layers=o.layers, bias=o.bias, batch_first=o.batch_first, bidirectional=o.both
        )
        width = o.width if o.how == "last" else o.width * (1 + o.both)
        self.back = nn.Conv2d(width, shape[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        turned = x if self.how != "columns" else x.transpose(2, 3)
        lines = turned.permute(0, 2, 3, 1).flatten(0, 1)  # (N · H, W, C)
        output, states = self.cell(lines if self.batch_first else lines.transpose(0, 1))
        if self.how == "last":
            last = (states[0] if isinstance(states, tuple) else states)[-1]
            last = last.unflatten(0, turned.shape[::2][:2]).permute(0, 2, 1)[..., None]  # (N, width, H, 1)
            return x * torch.sigmoid(self.back(last))
        output = output if self.batch_first else output.transpose(0, 1)
        maps = output.unflatten(0, (x.shape[0], -1)).permute(0, 3, 1, 2)
        return x + self.back(maps if self.how != "columns" else maps.transpose(2, 3))


@block("windows", kernel=(3, 2), stride=(1, 2), how=("weighted", "plain", "strided"))
class Windows(nn.Module):
    """Overlapping windows, changed one by one and added up again; or windows of the map, averaged."""

    def __init__(self, shape: Shape, o: Options) -> None:
        super().__init__()
        self.kernel, self.stride, self.how = o.kernel, o.stride, o.how
        self.weights = nn.Conv2d(shape[0], o.kernel**2, o.kernel, o.stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "strided":
            return x + x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        n, c, h, w = x.shape
        parts = F.unfold(x, self.kernel, padding=1, stride=self.stride)
        if self.how == "weighted":
            parts = parts.view(n, c, self.kernel**2, -1) * torch.sigmoid(self.weights(x)).flatten(2).unsqueeze(1)
        return F.fold(parts.view(n, -1, parts.shape[-1]), (h, w), self.kernel, padding=1, stride=self.stride) + x
