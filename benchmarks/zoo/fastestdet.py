"""FastestDet: a one-stage, anchor-free detector of 0.24 M parameters for 80 COCO classes.

The backbone is ShuffleNetV2 (Ma et al., 2018, arXiv:1807.11164); its three scales are brought to one 22×22 map,
mixed by parallel chains of depthwise 5×5 convolutions, and read by one decoupled head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from benchmarks.zoo.data import Frame

INPUT_SIZE = 352
STRIDE = 16
CLASSES = 80


def _conv_bn(width_in: int, width_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width_out)]


def _conv_bn_relu(width_in: int, width_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [*_conv_bn(width_in, width_out, kernel, stride=stride, groups=groups), nn.ReLU(inplace=True)]


def _halves_by_parity(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split (N, C, H, W) into its even and its odd channels: the channel shuffle and the split after it, in one."""
    n, c, h, w = x.shape
    pairs = x.reshape(n, c // 2, 2, h, w).permute(2, 0, 1, 3, 4)
    return pairs[0], pairs[1]


class ShuffleUnit(nn.Module):
    """The ShuffleNetV2 unit: (N, C, H, W) to the same shape at stride 1, to (N, C_out, H/2, W/2) at stride 2."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # At stride 1 the unit sees one half of its input, so width_in is the half's width.
        width_main = width_out - width_in
        self.branch_main = nn.Sequential(
            *_conv_bn_relu(width_in, width_out // 2, 1),
            *_conv_bn(width_out // 2, width_out // 2, 3, stride=stride, groups=width_out // 2),
            *_conv_bn_relu(width_out // 2, width_main, 1),
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(
                *_conv_bn(width_in, width_in, 3, stride=2, groups=width_in), *_conv_bn_relu(width_in, width_in, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Join the untouched (or projected) half and the transformed half along the channels."""
        if self.stride == 1:
            kept, changed = _halves_by_parity(x)
            return torch.cat((kept, self.branch_main(changed)), 1)
        return torch.cat((self.branch_proj(x), self.branch_main(x)), 1)


def _stage(width_in: int, width_out: int, units: int) -> nn.Sequential:
    later = [ShuffleUnit(width_out // 2, width_out, 1) for _ in range(units - 1)]
    return nn.Sequential(ShuffleUnit(width_in, width_out, 2), *later)


class Backbone(nn.Module):
    """(N, 3, S, S) to maps of 48, 96 and 192 channels at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*_conv_bn_relu(3, 24, 3, stride=2))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(24, 48, 4)
        self.stage3 = _stage(48, 96, 8)
        self.stage4 = _stage(96, 192, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps at strides 8, 16 and 32."""
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class Pointwise(nn.Module):
    """A 1×1 convolution with batch norm and ReLU."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*_conv_bn_relu(width_in, width_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W)."""
        out: Tensor = self.conv1x1(x)
        return out


def _depthwise_chain(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(depth) for layer in _conv_bn_relu(width, width, 5, groups=width)))


class ScaleMixer(nn.Module):
    """One, two and three depthwise 5×5 convolutions in parallel, merged and added back: three receptive fields."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Pointwise(width_in, width)
        self.S1, self.S2, self.S3 = (_depthwise_chain(width, depth) for depth in (1, 2, 3))
        self.output = nn.Sequential(*_conv_bn(3 * width, width, 1))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H, W)."""
        x = self.Conv1x1(x)
        mixed = torch.cat((self.S1(x), self.S2(x), self.S3(x)), 1)
        out: Tensor = self.relu(x + self.output(mixed))
        return out


class Branch(nn.Module):
    """One task of the head: a depthwise 5×5 and a 1×1 convolution."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*_conv_bn_relu(width, width, 5, groups=width), *_conv_bn(width, width_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C_out, H, W)."""
        out: Tensor = self.conv5x5(x)
        return out


class Head(nn.Module):
    """Objectness, box and class of every cell: (N, C, H, W) to (N, 1 + 4 + classes, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Pointwise(width, width)
        self.obj_layers = Branch(width, 1)
        self.reg_layers = Branch(width, 4)
        self.cls_layers = Branch(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return sigmoid(objectness), the raw box and softmax(classes), joined along the channels."""
        x = self.conv1x1(x)
        objectness = torch.sigmoid(self.obj_layers(x))
        return torch.cat((objectness, self.reg_layers(x), torch.softmax(self.cls_layers(x), 1)), 1)


class FastestDet(nn.Module):
    """Images (N, 3, S, S), BGR in 0..1, to (N, 85, S/16, S/16): objectness, raw box, class probabilities."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.avg_pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.SPP = ScaleMixer(48 + 96 + 192, 96)
        self.detect_head = Head(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Run backbone, scale mixing and head."""
        fine, middle, coarse = self.backbone(x)
        joined = torch.cat((self.avg_pool(fine), middle, self.upsample(coarse)), 1)
        out: Tensor = self.detect_head(self.SPP(joined))
        return out


def build() -> nn.Module:
    """Return FastestDet for 80 classes with PyTorch's default initial weights, in training mode."""
    return FastestDet()


def load(assets: Path) -> nn.Module:
    """Return FastestDet with the weights of `assets`/weights/fastestdet.pth, in evaluation mode.

    Raises:
        UserError: the file is missing.
    """
    # Imported here so that this file alone, given to channelcut by its path, needs nothing but torch.
    from benchmarks.zoo.data import read_weights

    model = build()
    model.load_state_dict(read_weights(assets, "fastestdet.pth"), strict=True)
    return model.eval()


def preprocess(image: NDArray[np.uint8], size: int = INPUT_SIZE) -> tuple[Tensor, Frame]:
    """Stretch an RGB image (H, W, 3) to (3, size, size), BGR in 0..1; also return the way back."""
    from benchmarks.zoo.data import fit_image

    fitted, frame = fit_image(image, size, "stretch")
    return fitted.flip(0) / 255, frame


def detections(outputs: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
    """What the head's map (N, 85, H, W) detects, differentiable and not yet suppressed.

    `scores` (N, cells, classes) and `boxes` (N, cells, 4) as x1 y1 x2 y2 in input pixels.
    score = objectness^0.6 · class^0.4, centre = (cell + tanh) · stride, size = sigmoid · input size.
    """
    raw = outputs if isinstance(outputs, Tensor) else outputs[0]
    n, _, rows, columns = raw.shape
    scores = (raw[:, :1].clamp(min=0) ** 0.6 * raw[:, 5:].clamp(min=0) ** 0.4).flatten(2).transpose(1, 2)
    cell_y, cell_x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cell = torch.stack((cell_x, cell_y), -1).to(raw)
    centre = (cell + raw[:, 1:3].tanh().permute(0, 2, 3, 1)) * STRIDE
    half = raw[:, 3:5].sigmoid().permute(0, 2, 3, 1) * torch.tensor([columns, rows]).to(raw) * STRIDE / 2
    return {"scores": scores, "boxes": torch.cat((centre - half, centre + half), -1).reshape(n, rows * columns, 4)}


def decode(
    outputs: Tensor | Sequence[Tensor], min_score: float = 0.001
) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Turn the head's map (N, 85, H, W) into candidates per image.

    Each is (boxes (K, 4) as x1 y1 x2 y2 in input pixels, scores (K,), classes (K,)), not yet suppressed; a cell may
    appear once for every class.
    """
    from benchmarks.zoo.metrics import candidates

    found = detections((outputs if isinstance(outputs, Tensor) else outputs[0]).detach().float().cpu())
    return candidates(found["scores"], found["boxes"], min_score)
