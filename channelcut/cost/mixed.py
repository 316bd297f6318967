"""Milliseconds of a network whose layers differ in precision, and what each precision does to its outputs.

Errors of layers that are lowered alone add up in squares, as those of independent roundings do; what they come to
together is measured on the file that is made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.core.inputs import check_above_zero
from channelcut.core.words import kind_of
from channelcut.cost.parts import Part, Parts, Time
from channelcut.cost.protocol import Pairwise, Values, Widths


class LayeredCost(Protocol):
    """A cost whose layers are known: `MeasuredCost`, `RooflineCost`."""

    @property
    def step(self) -> int:
        """What widths should be multiples of."""
        ...

    def parted(self) -> Parts:
        """Its layers."""
        ...

    def on(self, groups: Groups) -> Any:
        """The same as a function of the widths of other groups of the network."""
        ...

    def without(self, modules: Sequence[str]) -> Any:
        """The same for the network without the layers of these modules."""
        ...


@dataclass(frozen=True)
class Way:
    """A precision that a layer may compute in: its time, and the square of the output error that it alone causes."""

    precision: str
    part: Part
    squared: float


@dataclass(frozen=True)
class MixedCost:
    """What a network takes where each layer has a precision of its own.

    Calling it gives the milliseconds with all layers in the first precision, which shares of time are of.

    Args:
        costs: by precision; the first has no error, and every layer may be in it.
        errors: of each layer the output error with it alone in a precision, see `channelcut.mixed_cost`. A layer or a
            precision that is missing stays in the first.
        max_error: what the output error of all layers together may be.
        order: the layers in the order of the deployed file, by the names in `errors`.
        images: on which a file in these precisions is calibrated and judged, (n, C, H, W).

    Raises:
        UserError: there is no second precision, a cost does not know its layers, or `max_error` is not above 0.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> from channelcut.cost.roofline import roofline
        >>> model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 8, 3)).eval()
        >>> groups = cc.analyze(model, torch.rand(1, 3, 32, 32))
        >>> columns = {name: roofline(groups, "orin-nano", name) for name in ("fp32", "int8")}
        >>> cost = MixedCost(columns, {"2": {"int8": 0.02}, "3": {"int8": 0.3}}, max_error=0.1)
        >>> plan = cc.plan(model, groups, latency=0.8, cost=cost)
        >>> plan.options["precision"]["layers"]
        {'2': 'int8'}
    """

    costs: Mapping[str, LayeredCost]
    errors: Mapping[str, Mapping[str, float]]
    max_error: float
    order: tuple[str, ...] = ()
    images: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.costs, Mapping):
            raise UserError(
                f"costs is {kind_of(self.costs)}. Expected {{'fp32': ..., 'int8': ...}}, costs by precision."
            )
        for name, cost in self.costs.items():
            if isinstance(cost, type) or not all(hasattr(cost, part) for part in ("step", "parted", "on")):
                raise UserError(
                    f"costs[{name!r}] is {kind_of(cost)}, of whose layers nothing is known. Expected what "
                    "channelcut.measure or channelcut.cost.roofline.roofline gives in that precision."
                )
        if len(self.costs) < 2:
            raise UserError(
                f"A mixed cost has {', '.join(self.costs) or 'no precision'}; expected at least two, the first of "
                "which is what the network computes in now: {'fp32': ..., 'int8': ...}."
            )
        check_above_zero(self.max_error, "max_error", "an output error, such as 0.1,")

    @property
    def base(self) -> LayeredCost:
        """The cost in the first precision."""
        return next(iter(self.costs.values()))

    @property
    def words(self) -> str:
        """What the times are of."""
        return (
            f"{getattr(self.base, 'words', 'functions of the widths')}; layers also in {', '.join([*self.costs][1:])}"
        )

    @property
    def target(self) -> Any:
        """Where the first was measured; None where nothing was."""
        return getattr(self.base, "target", None)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What the first was measured with; empty where nothing was."""
        return getattr(self.base, "shapes", ())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of each precision."""
        return tuple(f"{name}: {note}" for name, cost in self.costs.items() for note in getattr(cost, "notes", ()))

    @property
    def step(self) -> int:
        """The least step of the precisions: what the others pay within theirs, their times say."""
        return min(cost.step for cost in self.costs.values())

    @property
    def fine(self) -> int:
        """As of the first precision; 0 where that has none."""
        return int(getattr(self.base, "fine", 0))

    def __call__(self, widths: Widths) -> float:
        """The milliseconds in the first precision when group g keeps widths[g] steps, shape (groups,)."""
        return self._base(widths)

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The same as sums over groups and pairs."""
        return self._base.pairwise(steps)

    def on(self, groups: Groups) -> MixedCost:
        """The same as a function of the widths of other groups of the network.

        Raises:
            UserError: a cost, or the errors, are of another network.
        """
        bound = replace(self, costs={name: cost.on(groups) for name, cost in self.costs.items()})
        if self.errors and not self.errors.keys() & {part.key for part in bound.base.parted().layers}:
            raise UserError(
                f"The errors of the mixed cost are of another network: no layer {next(iter(self.errors))!r} is here, "
                "nor any other of them. Expected those of the network that is planned for: "
                "channelcut.mixed_cost(model, x, costs, images, groups=groups)."
            )
        return bound

    def without(self, modules: Sequence[str]) -> MixedCost:
        """The same for the network without the layers of these modules, each an identity."""
        return replace(self, costs={name: cost.without(modules) for name, cost in self.costs.items()})

    @cached_property
    def _base(self) -> Parts:
        return self.base.parted()

    @cached_property
    def ways(self) -> tuple[tuple[Way, ...], ...]:
        """What each layer of the first cost may compute in: the first precision last."""
        columns = {name: _once(cost.parted()) for name, cost in self.costs.items()}
        first = next(iter(self.costs))
        found = []
        for part in self._base.layers:
            known = self.errors.get(part.key, {}) if part.key in columns[first] else {}
            lower = [
                Way(name, columns[name][part.key], known[name] ** 2)
                for name in self.costs
                if name != first and part.key in columns[name] and math.isfinite(known.get(name, math.inf))
            ]
            found.append((*lower, Way(first, part, 0.0)))
        return tuple(found)

    def assigned(self, precisions: Mapping[str, str]) -> Parts:
        """What the network takes with layers in these precisions, by name; the others in the first."""
        chosen = []
        for ways in self.ways:
            wanted = precisions.get(ways[-1].part.key, ways[-1].precision)
            chosen.append(next((way.part for way in ways if way.precision == wanted), ways[-1].part))
        return Parts(self._base.linear, tuple(chosen))

    def error(self, precisions: Mapping[str, str]) -> float:
        """What the output error of layers in these precisions is expected to be."""
        found = 0.0
        for ways in self.ways:
            wanted = precisions.get(ways[-1].part.key)
            found += sum(way.squared for way in ways if way.precision == wanted)
        return math.sqrt(found)

    def priced(self, price: float) -> Parts:
        """The least of time + price · squared error over the precisions of each layer, at its widths."""
        chosen = [
            replace(ways[-1].part, ms=_least(ways, price, "ms"), line=_least(ways, price, "line")) for ways in self.ways
        ]
        return Parts(self._base.linear, tuple(chosen))

    def cheapest(self, widths: Widths, price: float) -> dict[str, str]:
        """The precisions that `priced` takes at these widths, of the layers that leave the first."""
        found = {}
        for ways in self.ways:
            way = min(ways, key=lambda way: way.part.at(widths) + price * way.squared)
            if way is not ways[-1]:
                found[way.part.key] = way.precision
        return found


def _once(parts: Parts) -> dict[str, Part]:
    """The layers by name; of a name that several have it is not known which of them a file means."""
    times = Counter(part.key for part in parts.layers)
    return {part.key: part for part in parts.layers if times[part.key] == 1}


def _least(ways: Sequence[Way], price: float, kind: str) -> Time:
    def time(cin: Values, cout: Values) -> Values:
        found: Values = np.min([getattr(way.part, kind)(cin, cout) + price * way.squared for way in ways], axis=0)
        return found

    return time
