"""Ops that change a tensor's shape in place: what made the tensor keeps the shape that it had."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import channelcut as cc


class Between(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.h, self.o, self.between = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1), between

    def forward(self, x):
        return self.o(self.between(self.h(x).relu()))


def transposed(y):
    y = y.flatten(2)
    y.transpose_(1, 2)
    return (y * 2).transpose(1, 2).unsqueeze(-1)


def squeezed(y):
    y = y.unsqueeze(0) * 1
    y.squeeze_(0)
    return y * 2


def unsqueezed(y):
    y = y * 1
    y.unsqueeze_(0)
    return (y * 2)[0]


def swapped(y):
    y = y * 1
    y.swapaxes_(1, 3)
    return (y + 1).swapaxes(1, 3)


@pytest.mark.parametrize("between", [transposed, squeezed, unsqueezed, swapped])
def test_a_shape_changed_in_place_holds_nothing(between):
    result = cc.prune(Between(between).eval(), torch.rand(1, 2, 8, 4), keep=0.5)
    assert [(group.width, group.kept) for group in result.plan.groups] == [(8, 4)] and result.proof.passed


class Spectrum(nn.Module):
    """torch.stft ends in a transposition in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(33, 16, 1), nn.Conv1d(16, 4, 1)

    def forward(self, x):
        return self.b(self.a(torch.stft(x, 64, return_complex=True, window=torch.ones(64)).abs()).relu())


def test_a_spectrum_goes_in():
    result = cc.prune(Spectrum().eval(), torch.rand(1, 512), keep=0.5)
    assert [(group.width, group.kept) for group in result.plan.groups] == [(16, 8)] and result.proof.passed
