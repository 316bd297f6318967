"""Muon for convolutions: steps of equal size in every direction of a layer's weight matrix.

AdamW alone learns this task far more slowly, and the demo has about a minute. Source: Jordan et al. 2024,
"Muon: an optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

MUON_TO_ADAM = 25.0


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Move the singular values of a matrix (O, I) close to 1 by Newton-Schulz steps X <- aX + (bA + cA²)X, A = XXᵀ."""
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(rounds):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose every update of a weight (O, I, kH, kW) is orthogonalised as a matrix (O, I·kH·kW)."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; a closure is not supported."""
        if closure is not None:
            raise ValueError("Muon.step takes no closure; compute the loss before the step.")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(weight.grad)
                update = orthogonalise((weight.grad + group["momentum"] * velocity).flatten(1))
                stretch = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.add_(update.view_as(weight), alpha=-group["lr"] * stretch)


def optimizers_for(model: nn.Module, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the dense hidden convolutions, those followed by batch norm; AdamW for all other parameters.

    `learning_rate` is AdamW's; Muon's is `MUON_TO_ADAM` times that. Every group keeps its peak as `peak`.
    """
    hidden: list[nn.Parameter] = [
        cast(nn.Parameter, module.weight)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.bias is None
    ]
    chosen = {id(weight) for weight in hidden}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    pair: list[torch.optim.Optimizer] = [
        Muon(hidden, learning_rate * MUON_TO_ADAM),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay),
    ]
    for optimizer in pair:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return pair
