"""A small anchor-free detector that gathers the shapes which make channel pruning hard.

Split and concatenated residual blocks, depthwise convolutions, a chain of poolings, a top-down and bottom-up neck, and
decoupled heads at two scales. The file stands alone: ``channelcut compress examples/digits_detector.py:build`` needs no
other file of this folder. The structure follows the published descriptions of CSPNet (Wang et al. 2020, arXiv
1911.11929), the path aggregation network (Liu et al. 2018, arXiv 1803.01534), spatial pyramid pooling (He et al. 2015,
arXiv 1406.4729) and the decoupled anchor-free heads of FCOS (Tian et al. 2019, arXiv 1904.01355) and YOLOX (Ge et al.
2021, arXiv 2107.08430).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 10
STRIDES = (8, 16)
IMAGE_SIZE = 128


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, SiLU: (B, in, H, W) to (B, out, H/stride, W/stride)."""

    def __init__(self, in_width: int, out_width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(in_width, out_width, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_width), nn.SiLU(inplace=True))


class DepthwiseSeparable(nn.Sequential):
    """A 3×3 depthwise convolution, then a 1×1 that mixes the channels."""

    def __init__(self, in_width: int, out_width: int, stride: int = 1) -> None:
        spatial = ConvNormAct(in_width, in_width, 3, stride, groups=in_width)
        super().__init__(spatial, ConvNormAct(in_width, out_width))


class Residual(nn.Module):
    """Two 3×3 convolutions around an identity: the widths in and out must stay equal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNormAct(width, width, 3)
        self.second = ConvNormAct(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, width, H, W)."""
        refined: Tensor = self.second(self.first(x))
        return x + refined


class SplitConcat(nn.Module):
    """Cross-stage partial block: expand, chunk in two, refine one half repeatedly, concatenate every stage, mix."""

    def __init__(self, in_width: int, out_width: int, repeats: int = 1) -> None:
        super().__init__()
        half = out_width // 2
        self.expand = ConvNormAct(in_width, 2 * half)
        self.blocks = nn.ModuleList([Residual(half) for _ in range(repeats)])
        self.mix = ConvNormAct((2 + repeats) * half, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H, W)."""
        pieces = list(self.expand(x).chunk(2, 1))
        for block in self.blocks:
            pieces.append(block(pieces[-1]))
        mixed: Tensor = self.mix(torch.cat(pieces, 1))
        return mixed


class PoolChain(nn.Module):
    """Three 5×5 max poolings in a row, concatenated with their input: receptive fields 1, 5, 9 and 13."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(width, width // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.mix = ConvNormAct(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, width, H, W)."""
        stages = [self.reduce(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        mixed: Tensor = self.mix(torch.cat(stages, 1))
        return mixed


class Head(nn.Module):
    """Decoupled head of one scale: 4 box distances and one logit per class for every cell."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.box = nn.Sequential(DepthwiseSeparable(in_width, width), DepthwiseSeparable(width, width))
        self.box_out = nn.Conv2d(width, 4, 1)
        self.classes = nn.Sequential(DepthwiseSeparable(in_width, width), DepthwiseSeparable(width, width))
        self.class_out = nn.Conv2d(width, NUM_CLASSES, 1)
        # A rare-object prior of 1 % keeps the background from swamping the first steps (focal loss, arXiv 1708.02002).
        nn.init.constant_(self.class_out.bias, -math.log(99.0))  # type: ignore[arg-type]
        nn.init.constant_(self.box_out.bias, 1.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, 4 + classes, H, W), box distances first."""
        return torch.cat((self.box_out(self.box(x)), self.class_out(self.classes(x))), 1)


class DigitsDetector(nn.Module):
    """Backbone to stride 16, neck down and up again, heads at strides 8 and 16.

    Input: (B, 3, H, W) RGB in 0..1 without mean or deviation, H and W multiples of 16.
    Output: raw maps (B, 14, H/8, W/8) and (B, 14, H/16, W/16), see `digits_map.decode`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNormAct(3, 16, 3, 2), ConvNormAct(16, 32, 3, 2))
        self.stage8 = nn.Sequential(ConvNormAct(32, 64, 3, 2), SplitConcat(64, 64, 2))
        self.stage16 = nn.Sequential(DepthwiseSeparable(64, 128, 2), SplitConcat(128, 128), PoolChain(128))
        self.top_down = SplitConcat(128 + 64, 64)
        self.down = DepthwiseSeparable(64, 64, 2)
        self.bottom_up = SplitConcat(64 + 128, 96)
        self.heads = nn.ModuleList([Head(64, 48), Head(96, 48)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw maps of strides 8 and 16."""
        fine = self.stage8(self.stem(x))
        coarse = self.stage16(fine)
        lifted = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = self.top_down(torch.cat((lifted, fine), 1))
        coarse = self.bottom_up(torch.cat((self.down(fine), coarse), 1))
        return self.heads[0](fine), self.heads[1](coarse)


def build() -> nn.Module:
    """Return the untrained detector in training mode, ready for `load_state_dict`."""
    return DigitsDetector()
