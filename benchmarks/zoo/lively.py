"""Random weights that let signals through: a proof on a network that computes zeros would show nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.zoo.catalogue import Example

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@torch.no_grad()
def enliven(example: Example, seed: int = 0) -> None:
    """Change the model's weights in place: statistics as after training, and every layer's output of deviation one.

    Initial values tell channels apart badly: batch norms are all ones and zeros, layer scales 1e-6, and a deep
    detector's signal shrinks layer by layer.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in example.model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) * 0.5 + 0.75)
    for name, parameter in example.model.named_parameters():
        if (
            parameter.is_floating_point()
            and parameter.numel() > 1
            and bool((parameter == parameter.flatten()[0]).all())
        ):
            parameter.copy_(drawn(name, parameter, generator))
    with normalising(example.model):
        example.run()


def drawn(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Values for a parameter that started out as one constant, by what its shape and name say it is."""
    vector = max(parameter.shape) == parameter.numel()
    if vector and not name.endswith("bias"):
        return torch.rand(parameter.shape, generator=generator) * 0.5 + 0.75
    return torch.randn(parameter.shape, generator=generator) * (0.1 if vector else 0.02)


@contextmanager
def normalising(model: nn.Module) -> Iterator[None]:
    """While this is open, every convolution and linear layer that runs gets weights that give it deviation one."""
    seen: set[int] = set()

    def scale(module: nn.Module, _: Any, output: Any) -> Any:
        weight = module.weight
        if not isinstance(weight, nn.Parameter) or not isinstance(output, Tensor):
            return output  # parametrised weights have their own idea of their size
        deviation = float(output.std()) if output.numel() > 1 else 0.0
        if id(weight) in seen or not 1e-12 < deviation < 1e12:
            return output
        seen.add(id(weight))
        weight.div_(deviation)
        return output / deviation

    hooks = [module.register_forward_hook(scale) for module in model.modules() if isinstance(module, LAYERS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
