"""Multiply-accumulates and parameters, as functions of the widths of the groups.

Every term is base · (kept rows / rows) · (kept columns / columns), and the kept rows are linear in the widths, so that
a network with hundreds of layers is evaluated by two sparse products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.groups import Group, Groups, Ids
from channelcut.cost.protocol import Pairwise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """The kept share of an extent for each term: constant + matrix · widths, shapes (terms,), (terms, groups)."""

    constant: Floats
    matrix: csr_matrix

    def at(self, widths: Floats) -> Floats:
        """The shares when group g keeps widths[g] channels in each lane."""
        result: Floats = self.constant + self.matrix @ widths
        return result


@dataclass(frozen=True)
class BilinearCost:
    """cost(widths) = Σ base · rows(widths) · columns(widths); widths has shape (groups,)."""

    base: Floats
    rows: Share
    columns: Share

    def __call__(self, widths: NDArray[np.int64]) -> float:
        """The cost when group g keeps widths[g] channels in each lane."""
        w = widths.astype(np.float64)
        return float(np.sum(self.base * self.rows.at(w) * self.columns.at(w)))

    def on(self, groups: Groups) -> BilinearCost:
        """The same, where it is a function of the widths of that many groups.

        Raises:
            UserError: it is one of others.
        """
        count = self.rows.matrix.shape[1]
        if count != len(groups.groups):
            raise UserError(
                f"The cost is a function of the widths of {count} groups, and there are {len(groups.groups)} here. "
                "Expected one of the same groups; what is excluded, or not deployed, may have changed them."
            )
        return self

    def pairwise(self, steps: Sequence[NDArray[np.int64]]) -> Pairwise:
        """The same, multiplied out: exact."""
        count = len(steps)
        rows, columns = self.rows.matrix.toarray(), self.columns.matrix.toarray()
        linear = (self.base * self.columns.constant) @ rows + (self.base * self.rows.constant) @ columns
        products = rows.T @ (self.base[:, None] * columns)
        widths = [step.astype(np.float64) for step in steps]
        alone = tuple(w * linear[g] + w * w * products[g, g] for g, w in enumerate(widths))
        both = products + products.T
        pairs = {
            (g, h): both[g, h] * np.outer(widths[g], widths[h])
            for g in range(count)
            for h in range(g + 1, count)
            if both[g, h]
        }
        return Pairwise(float(np.sum(self.base * self.rows.constant * self.columns.constant)), alone, pairs)


def shares_of(extents: list[Ids], groups: Groups) -> Share:
    """The kept shares of extents whose positions belong to channels; an empty one is whole."""
    owner = groups.group_of()
    full = np.array([g.width for g in groups.groups], dtype=np.float64)
    constant = np.ones(len(extents))
    entries: list[tuple[int, int, float]] = []
    for term, channels in enumerate(extents):
        if len(channels) == 0:
            continue
        found = owner[channels]
        free = found[found >= 0]
        constant[term] = 1 - len(free) / len(channels)
        counts = np.bincount(free, minlength=len(full)) if len(free) else np.zeros(len(full))
        # Lanes of a group keep equal counts, so every kept unit of width keeps the same share of the group's positions.
        entries += [(term, int(g), counts[g] / len(channels) / full[g]) for g in np.flatnonzero(counts)]
    rows, columns, data = zip(*entries, strict=True) if entries else ((), (), ())
    return Share(constant, csr_matrix((data, (rows, columns)), shape=(len(extents), len(full))))


def macs_cost(groups: Groups) -> BilinearCost:
    """Multiply-accumulates of the deployed forward (convolutions, linear layers, matrix products)."""
    base = np.array([w.macs for w in groups.work], dtype=np.float64)
    return BilinearCost(
        base, shares_of([w.rows for w in groups.work], groups), shares_of([w.columns for w in groups.work], groups)
    )


def params_cost(groups: Groups, sizes: dict[str, int]) -> BilinearCost:
    """Parameters; `sizes` gives the number of elements of each one of the original (shared ones once)."""
    axes: dict[str, list[Ids]] = {name: [] for name in sizes}
    for slot in groups.slots:
        if slot.tensor in axes:
            axes[slot.tensor].append(slot.channels)
    nothing: Ids = np.zeros(0, dtype=np.int64)
    rows = [[*found, nothing][0] for found in axes.values()]
    columns = [[*found, nothing, nothing][1] for found in axes.values()]
    base = np.array(list(sizes.values()), dtype=np.float64)
    return BilinearCost(base, shares_of(rows, groups), shares_of(columns, groups))


def network_costs(model: nn.Module, groups: Groups) -> dict[str, BilinearCost]:
    """Multiply-accumulates and parameters of a model's deployed form as functions of the widths of its groups."""
    gone = set(groups.undeployed)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name not in gone}
    return {"macs": macs_cost(groups), "params": params_cost(groups, sizes)}


def full_widths(groups: tuple[Group, ...]) -> NDArray[np.int64]:
    """The widths of an uncut network, shape (groups,)."""
    return np.array([g.width for g in groups], dtype=np.int64)
