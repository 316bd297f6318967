"""Milliseconds of a network as a function of the widths of its groups, from measured layers.

t(widths) = scale · (Σ layers t(channels read, channels written) + Σ others t · kept share of their elements)

`scale` is what the whole network takes over what its parts add up to, both at full width: parts that were timed alone
find the caches in another state than those in a network do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from channelcut.core.groups import Groups
from channelcut.cost.kinds import DENSE
from channelcut.cost.pairs import Pairs
from channelcut.cost.protocol import Pairwise, Values, Widths
from channelcut.cost.surface import Extent, Surface
from channelcut.cost.table import Target

Vector = NDArray[np.float64]

_SAMPLES = 17  # input widths through which a line is laid where several groups are read


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer: its time by widths, and the kept shares of what it reads and writes as linear functions of widths.

    reads, writes: [constant, coefficient of each group], shape (1 + groups,). spread: half the 95 % interval of its
    time at full width, as a share of it.
    """

    name: str
    words: str
    extent: Extent
    surface: Surface
    reads: Vector
    writes: Vector
    spread: float = 0.0

    def ms(self, widths: Vector) -> float:
        """Its time when group g keeps widths[g - 1]; `widths` has a leading 1, shape (1 + groups,)."""
        cin, cout = (np.array([v]) for v in (self.cin @ widths, self.cout @ widths))
        return float(self.surface.at(np.round(cin), np.round(cout))[0])

    @property
    def cin(self) -> Vector:
        """The channels read as a linear function of widths; of a layer with one width the full ones."""
        if self.extent.mode != DENSE:
            return np.array([self.extent.full.cin, *([0.0] * (len(self.reads) - 1))])
        return self.reads * self.extent.full.cin

    @property
    def cout(self) -> Vector:
        """The channels written as a linear function of widths."""
        return self.writes * self.extent.full.cout


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

    layers, others: its parts. scale: see above. full_ms: the whole network uncut, as it was measured. step: widths that
    are multiples of this end a step of the target's staircase. full: the widths of the groups that the parts speak of;
    places: which of them each group of `widths` is. channels: the first
    channel of each of them. notes: what a reader has to know. table: the file that holds the times.
    """

    target: Target
    layers: tuple[MeasuredLayer, ...]
    others: tuple[Other, ...]
    full_ms: float
    step: int
    full: Vector
    places: NDArray[np.int64]
    scale: float = 1.0
    channels: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    table: Path | None = None

    def __call__(self, widths: Widths) -> float:
        """The milliseconds when group g keeps widths[g] steps, shape (groups,)."""
        return sum(self.by_part(widths).values())

    @property
    def full_widths(self) -> Widths:
        """The widths of the uncut network."""
        return self.full[self.places].astype(np.int64)

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of what the layers add up to at full width, as a share of it."""
        w = self._all(self.full_widths)
        times = np.array([layer.ms(w) for layer in self.layers])
        spreads = np.array([layer.spread for layer in self.layers])
        return float(np.sqrt(np.sum((times * spreads) ** 2)) / max(times.sum(), 1e-12))

    def by_part(self, widths: Widths) -> dict[str, float]:
        """The milliseconds of every layer by its name, and of the others by their operator, summed."""
        w = self._all(widths)
        found = {layer.name: 0.0 for layer in self.layers}
        for layer in self.layers:
            found[layer.name] += self.scale * layer.ms(w)
        for other in self.others:
            name = f"all {other.op}"
            found[name] = found.get(name, 0.0) + self.scale * other.full_ms * float(other.share @ w)
        return found

    def on(self, groups: Groups) -> MeasuredCost:
        """The same for a coupling some of whose groups have been pinned since: those keep their full width.

        Args:
            groups: of the network that was measured.
        """
        place = {first: index for index, first in enumerate(self.channels)}
        return replace(self, places=np.array([place[int(g.channels[0])] for g in groups.groups], np.int64))

    def scaled_to(self, full_ms: float) -> MeasuredCost:
        """The same with another time of the whole network, such as of a later hour."""
        return replace(self, scale=self.scale * full_ms / self.full_ms, full_ms=full_ms)

    def _all(self, widths: Widths) -> Vector:
        whole = self.full.copy()
        whole[self.places] = widths
        return np.concatenate([[1.0], whole])

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The same as sums over groups and pairs: exact where a layer reads one group and writes one.

        Where it reads several, by the straight line in its input width that fits best, for each of its output widths.
        """
        pairs = Pairs([step.astype(np.float64) for step in steps])
        for other in self.others:
            pairs.add_linear(self._here(other.share) * other.full_ms * self.scale)
        for layer in self.layers:
            self._add(pairs, layer)
        return pairs.done()

    def _here(self, form: Vector) -> Vector:
        """A linear function of all widths as one of these groups' widths; the others keep theirs."""
        fixed = np.ones(len(self.full), bool)
        fixed[self.places] = False
        constant = form[0] + form[1:][fixed] @ self.full[fixed]
        return np.concatenate([[constant], form[1:][self.places]])

    def _add(self, pairs: Pairs, layer: MeasuredLayer) -> None:
        cin, cout = self._here(layer.cin), self._here(layer.cout)
        readers, writers = (np.flatnonzero(form[1:]) for form in (cin, cout))

        def ms(i: Values, o: Values) -> Values:
            return self.scale * layer.surface.at(np.round(i), np.round(o))

        if len(set(readers) | set(writers)) <= 1 or (len(readers) <= 1 and len(writers) <= 1):
            pairs.add_exact(cin, cout, ms)
        elif len(writers) <= 1:
            pairs.add_lines(cin, cout, ms, _SAMPLES)
        else:
            pairs.add_bilinear(cin, cout, ms, _SAMPLES)
