"""The least of a sum of tables over one and two variables: exact by elimination, else a lower bound by messages.

The variables are the groups, their values the places of a width in a group's list. Networks are nearly trees: a group
meets the groups before and behind it, and what is read together. So eliminating one variable after another (bucket
elimination, Dechter 1999; Bertele and Brioschi 1972) needs tables over three or four groups and is exact. Where a
table would not fit, as in dense blocks and inception modules, groups with at most two neighbours are still eliminated,
and the rest is bounded by sequential tree-reweighted message passing (Kolmogorov 2006, TRW-S), which is tight where
the tables are submodular after a change of order, as products of widths on a bipartite graph are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Places = NDArray[np.int64]
Pairs = Mapping[tuple[int, int], Values]
LARGEST = 6_000_000  # entries of a table that elimination may make, 48 MB
SWEEPS = 20


@dataclass(frozen=True)
class Least:
    """The places of a small sum, shape (variables,), and what no sum is below; the same value where it is exact."""

    places: Places
    bound: float


@dataclass(frozen=True)
class _Order:
    """The variables to eliminate, in this order, and those that are left."""

    eliminated: tuple[int, ...]
    core: tuple[int, ...]


@dataclass(frozen=True)
class _Bucket:
    """One eliminated variable: the sum of all tables that it was in, over `scope` and it, and what is left of them."""

    variable: int
    scope: tuple[int, ...]
    table: Values
    left: Values


def minimise(alone: Sequence[Values], pairs: Pairs) -> Least:
    """A labelling that makes Σ alone[g][i_g] + Σ pairs[g, h][i_g, i_h] small, with a lower bound on the least one."""
    order = elimination_order([len(values) for values in alone], pairs)
    buckets, factors = _eliminated(order.eliminated, alone, pairs)
    places, bound = np.zeros(len(alone), dtype=np.int64), sum(float(b.left) for b in buckets if not b.scope)
    if order.core:
        core = _Messages(order.core, factors)
        core.sweep()
        places[list(order.core)] = [core.places[g] for g in order.core]
        bound += core.bound
    for bucket in reversed(buckets):
        places[bucket.variable] = bucket.table[tuple(places[list(bucket.scope)])].argmin()
    return Least(places, bound)


def floors(alone: Sequence[Values], pairs: Pairs) -> list[Values]:
    """For each place of each variable a lower bound on the sums that take it: min-marginals, where they are exact."""
    order = elimination_order([len(values) for values in alone], pairs)
    if order.core:
        messages = _Messages(tuple(range(len(alone))), [*(((g,), v) for g, v in enumerate(alone)), *pairs.items()])
        messages.sweep()
        return messages.floors()
    buckets, _ = _eliminated(order.eliminated, alone, pairs)
    constant = sum(float(b.left) for b in buckets if not b.scope)
    place = {bucket.variable: number for number, bucket in enumerate(buckets)}
    beliefs: dict[int, Values] = {}
    found: list[Values] = [np.zeros(0)] * len(alone)
    for bucket in reversed(buckets):
        belief = bucket.table
        if bucket.scope:
            # The bucket that took what was left of this one: it knows everything beyond. Less what came from here.
            above = buckets[min(place[v] for v in bucket.scope)]
            names = (*above.scope, above.variable)
            others = tuple(axis for axis, name in enumerate(names) if name not in bucket.scope)
            known = [name for name in names if name in bucket.scope]
            beyond = beliefs[above.variable].min(others).transpose([known.index(v) for v in bucket.scope])
            belief = belief + (beyond - bucket.left)[..., None]
        else:
            belief = belief + (constant - float(bucket.left))
        beliefs[bucket.variable] = belief
        found[bucket.variable] = belief.min(tuple(range(len(bucket.scope))))
    return found


def _eliminated(
    order: Sequence[int], alone: Sequence[Values], pairs: Pairs
) -> tuple[list[_Bucket], list[tuple[tuple[int, ...], Values]]]:
    """The buckets of the variables in this order, and the tables that none of them was in."""
    factors: list[tuple[tuple[int, ...], Values]] = [((g,), values) for g, values in enumerate(alone)]
    factors += list(pairs.items())
    buckets = []
    for variable in order:
        inside = [factor for factor in factors if variable in factor[0]]
        factors = [factor for factor in factors if variable not in factor[0]]
        scope = tuple(sorted({v for names, _ in inside for v in names} - {variable}))
        table = _joined(inside, (*scope, variable))
        buckets.append(_Bucket(variable, scope, table, table.min(-1)))
        if scope:
            factors.append((scope, buckets[-1].left))
    return buckets, factors


def elimination_order(sizes: Sequence[int], pairs: Pairs) -> _Order:
    """The variable whose table is smallest goes first; where one gets too large, those with few neighbours alone."""
    full = _greedy(sizes, pairs, most_neighbours=len(sizes))
    return full if not full.core else _greedy(sizes, pairs, most_neighbours=2)


def _greedy(sizes: Sequence[int], pairs: Pairs, most_neighbours: int) -> _Order:
    near: dict[int, set[int]] = {g: set() for g in range(len(sizes))}
    for g, h in pairs:
        near[g].add(h)
        near[h].add(g)
    order: list[int] = []
    while near:
        size, variable = min((prod(sizes[u] for u in found) * sizes[v], v) for v, found in near.items())
        if len(near[variable]) > most_neighbours:
            able = [(prod(sizes[u] for u in f) * sizes[v], v) for v, f in near.items() if len(f) <= most_neighbours]
            size, variable = min(able, default=(LARGEST + 1, -1))
        if size > LARGEST:
            break
        around = near.pop(variable)
        for other in around:
            near[other] |= around - {other}
            near[other].discard(variable)
        order.append(variable)
    return _Order(tuple(order), tuple(sorted(near)))


def _joined(bucket: Sequence[tuple[tuple[int, ...], Values]], scope: tuple[int, ...]) -> Values:
    """The sum of tables as one over `scope`, the small ones first."""
    total: Values = np.zeros((1,) * len(scope))
    for names, table in sorted(bucket, key=lambda factor: factor[1].size):
        axes = sorted(range(len(names)), key=lambda axis: scope.index(names[axis]))
        shape = [1] * len(scope)
        for axis, name in enumerate(names):
            shape[scope.index(name)] = table.shape[axis]
        total = total + table.transpose(axes).reshape(shape)
    return total


class _Messages:
    """TRW-S over variables in their order, of tables over one and two of them.

    `places` are the best that were met, `bound` the best lower bound.
    """

    def __init__(self, variables: tuple[int, ...], factors: Sequence[tuple[tuple[int, ...], Values]]) -> None:
        self.variables = variables
        self.own: dict[int, Values] = {}
        self.tables: dict[tuple[int, int], Values] = {}
        for names, table in factors:
            if len(names) == 1:
                self.own[names[0]] = self.own.get(names[0], 0.0) + table
            else:
                self.tables[names[0], names[1]] = self.tables.get((names[0], names[1]), 0.0) + table
        self.edges = list(self.tables)
        self.near: dict[int, list[int]] = {g: [] for g in variables}
        for g, h in self.edges:
            self.near[g].append(h)
            self.near[h].append(g)
            self.tables[h, g] = np.ascontiguousarray(self.tables[g, h].T)
        self.messages = {(g, h): np.zeros(len(self.own[h])) for g, h in self.tables}
        self.places, self.least, self.bound = dict.fromkeys(variables, 0), np.inf, -np.inf

    def sweep(self) -> None:
        """Send messages forth and back until the bound stands."""
        for _ in range(SWEEPS):
            before = self.bound
            for line in (self.variables, self.variables[::-1]):
                self.bound = max(self.bound, self._pass(line))
            if self.least - self.bound <= 1e-9 * abs(self.least) or self.bound - before <= 1e-5 * abs(self.bound):
                break

    def _pass(self, line: tuple[int, ...]) -> float:
        lower, now = 0.0, dict[int, int]()
        for g in line:
            belief = self.own[g] + sum(self.messages[h, g] for h in self.near[g])
            done = [h for h in self.near[g] if h in now]
            ahead = [h for h in self.near[g] if h not in now]
            picked = self.own[g] + sum(self.tables[h, g][now[h]] for h in done)
            picked = picked + sum(self.messages[h, g] for h in ahead)
            now[g] = int(np.argmin(picked))
            lower += float(belief.min())
            share = (belief - belief.min()) / max(1, len(done), len(ahead))
            for h in ahead:
                sent = (self.tables[h, g] + (share - self.messages[h, g])).min(1)
                lower += float(sent.min())
                self.messages[g, h] = sent - sent.min()
        total = sum(float(self.own[g][i]) for g, i in now.items())
        total += sum(float(self.tables[g, h][now[g], now[h]]) for g, h in self.edges)
        if total < self.least:
            self.least, self.places = total, now
        return lower

    def floors(self) -> list[Values]:
        """What no sum with a place is below, by what the messages made of the tables."""
        beliefs = [self.own[g] + sum(self.messages[h, g] for h in self.near[g]) for g in self.variables]
        bound = sum(float(belief.min()) for belief in beliefs)
        for g, h in self.edges:
            rest = self.tables[g, h] - self.messages[h, g][:, None] - self.messages[g, h][None, :]
            bound += float(rest.min())
        return [bound + belief - belief.min() for belief in beliefs]
