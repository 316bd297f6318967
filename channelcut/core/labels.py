"""A task's loss on labels, in recovery and in scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.randomness import OwnRandom
from channelcut.core.words import kind_of

Loss = Callable[[nn.Module, Any], Tensor]
"""loss(model, batch) -> a tensor of one number, see `channelcut.recover`."""


@dataclass(frozen=True)
class Targets:
    """Labelled images, one at a time, and the loss of each.

    size: how many there are.
    batch: batch(number) -> a batch of one image, as the loss takes it.
    loss: the task's.
    """

    size: int
    batch: Callable[[int], Any]
    loss: Loss

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """The loss of every image, one after the other.

        Raises:
            UserError: it is no number, or depends on no parameter.
        """
        for number in range(self.size):
            batch = self.batch(number)
            with torch.enable_grad(), OwnRandom():
                found = checked(self.loss(model, batch))
            if not found.requires_grad:
                raise UserError(
                    "The task loss has no gradient: it, or the network's forward, computes without (torch.no_grad, "
                    "detach). Expected a loss that depends on the weights."
                )
            yield found


def checked(value: Any) -> Tensor:
    """What a task loss returned.

    Raises:
        UserError: it is no tensor of one number.
    """
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise UserError(
            f"The task loss returns {kind_of(value)}{shape}. Expected a tensor of one floating-point number, which "
            "gradients can be taken of: loss(model, batch) -> criterion(model(batch[0]), batch[1])."
        )
    return value.reshape(())
