"""One process, or several that share the work of every step: under `torchrun`, by Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from channelcut.core.errors import MissingExtraError


class Processes(Protocol):
    """What a step needs of the others."""

    rank: int
    count: int
    device: torch.device

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""

    def wait(self) -> None:
        """For all of them to come here."""


class Alone:
    """One process."""

    rank, count = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def total(self, value: Tensor) -> Tensor:
        """The value."""
        return value

    def wait(self) -> None:
        """For nobody."""


class Several:
    """The processes of `torchrun`, which Lightning Fabric connects and gives a device each."""

    def __init__(self, accelerator: str) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            purpose = "A recovery in several processes (torchrun)"
            raise MissingExtraError("lightning-fabric", "lightning", purpose) from error
        here, all_ = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ["WORLD_SIZE"])
        self._fabric: Any = Fabric(accelerator=accelerator, devices=here, num_nodes=all_ // here, strategy="ddp")
        self._fabric.launch()
        self.rank, self.count = int(self._fabric.global_rank), int(self._fabric.world_size)
        self.device: torch.device = self._fabric.device

    def total(self, value: Tensor) -> Tensor:
        """Their sum."""
        found: Tensor = self._fabric.all_reduce(value, reduce_op="sum")
        return found

    def wait(self) -> None:
        """For all."""
        self._fabric.barrier()


def is_first() -> bool:
    """Whether this process writes what all of them have made."""
    return os.environ.get("RANK", "0") == "0"


def processes(device: torch.device) -> Processes:
    """Those of `torchrun` where it started this one, else this one alone.

    Raises:
        MissingExtraError: there are several, and Lightning Fabric is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        return Several(device.type)
    return Alone(device)


def share_statistics(norms: Sequence[nn.Module], all_: Processes) -> None:
    """Replace the running statistics of layers by their means over all processes, in one message."""
    found = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
    if all_.count > 1 and found:
        sum_gradients(found, all_)
        torch._foreach_div_(found, all_.count)


def sum_gradients(gradients: Sequence[Tensor], all_: Processes) -> None:
    """Replace gradients by their sums over all processes, in one message."""
    if all_.count == 1 or not gradients:
        return
    flat = all_.total(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
