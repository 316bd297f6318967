"""Random numbers that a forward draws, from generators of our own: torch's belong to the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from channelcut.core.modes import ThreadMode
from channelcut.core.trees import leaves

_SEED = 0


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an op."""
    return func(*args, **kwargs)


class Generators:
    """One generator for each device, seeded alike, so that the same forward draws the same numbers every time.

    `compute(func, args, kwargs)` runs the ops.
    """

    def __init__(
        self, compute: Callable[[Any, Sequence[Any], Mapping[str, Any]], Any] = computed, seed: int = _SEED
    ) -> None:
        self._compute, self._seed = compute, seed
        self._made: dict[torch.device, torch.Generator] = {}

    @property
    def used(self) -> bool:
        """Whether anything has been drawn."""
        return bool(self._made)

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an op; one that draws from torch's own generator draws from one of these instead."""
        seeded = _seeded(func)
        if seeded is None or kwargs.get("generator") is not None:
            return self._compute(func, args, kwargs)
        given = next((leaf.device for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)), None)
        device = torch.device(kwargs.get("device") or given or "cpu")
        if device not in self._made:
            self._made[device] = torch.Generator(device).manual_seed(self._seed)
        return self._compute(seeded, args, {**kwargs, "generator": self._made[device]})


class OwnRandom(ThreadMode):
    """Every op that runs in it draws from `Generators` with this seed."""

    def __init__(self, seed: int = _SEED) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators = Generators(seed=seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the op."""
        return self.generators.run(func, args, kwargs or {})


@cache
def _seeded(func: Any) -> Any:
    """The form of an op that takes a generator; None where it draws nothing, or from nobody else."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    names = _names(func)
    if "generator" in names:
        return func
    packet = func.overloadpacket
    forms = [getattr(packet, name) for name in packet.overloads()]
    return next((form for form in forms if _names(form) - {"generator"} == names != _names(form)), None)


def _names(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}
