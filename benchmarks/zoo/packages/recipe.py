"""How a model is built and what it is given."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.catalogue import Example

SIDE = 64


@dataclass(frozen=True)
class Recipe:
    """A callable by its path, `package.module:name`, its options, and the shapes of its inputs."""

    path: str
    options: dict[str, Any] = field(default_factory=dict)
    shapes: Sequence[Sequence[int]] = ((1, 3, SIDE, SIDE),)

    def example(self) -> Example:
        """The model with random weights in evaluation mode, and random inputs."""
        module, name = self.path.split(":")
        model = getattr(importlib.import_module(module), name)(**self.options)
        return Example(model.eval(), images(*self.shapes))


def images(*shapes: Sequence[int]) -> tuple[Tensor, ...]:
    """Inputs between zero and one."""
    return tuple(torch.rand(*shape) for shape in shapes)
