"""Dropout is left out of every recording alike: of the uncut model and of every cut copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import channelcut as cc


class Between(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.a, self.h, self.between = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1), between

    def forward(self, x):
        return self.h(self.between(self.a(x)))


DROPOUTS = {
    "three dimensional on a batch of maps": lambda x: F.dropout3d(x, 0.5, False),
    "one dimensional on one map": lambda x: F.dropout1d(x.flatten(2)[0], 0.5, False)[None, ..., None],
    "active in evaluation": lambda x: F.dropout(x, 0.5, True),
    "whole channels, active in evaluation": lambda x: F.dropout2d(x, 0.5, True),
    "in place": lambda x: torch.dropout_(x, 0.5, True),
    "of feature maps": lambda x: torch.feature_dropout(x, 0.5, True),
    "by keyword": lambda x: F.dropout(input=x, p=0.5, training=False),
    "alpha": lambda x: F.feature_alpha_dropout(x, 0.5, True),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_holds_nothing(name):
    result = cc.prune(Between(DROPOUTS[name]).eval(), torch.rand(1, 3, 8, 8), keep=0.5)
    assert [(group.width, group.kept) for group in result.plan.groups] == [(16, 8)]
    assert result.proof.passed
