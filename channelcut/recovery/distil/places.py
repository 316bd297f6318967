"""Where features are compared: layers whose kept output channels are known, so that no adapter layers are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from channelcut.core.inputs import Inputs
from channelcut.core.plan import Plan
from channelcut.core.randomness import OwnRandom

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Place:
    """A layer by its path, and the positions of the teacher's channels that the student's are, along `axis`."""

    path: str
    axis: int
    kept: tuple[int, ...]


class Tapped:
    """A network of ours whose outputs at some layers are seen as it runs; `seen` holds those of the last run."""

    def __init__(self, module: nn.Module, paths: list[str]) -> None:
        self.module = module
        self.seen: dict[str, list[Tensor]] = {}
        for path in paths:
            module.get_submodule(path).register_forward_hook(self._hook(path))

    def _hook(self, path: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self.seen.setdefault(path, []).append(output)

        return note

    def __call__(self, inputs: Inputs) -> Any:
        """Run it."""
        self.seen = {}
        return self.module(*inputs[0], **inputs[1])


def places(teacher: nn.Module, plan: Plan, inputs: Inputs, most: int) -> list[Place]:
    """At most `most` layers that lost channels: the last one of each resolution, then earlier ones, evenly.

    Args:
        teacher: a copy of the original, whose hooks may be used up.
        plan: from it to the student.
        inputs: one batch.
        most: how many are wanted.
    """
    found = {place.path: place for place in _candidates(teacher, plan)}
    if not found or not most:
        return []
    order: list[tuple[str, tuple[int, ...]]] = []

    def noting(path: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                order.append((path, tuple(output.shape)))

        return note

    handles = [teacher.get_submodule(path).register_forward_hook(noting(path)) for path in found]
    with torch.no_grad(), OwnRandom():
        teacher(*inputs[0], **inputs[1])
    for handle in handles:
        handle.remove()
    runs = _without_repeats(order, found)
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, (path, shape) in enumerate(runs):
        axis = found[path].axis
        by_size.setdefault(shape[2:] if axis == 1 else shape[1:-1], []).append(number)
    chosen = {numbers[-1] for numbers in by_size.values()}
    left = [number for number in range(len(runs)) if number not in chosen]
    wanted = min(most - len(chosen), len(left))
    if wanted > 0:  # the middles of as many equal parts
        chosen |= {left[(2 * part + 1) * len(left) // (2 * wanted)] for part in range(wanted)}
    return [found[runs[number][0]] for number in sorted(chosen)[-most:]]


def _without_repeats(
    order: list[tuple[str, tuple[int, ...]]], found: dict[str, Place]
) -> list[tuple[str, tuple[int, ...]]]:
    """Layers in the order they first run; of a layer and its norm, which keep the same channels, the norm alone."""
    first = list(dict(order).items())
    return [
        (path, shape)
        for number, (path, shape) in enumerate(first)
        if number + 1 == len(first)
        or (shape, found[path].kept) != (first[number + 1][1], found[first[number + 1][0]].kept)
    ]


def _candidates(teacher: nn.Module, plan: Plan) -> list[Place]:
    found = []
    for path, module in teacher.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.modules.batchnorm._BatchNorm)):
            axis, side = 1, 0
        elif isinstance(module, _TRANSPOSED) and module.groups == 1:
            axis, side = 1, 1
        elif isinstance(module, nn.Linear):
            axis, side = -1, 0
        else:
            continue
        kept = plan.kept.get(f"{path}.weight", {}).get(side)
        if kept is not None and not plan.drops(f"{path}.weight"):
            found.append(Place(path, axis, kept))
    return found
