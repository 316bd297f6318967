"""Where a network is computed: on a GPU where there is one."""

from __future__ import annotations

import torch
from torch import nn

from channelcut.core.tensors import named_tensors


def device_of(model: nn.Module) -> torch.device:
    """Where a network lies, by its first tensor; the CPU where it has none."""
    return next((tensor.device for tensor in named_tensors(model).values()), torch.device("cpu"))


def accelerator(model: nn.Module) -> torch.device:
    """Where copies of a network are computed: on the GPU of this machine if it lies on the CPU, else where it lies."""
    own = device_of(model)
    return torch.device("cuda") if own.type == "cpu" and torch.cuda.is_available() else own
