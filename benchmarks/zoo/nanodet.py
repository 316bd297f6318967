"""NanoDet-m: an anchor-free detector of 0.95 M parameters for 80 COCO classes.

ShuffleNetV2 1.0x (arXiv:1807.11164) with leaky ReLU, a path-aggregation neck (Liu et al., 2018, arXiv:1803.01534)
whose only weights are the 1×1 laterals, and a generalised-focal-loss head that predicts each side of a box as a
distribution (Li et al., 2020, arXiv:2006.04388).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from benchmarks.zoo.data import Frame

INPUT_SIZE = 320
STRIDES = (8, 16, 32)
CLASSES = 80
REG_MAX = 7
MEAN_BGR = (103.53, 116.28, 123.675)
STD_BGR = (57.375, 57.12, 58.395)


def _conv_bn(width_in: int, width_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width_out)]


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1, inplace=True)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channel groups of (N, C, H, W): channel g·C/groups + i moves to i·groups + g."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """The ShuffleNetV2 unit: (N, C, H, W) to the same shape at stride 1, to (N, C_out, H/2, W/2) at stride 2."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = width_out // 2
        if stride == 2:
            self.branch1 = nn.Sequential(
                *_conv_bn(width_in, width_in, 3, stride=2, groups=width_in), *_conv_bn(width_in, half, 1), _leaky()
            )
        self.branch2 = nn.Sequential(
            *_conv_bn(width_in if stride == 2 else half, half, 1),
            _leaky(),
            *_conv_bn(half, half, 3, stride=stride, groups=half),
            *_conv_bn(half, half, 1),
            _leaky(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform one half (or both, at stride 2), join and shuffle."""
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
            out = torch.cat((kept, self.branch2(changed)), 1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), 1)
        return channel_shuffle(out, 2)


def _stage(width_in: int, width_out: int, units: int) -> nn.Sequential:
    later = [ShuffleUnit(width_out, width_out, 1) for _ in range(units - 1)]
    return nn.Sequential(ShuffleUnit(width_in, width_out, 2), *later)


class Backbone(nn.Module):
    """(N, 3, S, S) to maps of 116, 232 and 464 channels at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_conv_bn(3, 24, 3, stride=2), _leaky())
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(24, 116, 4)
        self.stage3 = _stage(116, 232, 8)
        self.stage4 = _stage(232, 464, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps at strides 8, 16 and 32."""
        fine = self.stage2(self.maxpool(self.conv1(x)))
        middle = self.stage3(fine)
        return [fine, middle, self.stage4(middle)]


class Lateral(nn.Module):
    """A 1×1 convolution without norm or activation."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W)."""
        out: Tensor = self.conv(x)
        return out


class Neck(nn.Module):
    """Path aggregation by addition: coarse maps are added to finer ones, then fine ones to coarser."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Lateral(width_in, width) for width_in in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn maps (N, widths[i], H_i, W_i) into as many of (N, width, H_i, W_i)."""
        mixed = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(mixed) - 1, 0, -1):
            mixed[i - 1] = mixed[i - 1] + F.interpolate(mixed[i], scale_factor=2.0, mode="bilinear")
        for i in range(len(mixed) - 1):
            mixed[i + 1] = mixed[i + 1] + F.interpolate(mixed[i], scale_factor=0.5, mode="bilinear")
        return mixed


class SeparableConv(nn.Module):
    """A depthwise 3×3 and a 1×1 convolution, each with batch norm and leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.dwnorm = nn.BatchNorm2d(width)
        self.pwnorm = nn.BatchNorm2d(width)
        self.act = _leaky()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        x = self.act(self.dwnorm(self.depthwise(x)))
        out: Tensor = self.act(self.pwnorm(self.pointwise(x)))
        return out


class Head(nn.Module):
    """Per scale two separable convolutions, then classes and box distributions from one 1×1 convolution."""

    def __init__(self, width: int, classes: int, reg_max: int) -> None:
        super().__init__()
        self.cls_convs = nn.ModuleList(nn.Sequential(SeparableConv(width), SeparableConv(width)) for _ in STRIDES)
        self.gfl_cls = nn.ModuleList(nn.Conv2d(width, classes + 4 * (reg_max + 1), 1) for _ in STRIDES)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Turn maps (N, C, H_i, W_i) into logits (N, classes + 4·(reg_max + 1), H_i, W_i)."""
        return tuple(predict(convs(x)) for predict, convs, x in zip(self.gfl_cls, self.cls_convs, maps, strict=True))


class NanoDet(nn.Module):
    """Images (N, 3, S, S), BGR normalised, to logits (N, 112, S/8, S/8), and the same at strides 16 and 32."""

    def __init__(self, classes: int = CLASSES, reg_max: int = REG_MAX) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fpn = Neck((116, 232, 464), 96)
        self.head = Head(96, classes, reg_max)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run backbone, neck and head."""
        out: tuple[Tensor, ...] = self.head(self.fpn(self.backbone(x)))
        return out


def build() -> nn.Module:
    """Return NanoDet-m for 80 classes with PyTorch's default initial weights, in training mode."""
    return NanoDet()


def load(assets: Path) -> nn.Module:
    """Return NanoDet-m with the weights of `assets`/weights/nanodet_m.pth, in evaluation mode.

    The file also holds `head.gfl_reg`, which the forward of this variant never uses, and the constant
    0..reg_max of the box decoding; both are dropped.

    Raises:
        UserError: the file is missing.
    """
    # Imported here so that this file alone, given to channelcut by its path, needs nothing but torch.
    from benchmarks.zoo.data import read_weights

    unused = ("head.gfl_reg.", "head.distribution_project.")
    state = {k: v for k, v in read_weights(assets, "nanodet_m.pth").items() if not k.startswith(unused)}
    model = build()
    model.load_state_dict(state, strict=True)
    return model.eval()


def preprocess(image: NDArray[np.uint8], size: int = INPUT_SIZE) -> tuple[Tensor, Frame]:
    """Fit an RGB image (H, W, 3) into the top left of (3, size, size), BGR normalised; also return the way back."""
    from benchmarks.zoo.data import fit_image

    fitted, frame = fit_image(image, size, "corner", pad=0)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN_BGR, STD_BGR))
    return (fitted.flip(0) - mean) / std, frame


def detections(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """What the logits of the three scales, each (N, 112, H_i, W_i), detect, differentiable and not yet suppressed.

    `scores` (N, cells, classes) and `boxes` (N, cells, 4) as x1 y1 x2 y2 in input pixels. A side's distance is the mean
    of its softmax over 0..7, in units of the stride.
    """
    boxes, scores = [], []
    for stride, raw in zip(STRIDES, outputs, strict=True):
        n, _, rows, columns = raw.shape
        grid_y, grid_x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centre = (torch.stack((grid_x, grid_y), -1).reshape(1, -1, 2).to(raw) + 0.5) * stride
        cells = raw.permute(0, 2, 3, 1).reshape(n, rows * columns, -1)
        steps = torch.arange(REG_MAX + 1).to(raw)
        sides = cells[..., CLASSES:].reshape(n, rows * columns, 4, REG_MAX + 1).softmax(-1) @ steps * stride
        boxes.append(torch.cat((centre - sides[..., :2], centre + sides[..., 2:]), -1))
        scores.append(cells[..., :CLASSES].sigmoid())
    return {"scores": torch.cat(scores, 1), "boxes": torch.cat(boxes, 1)}


def decode(
    outputs: Sequence[Tensor], min_score: float = 0.001
) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Turn the logits of the three scales, each (N, 112, H_i, W_i), into candidates per image.

    Each is (boxes (K, 4) as x1 y1 x2 y2 in input pixels, scores (K,), classes (K,)), not yet suppressed; a cell may
    appear once for every class.
    """
    from benchmarks.zoo.metrics import candidates

    found = detections([tensor.detach().float().cpu() for tensor in outputs])
    return candidates(found["scores"], found["boxes"], min_score)
