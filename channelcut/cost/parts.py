"""A cost as the sum of its layers: each a function of the channels that it reads and writes.

    cost(widths) = linear(widths) + Σ layers ms(channels read, channels written)

Both channel counts are linear in the widths of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from channelcut.cost.pairs import Pairs
from channelcut.cost.protocol import Pairwise, Values, Widths

_SAMPLES = 17  # input widths through which a line is laid where several groups are read
Time = Callable[[Values, Values], Values]
"""Milliseconds of channels read and written, arrays of one shape."""


@dataclass(frozen=True)
class Part:
    """One layer.

    name: of its parameter, or of its module.
    cin, cout: the channels as linear functions of widths, [constant, coefficient of each group], shape (1 + groups,).
    ms: its time. line: the same for where a line is laid through it, without stairs in the channels that are read.
    """

    name: str
    cin: Values
    cout: Values
    ms: Time
    line: Time

    @property
    def key(self) -> str:
        """The layer's name, the same whether a parameter or a module gave it."""
        return self.name.removesuffix(".weight")

    def at(self, widths: Widths) -> float:
        """Its time when group g keeps widths[g] steps."""
        w = np.concatenate([[1.0], widths])
        return float(self.ms(np.array([self.cin @ w]), np.array([self.cout @ w]))[0])


@dataclass(frozen=True)
class Parts:
    """Layers, and what is linear in the widths, as `Part.cin`."""

    linear: Values
    layers: tuple[Part, ...]

    def __call__(self, widths: Widths) -> float:
        """The milliseconds when group g keeps widths[g] steps, shape (groups,)."""
        return float(self.linear @ np.concatenate([[1.0], widths])) + sum(layer.at(widths) for layer in self.layers)

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The same as sums over groups and pairs: exact where a layer has at most two groups around it.

        Where it reads several, by the straight line in its input width that fits best, for each of its output widths.
        """
        pairs = Pairs([step.astype(np.float64) for step in steps])
        pairs.add_linear(self.linear)
        for layer in self.layers:
            readers, writers = (np.flatnonzero(form[1:]) for form in (layer.cin, layer.cout))
            if len(set(readers) | set(writers)) <= 2:
                pairs.add_exact(layer.cin, layer.cout, layer.ms)
            elif len(writers) <= 1:
                pairs.add_lines(layer.cin, layer.cout, layer.line, _SAMPLES)
            else:
                pairs.add_bilinear(layer.cin, layer.cout, layer.line, _SAMPLES)
        return pairs.done()
