"""Sums over groups and pairs of groups, built up term by term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from channelcut.cost.protocol import Pairwise, Values

Cost = Callable[[Values, Values], Values]
"""Of channels read and written, arrays of one shape."""


class Pairs:
    """Collects terms; a linear form is [constant, coefficient of each group], shape (1 + groups,)."""

    def __init__(self, steps: Sequence[Values]) -> None:
        self.steps = steps
        self.constant = 0.0
        self.alone = [np.zeros(len(step)) for step in steps]
        self.pairs: dict[tuple[int, int], Values] = {}

    def done(self) -> Pairwise:
        """What was collected."""
        return Pairwise(self.constant, tuple(self.alone), self.pairs)

    def add_linear(self, form: Values) -> None:
        """A linear function of widths."""
        self.constant += float(form[0])
        for g in map(int, np.flatnonzero(form[1:])):
            self.alone[g] += form[1 + g] * self.steps[g]

    def add_exact(self, cin: Values, cout: Values, cost: Cost) -> None:
        """The cost of a layer around which at most two groups stand."""
        found = sorted({int(g) for g in np.flatnonzero(cin[1:])} | {int(g) for g in np.flatnonzero(cout[1:])})
        if not found:
            self.constant += float(cost(cin[:1], cout[:1])[0])
        elif len(found) == 1:
            (g,) = found
            w = self.steps[g]
            self.alone[g] += cost(cin[0] + cin[1 + g] * w, cout[0] + cout[1 + g] * w)
        else:
            g, h = found
            a, b = np.meshgrid(self.steps[g], self.steps[h], indexing="ij")
            i, o = (form[0] + form[1 + g] * a + form[1 + h] * b for form in (cin, cout))
            self._pair(g, h, cost(i, o))

    def add_lines(self, cin: Values, cout: Values, cost: Cost, samples: int) -> None:
        """Of a layer that reads several groups and writes one: for each output width the best line in the input's."""
        writers = np.flatnonzero(cout[1:])
        w = self.steps[int(writers[0])] if len(writers) else np.zeros(1)
        out = cout[0] + (cout[1 + writers[0]] * w if len(writers) else w)
        across = np.linspace(*self._range(cin), samples)
        i, o = np.meshgrid(across, out, indexing="ij")
        slope, offset = np.polyfit(across, cost(i, o), 1)
        base = offset + slope * cin[0]
        if not len(writers):
            self.add_linear(np.concatenate([base, slope * cin[1:]]))
            return
        h = int(writers[0])
        self.alone[h] += base
        for g in map(int, np.flatnonzero(cin[1:])):
            if g == h:
                self.alone[h] += slope * cin[1 + g] * w
            else:
                self._pair(g, h, np.outer(cin[1 + g] * self.steps[g], slope))

    def add_bilinear(self, cin: Values, cout: Values, cost: Cost, samples: int) -> None:
        """Of a layer that writes several groups: the best a + b·i + c·o + d·i·o of its widths i and o."""
        i, o = np.meshgrid(
            np.linspace(*self._range(cin), samples), np.linspace(*self._range(cout), samples), indexing="ij"
        )
        terms = np.stack([np.ones(i.size), i.ravel(), o.ravel(), (i * o).ravel()], axis=1)
        a, b, c, d = np.linalg.lstsq(terms, cost(i, o).ravel(), rcond=None)[0]
        linear = b * cin + c * cout + d * (cin[0] * cout + cout[0] * cin)
        linear[0] += a - d * cin[0] * cout[0]
        self.add_linear(linear)
        for g in map(int, np.flatnonzero(cin[1:])):
            for h in map(int, np.flatnonzero(cout[1:])):
                value = d * cin[1 + g] * cout[1 + h]
                if g == h:
                    self.alone[g] += value * self.steps[g] ** 2
                else:
                    self._pair(g, h, value * np.outer(self.steps[g], self.steps[h]))

    def _range(self, form: Values) -> tuple[float, float]:
        """The least and the greatest value of a form with coefficients of at least 0."""
        low, high = (form[0] + sum(c * end(s) for c, s in zip(form[1:], self.steps, strict=True)) for end in (min, max))
        return float(low), float(max(high, low + 1e-9))

    def _pair(self, g: int, h: int, values: Values) -> None:
        """Add to a pair; `values` has group g's widths along its rows."""
        key, found = ((g, h), values) if g < h else ((h, g), values.T)
        self.pairs[key] = self.pairs[key] + found if key in self.pairs else found
