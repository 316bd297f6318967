"""What the rules say of one model, and what was found out since: plain data that nobody changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.graph import Graph, Site
from channelcut.core.groups import Role
from channelcut.core.reasons import Reason
from channelcut.coupling.binding import conflicts, edges

Place = tuple[int, int]
"""The number of a run and the index of a node in its graph."""


@dataclass(frozen=True)
class CoupleOptions:
    """How channels are coupled.

    grouped: a grouped convolution loses whole `groups`, or the same number of channels (`offsets`) of every group;
        `auto`: whole groups, but where none of them could go.
    offsets: the weights that lose channels of every group under `auto`.
    alone: the tensors of positions that lose positions by themselves: the channels that they pick stay.
    free_outputs: patterns of paths in the forward's result (`*.feats.*`) whose channels may go, because whoever reads
        these tensors does not count them.
    """

    grouped: Literal["auto", "groups", "offsets"] = "auto"
    offsets: frozenset[str] = frozenset()
    alone: frozenset[str] = frozenset()
    free_outputs: tuple[str, ...] = ()

    def whole_groups(self, weight: str) -> bool:
        """Whether a grouped convolution with this weight loses whole groups."""
        return self.grouped == "groups" or (self.grouped == "auto" and weight not in self.offsets)


@dataclass(frozen=True)
class Run:
    """A graph and the ids of its nodes' values."""

    graph: Graph
    values: Mapping[int, Any]


@dataclass(frozen=True)
class RawSlot:
    """A slot before the channels are known: the ids along one axis of a tensor, shape (extent,)."""

    tensor: str
    axis: int
    ids: Tensor
    role: Role


@dataclass(frozen=True)
class RawWork:
    """Multiply-accumulates of a call before the channels are known."""

    macs: float
    rows: Tensor
    columns: Tensor
    site: Site
    run: int
    node: int


@dataclass(frozen=True)
class RawIndex:
    """A tensor of positions before the channels are known: its values, and the ids of the line that they pick from."""

    values: NDArray[np.int64]
    line: Tensor


@dataclass(frozen=True, eq=False)
class Equal:
    """Pieces, each a line of ids, that must keep equal counts."""

    pieces: tuple[Tensor, ...]
    site: Site


@dataclass(frozen=True, eq=False)
class Rectangle:
    """A value whose channels vary along several axes, of which the last alone may lose elements."""

    ids: Tensor
    site: Site


@dataclass(frozen=True)
class PinRequest:
    """Ids that stay, with the reason and the place; `check` found it, or `rules` said so."""

    reason: Reason | str
    site: Site
    ids: NDArray[np.int64]
    remedy: str
    check: str = "rules"


@dataclass(frozen=True)
class Bind:
    """Lines of ids of one length that live and die together by position, `instead_of` equal counts where it says so."""

    lines: tuple[Tensor, ...]
    instead_of: Equal | Rectangle | None
    reason: Reason
    site: Site
    check: str


@dataclass(frozen=True)
class Table:
    """What each of some lanes keeps, by a width; `lanes` hold an id of each of their channels, the full width is last.

    The lanes keep no equal shares.
    """

    lanes: tuple[NDArray[np.int64], ...]
    counts: Mapping[int, tuple[int, ...]]
    site: Site
    check: str


Request = Bind | PinRequest | Table
"""What a check asks for: to bind more tightly, to pin, or that lanes keep what a table says."""


@dataclass(frozen=True)
class Constraints:
    """Which ids belong together, which keep equal counts, which stay, which lanes keep what a table says; `requests`
    are what checks have added.
    """

    edges: tuple[NDArray[np.int64], ...] = ()
    equal: tuple[Equal, ...] = ()
    rectangles: tuple[Rectangle, ...] = ()
    pins: tuple[PinRequest, ...] = ()
    tables: tuple[Table, ...] = ()
    requests: tuple[Request, ...] = ()

    def refined(self, requests: Sequence[Request]) -> Constraints:
        """These constraints and what a check asks for."""
        added: list[NDArray[np.int64]] = []
        pins = [request for request in requests if isinstance(request, PinRequest)]
        binds = [request for request in requests if isinstance(request, Bind)]
        gone = {id(bind.instead_of) for bind in binds}  # what is bound position by position needs no equal counts
        for bind in binds:
            first, *others = bind.lines
            for line in others:
                added += edges(first, line)
                pins += [
                    PinRequest(bind.reason, bind.site, ids, bind.reason.remedy, bind.check)
                    for ids in conflicts(first, line)
                ]
        return replace(
            self,
            edges=(*self.edges, *added),
            equal=tuple(item for item in self.equal if id(item) not in gone),
            rectangles=tuple(item for item in self.rectangles if id(item) not in gone),
            pins=(*self.pins, *pins),
            tables=(*self.tables, *(request for request in requests if isinstance(request, Table))),
            requests=(*self.requests, *requests),
        )


@dataclass(frozen=True)
class Facts:
    """What the rules said of the runs of one model (evaluation, training), which share the ids of parameters.

    `count`: ids 1 ... count - 1 are there. `slots` by tensor and axis, `indices` by tensor. `lines` are what slices and
    splits cut out of a line of channels, so that no lane reaches across such a cut. `bounds`: the line before (sign 1)
    or after (-1) an end of a slice. `divisions`: the places that cut a value into pieces along channels, with the axis.
    `minted`: the ids that were made at a place, and `decisions` what rules found out about ids there, both for the
    checker.
    """

    runs: tuple[Run, ...]
    count: int
    slots: Mapping[tuple[str, int], RawSlot]
    indices: Mapping[str, RawIndex]
    constraints: Constraints
    lines: tuple[Tensor, ...]
    bounds: Mapping[tuple[Place, str], tuple[Tensor, int]]
    divisions: Mapping[int, Sequence[tuple[int, int]]]
    minted: Mapping[Place, Sequence[Tensor]]
    decisions: Mapping[tuple[Place, str], bool]
    work: tuple[RawWork, ...]
    options: CoupleOptions
