"""Milliseconds of a network as a function of the widths of its groups, from measured layers.

t(widths) = a · Σ layers t(channels read, channels written) + b · Σ others t · kept share of their elements

Parts that were timed alone find the caches in another state than those in a network do, and the others are timed by a
profiler, which takes time itself. So a and b are such that two networks take what they were measured to take: the uncut
one, and one of half the width. Where there is no such one, a = b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from channelcut.core.errors import UserError
from channelcut.core.groups import Groups
from channelcut.cost.kinds import DENSE
from channelcut.cost.line import FINE
from channelcut.cost.parts import Part, Parts
from channelcut.cost.protocol import Pairwise, Values, Widths
from channelcut.cost.surface import Extent, Surface
from channelcut.cost.table import Target

_REST = "all "  # before an operator: what the others of that operator take
# Of `MeasuredCost.scaled`: how well networks are measured; how far the others' factor may be expected to be from the
# layers', and may be at most; what the others may take of a network's time.
_NOISE, _DOUBT, _BY, _MOST = 0.01, 0.5, 4.0, 0.9

Vector = NDArray[np.float64]
Slot = tuple[str, int]
"""A parameter's name and an axis of it."""


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer: its time by widths, and what it reads and writes as a mixture of slots.

    reads, writes: the share that is kept of the channels on either side, [constant, weight of each slot], shape
    (1 + slots,). spread: half the 95 % interval of its time at full width, as a share of it.
    """

    name: str
    words: str
    extent: Extent
    surface: Surface
    reads: Vector
    writes: Vector
    spread: float = 0.0


@dataclass(frozen=True)
class Other:
    """What has no weight: its time at full width, and the kept share of its elements, as `MeasuredLayer.reads`."""

    name: str
    op: str
    full_ms: float
    share: Vector


@dataclass(frozen=True)
class MeasuredCost:
    """Milliseconds of one network on one target; calling it gives them for given widths.

    layers, others: its parts. scale: a and b above. full_ms: the whole network uncut, as it was measured. step: widths
    that are multiples of this end a step of the target's staircase; 1 where it was not found, see `step_known`. slots:
    the axes of parameters that shares are mixtures of. full_widths: of the groups that it is a function of; kept: the
    share of every slot that they keep, see `slot_shares`. notes: what a reader has to know. table: the file that holds
    the times. shapes: of the inputs that were timed, batch first. weights: the shapes of the network's tensors, by
    which it is told from others.
    """

    target: Target
    layers: tuple[MeasuredLayer, ...]
    others: tuple[Other, ...]
    full_ms: float
    step: int
    slots: tuple[Slot, ...]
    full_widths: Widths
    kept: Vector
    scale: tuple[float, float] = (1.0, 1.0)
    notes: tuple[str, ...] = ()
    table: Path | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    step_known: bool = True
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __call__(self, widths: Widths) -> float:
        """The milliseconds when group g keeps widths[g] steps, shape (groups,)."""
        return sum(self.by_part(widths).values())

    @property
    def words(self) -> str:
        """What the times are of."""
        return str(self.target)

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of what the layers add up to at full width, as a share of it."""
        times = np.array([layer.surface.full for layer in self.layers])
        spreads = np.array([layer.spread for layer in self.layers])
        return float(np.sqrt(np.sum((times * spreads) ** 2)) / max(times.sum(), 1e-12))

    @property
    def fine(self) -> int:
        """Of widths below two steps, what those are multiples of that were timed each; 0: multiples of the step."""
        return FINE if self.step > FINE else 0

    @property
    def lone_ms(self) -> float:
        """What its layers take alone, and the others in the profile of the uncut network, added up."""
        return sum(self._plain(self.full_widths))

    def scaled(self, widths: Widths | None = None, ms: float = 0.0) -> MeasuredCost:
        """The same, such that the uncut network takes `full_ms`, and one with `widths`, if they are given, about `ms`.

        The less layers and others differ in what they have left at these widths, the less can be told of either: b
        stays near a, by ridge regression, and within a factor of `_BY` of it.
        """
        layers, others = self._plain(self.full_widths)
        even = self.full_ms / (layers + others)
        if widths is None or not layers or not others:
            return replace(self, scale=(even, even))
        fewer, less = self._plain(widths)
        # a · layers + b · others = full_ms whatever b is; what one more of b then adds at the widths:
        slope = less - others * fewer / layers
        wrong = even * (fewer + less) - ms
        noise, doubt = _NOISE * ms, _DOUBT * even
        b = even - wrong * slope * doubt**2 / (slope**2 * doubt**2 + noise**2)
        b = float(np.clip(b, even / _BY, min(even * _BY, _MOST * self.full_ms / others)))
        return replace(self, scale=((self.full_ms - b * others) / layers, b))

    def _plain(self, widths: Widths) -> tuple[float, float]:
        """What the layers take, and the others, as they were timed."""
        parts = replace(self, scale=(1.0, 1.0)).by_part(widths)
        others = sum(ms for name, ms in parts.items() if name.startswith(_REST))
        return sum(parts.values()) - others, others

    def by_part(self, widths: Widths) -> dict[str, float]:
        """The milliseconds of every layer by its name, and of the others by their operator, summed."""
        shares = self.kept @ np.concatenate([[1.0], widths])
        found = {layer.name: 0.0 for layer in self.layers}
        for layer in self.layers:
            i, o = (np.round(side @ shares * full) for side, full in _sides(layer))
            found[layer.name] += self.scale[0] * float(layer.surface.at(np.array([i]), np.array([o]))[0])
        for other in self.others:
            name = _REST + other.op
            found[name] = found.get(name, 0.0) + self.scale[1] * other.full_ms * float(other.share @ shares)
        return found

    def on(self, groups: Groups) -> MeasuredCost:
        """The same as a function of the widths of other groups of the same network.

        Args:
            groups: its coupling under other options, or with some groups pinned since.

        Raises:
            UserError: they are of another network; or a layer may lose channels there that it could not lose where it
                was measured.
        """
        self._check_same(groups)
        kept = slot_shares(self.slots, groups)
        for layer in self.layers:
            for side, can in ((layer.reads, layer.extent.reads), (layer.writes, layer.extent.writes)):
                if not can and (side @ kept)[1:].any():
                    raise UserError(
                        f"{layer.name} may lose channels in this coupling, and could not where its time was measured. "
                        "Measure with the same coupling: channelcut.measure(model, x, groups=groups)."
                    )
        full = np.array([group.width for group in groups.groups], np.int64)
        return replace(self, full_widths=full, kept=kept)

    def _check_same(self, groups: Groups) -> None:
        """Refuse groups of another network; those of this one may lack blocks, or have tensors of further entries."""
        if not self.weights:
            return
        known, here = self.weights, groups.shapes
        reshaped = [name for name, shape in here.items() if tuple(known.get(name, shape)) != tuple(shape)]
        nodes = groups.graph.nodes
        read = {nodes[ref.index].name for work in groups.work for ref in nodes[work.node].inputs}
        slots = {slot.tensor for slot in groups.slots if len(here[slot.tensor]) > 1}
        more = [] if groups.graph.entries else sorted((read & slots) - known.keys())
        fewer = [layer.name for layer in self.layers if layer.name in known and layer.name not in here]
        if wrong := list(dict.fromkeys([*reshaped, *more, *fewer])):
            name, others = wrong[0], f" and {len(wrong) - 3} more" if wrong[3:] else ""
            there, now = (
                "x".join(map(str, shapes[name])) or "one number" if name in shapes else "missing"
                for shapes in (known, here)
            )
            raise UserError(
                f"The cost was measured of another network: {', '.join(wrong[:3])}{others} differ ({name} is {there} "
                f"there, {now} here). Expected one of the network that is planned for: "
                "cost = channelcut.measure(model, x, groups=groups)."
            )

    def without(self, modules: Sequence[str]) -> MeasuredCost:
        """The same for the network without the layers of these modules, each an identity; their rest is left in."""
        gone = tuple(f"{module}." for module in modules)
        return replace(self, layers=tuple(layer for layer in self.layers if not layer.name.startswith(gone)))

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The same as sums over groups and pairs, see `Parts.pairwise`."""
        return self.parted().pairwise(steps)

    def parted(self) -> Parts:
        """Its layers, and the others as a linear function of widths."""
        linear = np.zeros(1 + len(self.full_widths))
        for other in self.others:
            linear += other.share @ self.kept * other.full_ms * self.scale[1]
        return Parts(linear, tuple(self._part(layer) for layer in self.layers))

    def _part(self, layer: MeasuredLayer) -> Part:
        cin, cout = (side @ self.kept * full for side, full in _sides(layer))

        def ms(i: Values, o: Values) -> Values:
            return self.scale[0] * layer.surface.at(np.round(i), np.round(o))

        return Part(layer.name, cin, cout, ms, ms)


def _sides(layer: MeasuredLayer) -> tuple[tuple[Vector, int], tuple[Vector, int]]:
    """What a layer reads and writes, and the full widths; of a layer with one width what it writes alone."""
    reads = layer.reads
    if layer.extent.mode != DENSE:
        reads = np.zeros(len(layer.reads))
        reads[0] = 1.0
    return (reads, layer.extent.full.cin), (layer.writes, layer.extent.full.cout)


def slot_shares(slots: Sequence[Slot], groups: Groups) -> Vector:
    """The share of each slot that is kept, as linear functions of the widths of groups.

    Args:
        slots: parameters and axes; one that the coupling does not speak of is kept whole.
        groups: the coupling. Lanes of a group keep equal shares.

    Returns:
        Shape (1 + slots, 1 + groups): [constant, coefficient of each group], the first row that of 1.
    """
    owner, known = groups.group_of(), {(slot.tensor, slot.axis): slot.channels for slot in groups.slots}
    full = np.array([group.width for group in groups.groups], np.float64)
    found = np.zeros((1 + len(slots), 1 + len(full)))
    found[0, 0] = 1.0
    for row, slot in enumerate(slots, 1):
        channels = known.get(slot, np.zeros(1, np.int64))
        counts = np.bincount(owner[channels] + 1, minlength=1 + len(full)) / len(channels)
        found[row, 0], found[row, 1:] = counts[0], counts[1:] / full
    return found
