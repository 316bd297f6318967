"""YOLOv5n, version 6.0: an anchor-based detector of 1.87 M parameters for 80 COCO classes.

Cross-stage-partial blocks (Wang et al., 2019, arXiv:1911.11929) in a backbone with pyramid pooling (He et al., 2014,
arXiv:1406.4729) and a path-aggregation neck (Liu et al., 2018, arXiv:1803.01534). Every convolution is dense, with
batch norm and SiLU.
"""

from __future__ import annotations

import re
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

INPUT_SIZE = 416
STRIDES = (8, 16, 32)
CLASSES = 80
ANCHORS = (  # width and height in pixels, per stride
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
# The published file numbers its layers; here they have names. Later patterns see what earlier ones made.
RENAMES = (
    (r"^model\.0\.", "stem."),
    (r"^model\.1\.", "stage2.0."),
    (r"^model\.2\.", "stage2.1."),
    (r"^model\.3\.", "stage3.0."),
    (r"^model\.4\.", "stage3.1."),
    (r"^model\.5\.", "stage4.0."),
    (r"^model\.6\.", "stage4.1."),
    (r"^model\.7\.", "stage5.0."),
    (r"^model\.8\.", "stage5.1."),
    (r"^model\.9\.cv1\.", "stage5.2.reduce."),
    (r"^model\.9\.cv2\.", "stage5.2.merge."),
    (r"^model\.10\.", "lateral5."),
    (r"^model\.13\.", "up4."),
    (r"^model\.14\.", "lateral4."),
    (r"^model\.17\.", "up3."),
    (r"^model\.18\.", "down3."),
    (r"^model\.20\.", "out4."),
    (r"^model\.21\.", "down4."),
    (r"^model\.23\.", "out5."),
    (r"^model\.24\.m\.", "predict."),
    (r"\.m\.(\d+)\.cv1\.", r".units.\1.reduce."),
    (r"\.m\.(\d+)\.cv2\.", r".units.\1.spread."),
    (r"\.cv1\.", ".main."),
    (r"\.cv2\.", ".bypass."),
    (r"\.cv3\.", ".merge."),
)


class ConvUnit(nn.Module):
    """Convolution, batch norm and SiLU: (N, C_in, H, W) to (N, C_out, H/stride, W/stride)."""

    def __init__(self, width_in: int, width_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        # The 6×6 stem at stride 2 pads 2, as (kernel − 1) // 2 gives, and so keeps exactly half the extent.
        self.conv = nn.Conv2d(width_in, width_out, kernel, stride, (kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(width_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class Residual(nn.Module):
    """A 1×1 and a 3×3 convolution, added to the input where `shortcut` holds."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.reduce = ConvUnit(width, width, 1)
        self.spread = ConvUnit(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        out: Tensor = self.spread(self.reduce(x))
        return x + out if self.shortcut else out


class CrossStage(nn.Module):
    """Half the width passes the residual units, half bypasses them, and a 1×1 convolution merges the two."""

    def __init__(self, width_in: int, width_out: int, depth: int, *, shortcut: bool = True) -> None:
        super().__init__()
        half = width_out // 2
        self.main = ConvUnit(width_in, half)
        self.bypass = ConvUnit(width_in, half)
        self.units = nn.Sequential(*(Residual(half, shortcut) for _ in range(depth)))
        self.merge = ConvUnit(2 * half, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H, W)."""
        out: Tensor = self.merge(torch.cat((self.units(self.main(x)), self.bypass(x)), 1))
        return out


class PyramidPool(nn.Module):
    """The map and its 5×5, 9×9 and 13×13 maxima (three chained 5×5 poolings), merged by a 1×1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = ConvUnit(width, width // 2)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.merge = ConvUnit(4 * (width // 2), width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        out: Tensor = self.merge(torch.cat(maps, 1))
        return out


class YoloV5n(nn.Module):
    """Images (N, 3, S, S), RGB in 0..1, to raw maps (N, 3·(5 + classes), S/8, S/8), and at strides 16 and 32."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 16, 6, 2)
        self.stage2 = nn.Sequential(ConvUnit(16, 32, 3, 2), CrossStage(32, 32, 1))
        self.stage3 = nn.Sequential(ConvUnit(32, 64, 3, 2), CrossStage(64, 64, 2))
        self.stage4 = nn.Sequential(ConvUnit(64, 128, 3, 2), CrossStage(128, 128, 3))
        self.stage5 = nn.Sequential(ConvUnit(128, 256, 3, 2), CrossStage(256, 256, 1), PyramidPool(256))
        self.lateral5 = ConvUnit(256, 128)
        self.up4 = CrossStage(256, 128, 1, shortcut=False)
        self.lateral4 = ConvUnit(128, 64)
        self.up3 = CrossStage(128, 64, 1, shortcut=False)
        self.down3 = ConvUnit(64, 64, 3, 2)
        self.out4 = CrossStage(128, 128, 1, shortcut=False)
        self.down4 = ConvUnit(128, 128, 3, 2)
        self.out5 = CrossStage(256, 256, 1, shortcut=False)
        self.predict = nn.ModuleList(nn.Conv2d(width, 3 * (5 + classes), 1) for width in (64, 128, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run backbone, neck (down, then up the scales) and the 1×1 predictors."""
        fine = self.stage3(self.stage2(self.stem(x)))
        middle = self.stage4(fine)
        top = self.lateral5(self.stage5(middle))
        half_way = self.lateral4(self.up4(torch.cat((F.interpolate(top, scale_factor=2.0), middle), 1)))
        out3 = self.up3(torch.cat((F.interpolate(half_way, scale_factor=2.0), fine), 1))
        out4 = self.out4(torch.cat((self.down3(out3), half_way), 1))
        out5 = self.out5(torch.cat((self.down4(out4), top), 1))
        return tuple(predict(x) for predict, x in zip(self.predict, (out3, out4, out5), strict=True))


def build() -> nn.Module:
    """Return YOLOv5n for 80 classes with PyTorch's default initial weights, in training mode."""
    return YoloV5n()


def load(assets: Path) -> nn.Module:
    """Return YOLOv5n with the weights of `assets`/weights/yolov5n_state_dict.pt in float32, in evaluation mode.

    Raises:
        UserError: the file is missing, or was trained with other anchors than `decode` uses.
    """
    # Imported here so that this file alone, given to channelcut by its path, needs nothing but torch.
    from benchmarks.zoo.data import read_weights
    from channelcut.core.errors import UserError

    state = read_weights(assets, "yolov5n_state_dict.pt")
    anchors = state.pop("model.24.anchor_grid").float().reshape(3, 3, 2)
    state.pop("model.24.anchors")
    if not torch.equal(anchors, torch.tensor(ANCHORS, dtype=torch.float32)):
        raise UserError(
            f"yolov5n_state_dict.pt holds the anchors {anchors.int().tolist()}, but the decoding expects {ANCHORS}: "
            "boxes would be wrong. Use the published COCO weights of YOLOv5n 6.0."
        )
    renamed = {}
    for key, value in state.items():
        name = key
        for pattern, new in RENAMES:
            name = re.sub(pattern, new, name)
        renamed[name] = value.float() if value.is_floating_point() else value
    model = build()
    model.load_state_dict(renamed, strict=True)
    return model.eval()


def preprocess(image: NDArray[np.uint8], size: int = INPUT_SIZE) -> tuple[Tensor, Frame]:
    """Fit an RGB image (H, W, 3) into the centre of (3, size, size), RGB in 0..1; also return the way back."""
    from benchmarks.zoo.data import fit_image

    fitted, frame = fit_image(image, size, "centre", pad=114)
    return fitted / 255, frame


def detections(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """What the raw maps of the three scales, each (N, 255, H_i, W_i), detect, differentiable and not yet suppressed.

    `scores` (N, anchors, classes) and `boxes` (N, anchors, 4) as x1 y1 x2 y2 in input pixels. With y = sigmoid(raw):
    centre = (2y − 0.5 + cell) · stride, size = (2y)² · anchor, score = objectness · class.
    """
    boxes, scores = [], []
    for stride, sizes, raw in zip(STRIDES, ANCHORS, outputs, strict=True):
        n, _, rows, columns = raw.shape
        y = raw.reshape(n, 3, 5 + CLASSES, rows, columns).permute(0, 1, 3, 4, 2).sigmoid()
        cell_y, cell_x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centre = (2 * y[..., :2] - 0.5 + torch.stack((cell_x, cell_y), -1).to(raw)) * stride
        half = (2 * y[..., 2:4]) ** 2 * torch.tensor(sizes).reshape(3, 1, 1, 2).to(raw) / 2
        boxes.append(torch.cat((centre - half, centre + half), -1).reshape(n, -1, 4))
        scores.append((y[..., 4:5] * y[..., 5:]).reshape(n, -1, CLASSES))
    return {"scores": torch.cat(scores, 1), "boxes": torch.cat(boxes, 1)}


def decode(
    outputs: Sequence[Tensor], min_score: float = 0.001
) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Turn the raw maps of the three scales, each (N, 255, H_i, W_i), into candidates per image.

    Each is (boxes (K, 4) as x1 y1 x2 y2 in input pixels, scores (K,), classes (K,)), not yet suppressed; an anchor
    may appear once for every class.
    """
    from benchmarks.zoo.metrics import candidates

    found = detections([tensor.detach().float().cpu() for tensor in outputs])
    return candidates(found["scores"], found["boxes"], min_score)
