"""ResNet-20 and ResNet-56 for CIFAR-10 (He et al., 2016, arXiv:1512.03385, section 4.2), shortcuts of option A.

Option A has no weights: where the extent halves and the width doubles, the shortcut takes every second pixel and pads
the missing channels with zeros, the same number on either side.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 32
CLASSES = 10
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut: (N, C_in, H, W) to (N, C_out, H/stride, W/stride)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = (width_out - width_in) // 2
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Add the transformed input to the (strided, zero-padded) input."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class ResNetCifar(nn.Module):
    """Images (N, 3, 32, 32), RGB normalised, to class logits (N, 10); 6·depth + 2 weighted layers."""

    def __init__(self, depth: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(depth)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(depth - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(depth - 1)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Run the three stages, average over the pixels, classify."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


def build_resnet20() -> nn.Module:
    """Return ResNet-20 with PyTorch's default initial weights, in training mode."""
    return ResNetCifar(3)


def build_resnet56() -> nn.Module:
    """Return ResNet-56 with PyTorch's default initial weights, in training mode."""
    return ResNetCifar(9)


def build() -> nn.Module:
    """Return ResNet-20, the smaller of the two; `build_resnet56` makes the other."""
    return build_resnet20()


def _load(model: nn.Module, assets: Path, name: str) -> nn.Module:
    # Imported here so that this file alone, given to channelcut by its path, needs nothing but torch.
    from benchmarks.zoo.data import read_weights

    state = {key.removeprefix("module."): value for key, value in read_weights(assets, name).items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def load_resnet20(assets: Path) -> nn.Module:
    """Return ResNet-20 with the weights of `assets`/weights/resnet20_cifar10.th, in evaluation mode.

    Raises:
        UserError: the file is missing.
    """
    return _load(build_resnet20(), assets, "resnet20_cifar10.th")


def load_resnet56(assets: Path) -> nn.Module:
    """Return ResNet-56 with the weights of `assets`/weights/resnet56_cifar10.th, in evaluation mode.

    Raises:
        UserError: the file is missing.
    """
    return _load(build_resnet56(), assets, "resnet56_cifar10.th")


def load(assets: Path) -> nn.Module:
    """Return the trained ResNet-20; `load_resnet56` makes the other."""
    return load_resnet20(assets)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of preprocessed images whose class a network in evaluation mode finds."""
    device = next(model.parameters()).device
    with torch.no_grad():
        guesses = torch.cat([model(part.to(device)).argmax(1).cpu() for part in torch.split(images, 250)])
    return float((guesses == labels).double().mean())


def preprocess(images: Tensor) -> Tensor:
    """Normalise RGB images (N, 3, 32, 32), uint8, to float32 of the same shape."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN_RGB, STD_RGB))
    return (images.float() / 255 - mean) / std
