"""What the coupling found: channels, the groups they form, and the pins that keep the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.graph import Graph, Site, is_named, named_outputs
from channelcut.core.ids import compact
from channelcut.core.trees import mapped_only
from channelcut.core.unused import unused_words

Ids = NDArray[np.int64]


class Role(str, Enum):
    """What an axis of a parameter is to the channels along it."""

    OUT = "out"  # a weight that produces them
    IN = "in"  # a weight that reads them and mixes them
    DEPTHWISE = "depthwise"  # one filter for each
    GROUP = "group"  # a grouped convolution of which whole groups go
    NORM = "norm"  # scales, shifts and statistics of a norm
    BIAS = "bias"
    PARAM = "param"  # any other parameter or buffer

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter or buffer, and the channel that each position along it belongs to.

    `channels` has shape (extent of the axis,); 0 is no removable channel.
    """

    tensor: str
    axis: int
    channels: Ids
    role: Role


@dataclass(frozen=True)
class Pin:
    """Why channels cannot be removed, where that was decided, and what would free them; `channels` are ascending."""

    reason: str
    op: str
    module: str
    source: str
    channels: Ids
    remedy: str = ""

    @property
    def site(self) -> Site:
        """Where it was decided."""
        return Site(self.op, self.module, self.source)

    def __str__(self) -> str:
        """Read as `network output: aten.conv2d in head.cls (head.py:31), 80 channels`."""
        return f"{self.reason}: {self.site}, {len(self.channels)} channels"


@dataclass(frozen=True)
class Group:
    """Channels with the same slots, or in lanes that must each keep the same share.

    A group usually has one lane; a `chunk` into pieces that go different ways makes one lane a piece, and the heads
    of an attention one lane a head. A lane of `n * width` channels keeps `n` times what one of `width` channels
    keeps. Of a lane of `width * step` channels a multiple of `step` is kept, because the forward asks for one
    (`assert c % 4 == 0`).

    Where lanes have no common divisor the forward's own splits say how many each keeps: halves of 29 are 15 and 14,
    those of 24 are 12 and 12. Then `table` holds the number that each lane keeps, by the width: how many of
    the group's channels stand in a slot, divided by the greatest common divisor of these numbers. A width that is not
    in it is not admissible.
    """

    index: int
    name: str
    lanes: tuple[Ids, ...]
    slots: tuple[int, ...]
    step: int = 1
    table: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Steps in which the group can lose channels: the greatest common divisor of its lanes' lengths, by `step`.

        With a `table`, the greatest common divisor of the numbers of its channels in each slot.
        """
        return max(self.table) if self.table else math.gcd(*(len(lane) for lane in self.lanes)) // self.step

    @property
    def widths(self) -> Ids:
        """The widths that it may have, ascending, shape (widths,); the last one is `width`."""
        return np.array(sorted(self.table) or range(1, self.width + 1), dtype=np.int64)

    def counts(self, width: int) -> tuple[int, ...]:
        """How many channels each lane keeps at one of `widths`."""
        return self.table[width] if self.table else tuple(len(lane) * width // self.width for lane in self.lanes)

    def kept_width(self, kept: NDArray[np.bool_]) -> int:
        """The width that is left when the channels marked in `kept` are."""
        if not self.table:
            first = self.lanes[0]
            return int(kept[first].sum()) * self.width // len(first)
        counts = tuple(int(kept[lane].sum()) for lane in self.lanes)
        return next(width for width, found in self.table.items() if found == counts)

    @property
    def channels(self) -> Ids:
        """All channels of all lanes, shape (lanes * width,)."""
        return np.concatenate(self.lanes)


@dataclass(frozen=True)
class Follower:
    """An integer that a module keeps and that follows widths: constant + Σ coefficient · kept share of a group.

    `terms` holds pairs (index of a group, coefficient).
    """

    module: str
    attribute: str
    constant: float
    terms: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Index:
    """A tensor of one axis by which the forward picks channels: its `values` are positions along a line of `channels`.

    It has a slot, as other tensors have: a position goes with the channel that it picks. The values that are left are
    numbered anew.
    """

    tensor: str
    values: Ids
    channels: Ids


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one call, and the channels that its cost is proportional to.

    macs(kept) = macs * kept(rows) / len(rows) * kept(columns) / len(columns); an empty array is a fixed extent.
    `node`: the call in the graph.
    """

    macs: float
    rows: Ids
    columns: Ids
    site: Site
    node: int = -1


@dataclass(frozen=True)
class Finding:
    """One thing that the analysis found out beyond what the rules say, in the order in which it did.

    `check` is who found it (`equations`, `replay`, `counts`, `steps`, `probe`), `effect` what follows: a `bind` (these
    live and die together), a `tie` (these keep equal shares), `counts` (these keep in each lane what the forward's own
    splits give it) or a `pin` (these stay); `channels` are ascending.
    """

    check: str
    effect: str
    reason: str
    site: Site
    channels: Ids

    def __str__(self) -> str:
        """Read as `replay: bind 24 channels at aten.view in 3 (net.py:8): channels would come out of order`."""
        return f"{self.check}: {self.effect} {len(self.channels)} channels at {self.site}: {self.reason}"


@dataclass(frozen=True)
class Arrival:
    """Where a cut network has its channels in another order than the original: of a slot, and of a node's value.

    Only what is in another order is there: the channel of each position of a slot by tensor and axis, shape (kept
    extent,), and of each element of a value by the index of the node in the original's graph, in the cut value's shape.
    """

    slots: Mapping[tuple[str, int], Ids] = field(default_factory=dict)
    values: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Groups:
    """Everything that can be removed together, everything that cannot, and why.

    `followers` are the numbers in modules that have to be refreshed after a cut, `indices` the tensors whose positions
    have to be, `free_outputs` patterns of the outputs that may lose channels, `findings` what was found out on the way,
    `unused` the parameters that the forward never reads: they are neither cut nor pinned. `deploy` is which form of the
    network is deployed, `undeployed` the parameters that this form lacks; `work` is that form's alone.
    `uncounted` says why outputs may lose channels that nobody named. `arrange` tells where what is left of groups with
    a table comes in another order; None where no group has one.
    """

    groups: tuple[Group, ...]
    pins: tuple[Pin, ...]
    slots: tuple[Slot, ...]
    work: tuple[Work, ...]
    channel_count: int
    graph: Graph
    shapes: Mapping[str, tuple[int, ...]]
    followers: tuple[Follower, ...] = ()
    indices: tuple[Index, ...] = ()
    free_outputs: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    unused: tuple[str, ...] = ()
    deploy: Deploy = DEFAULT
    undeployed: tuple[str, ...] = ()
    uncounted: str = ""
    arrange: Callable[[NDArray[np.bool_]], Arrival] | None = field(default=None, repr=False)
    _ids: Mapping[int, Any] = field(default_factory=dict, repr=False)
    _channel_of: Ids = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)

    def __str__(self) -> str:
        """The largest groups, the pins by reason, and the numbers of modules that follow."""
        free = sum(len(g.channels) for g in self.groups)
        lines = [f"{len(self.groups)} groups, {free} removable channels, {len(self.pins)} pins"]
        lines[0] += f" ({len(self.graph.calls)} ops traced by {self.graph.front_end})"
        for group in sorted(self.groups, key=lambda g: -len(g.channels))[:10]:
            lanes = f" in {len(group.lanes)} lanes" if len(group.lanes) > 1 else ""
            lines.append(f"  {len(group.channels):5d} channels{lanes}  {group.name}  ({len(group.slots)} slots)")
        if len(self.groups) > 10:
            lines.append(f"  ... and {len(self.groups) - 10} smaller groups")
        for reason, count in Counter(pin.reason for pin in self.pins).most_common():
            found = [pin for pin in self.pins if pin.reason == reason]
            held = len(np.unique(np.concatenate([pin.channels for pin in found])))
            lines.append(f"  pinned: {reason} ({count} places), {held} channels, first at {found[0].site}")
        names = [f"{follower.module}.{follower.attribute}".lstrip(".") for follower in self.followers]
        names += [index.tensor for index in self.indices]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"  follow: {', '.join(names[:3])}{more}")
        if said := self.uncounted_words():
            lines.append(f"  {said}")
        if self.unused:
            plural = "s" if len(self.unused) > 1 else ""
            where = f"{len(self.unused)} parameter{plural} in {unused_words(self.unused)}"
            lines.append(f"  never read by the forward: {where} (entries=[...] names methods that do)")
        return "\n".join(lines)

    def uncounted_words(self) -> str:
        """Which outputs may lose channels because the model's library is known, and why; empty where there are none."""
        names = [name for name, _ in named_outputs(self.graph) if is_named(name, self.free_outputs)]
        if not self.uncounted or not names:
            return ""
        some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        return f"outputs that may lose channels: {some}, because {self.uncounted} (prunable_outputs=[] holds them)"

    def channels_of(self, node: int) -> Any:
        """The channel of each element of a node's value: an int64 tensor with stride 0 along constant axes.

        A node with several outputs gives a tuple of them; what is no tensor comes as it is.
        """
        return mapped_only(Tensor, self._relabelled, self._ids[node])

    def ids_of(self, node: int) -> Any:
        """What stands for a node's value before channels are numbered: ids, or the parameters that it is made of."""
        return self._ids[node]

    def _relabelled(self, ids: Tensor) -> Tensor:
        table = torch.from_numpy(self._channel_of)
        return table[compact(ids).to(torch.int64)].expand(ids.shape)

    def arrival(self, kept: NDArray[np.bool_]) -> Arrival:
        """Where the channels marked in `kept` come in another order than they had."""
        cut = any(group.table and not kept[group.channels].all() for group in self.groups)
        return self.arrange(kept) if cut and self.arrange is not None else Arrival()

    def group_of(self) -> NDArray[np.int64]:
        """Index of the group of each channel, shape (channel_count,); -1 where a channel is pinned or fixed."""
        owner = np.full(self.channel_count, -1, dtype=np.int64)
        for group in self.groups:
            owner[group.channels] = group.index
        return owner
