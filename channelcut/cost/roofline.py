"""Milliseconds without a device at hand: the roofline of each layer (Williams, Waterman and Patterson 2009).

    t(layer) = max(multiply-accumulates / peak rate, bytes / bandwidth)

The channels that a layer reads and writes are rounded up to the device's tile, and on a GPU its output is cut into
blocks that are dealt to the multiprocessors in waves, of which the last may be nearly empty ("wave quantization",
https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/). Activations count in the
bytes: what is read, what is written, and the weights. Between layers, what has a kernel of its own (concatenation,
pooling, softmax) reads and writes at the bandwidth; what runs in the kernel before it (norms, activations) is free,
and a sum of two values reads the second one.

This tells widths apart. It is no prediction: launches, caches and the quality of kernels are not in it. A device that
is there is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from channelcut.core.graph import Node, specs
from channelcut.core.groups import Groups, Ids, Work
from channelcut.core.ids import compact
from channelcut.core.inputs import check_kind
from channelcut.core.trees import leaves
from channelcut.cost.bilinear import shares_of
from channelcut.cost.deployed import deployed_nodes
from channelcut.cost.devices import BYTES, Device, device_named
from channelcut.cost.parts import Part, Parts
from channelcut.cost.protocol import Pairwise, Values, Widths
from channelcut.ops.registry import op

BLOCKS = ((256, 128), (128, 128), (128, 64), (64, 64), (64, 32))  # positions and channels that a multiprocessor takes


@dataclass(frozen=True)
class Layer:
    """A layer: what it takes is a function of the channels that it reads and writes.

    each: multiply-accumulates for one channel read and one written, 0 channels counting as one.
    positions: at which it writes. reads, writes, weights: bytes in all at full width.
    cin, cout: the channels as linear functions of widths, [constant, coefficient of each group], shape (1 + groups,).
    sums: whether it sums over the channels that it reads. Several layers at once have arrays in these places.
    """

    name: str
    each: float | Values
    positions: float | Values
    reads: float | Values
    writes: float | Values
    weights: float | Values
    cin: Values
    cout: Values
    full: tuple[float | Values, float | Values]
    sums: bool | NDArray[np.bool_]

    def ms(self, device: Device, precision: str, cin: Values, cout: Values, *, smooth: bool = False) -> Values:
        """Its time with these channels, arrays of one shape, 0 without any; `smooth`: those it reads not rounded."""
        tile, there = device.tiles[precision], (cin > 0) & (cout > 0)
        cin, cout = np.where(there, cin, 1.0), np.where(there, cout, 1.0)  # no layer has no waves to be dealt in
        read, written = cin if smooth else _up(cin, tile), _up(cout, tile)
        macs = self.each * np.where(self.sums, read, 1.0) * written
        rate = np.where(self.sums, device.rates[precision], device.plain)
        if device.processors:
            macs = macs / _used(self.positions, written, device.processors)
        share_in, share_out = cin / self.full[0], cout / self.full[1]
        moved = self.reads * share_in + self.writes * share_out
        moved = moved + self.weights * share_out * np.where(self.sums, share_in, 1.0)
        found: Values = 1e3 * np.maximum(macs / rate, moved / device.bandwidth)
        return np.where(there, found, 0.0)


@dataclass(frozen=True)
class RooflineCost:
    """Milliseconds of one network on one device; calling it gives them for given widths.

    others: the time of what is no layer as a linear function of widths, as `Layer.cin`.
    """

    device: Device
    precision: str
    layers: tuple[Layer, ...]
    others: Values

    @property
    def words(self) -> str:
        """What the times are of."""
        return f"{self.device.name} in {self.precision}, by its description: nothing was timed on it"

    @property
    def step(self) -> int:
        """The multiple of channels below which nothing is won."""
        return self.device.tile(self.precision)

    def __call__(self, widths: Widths) -> float:
        """The milliseconds when group g keeps widths[g] steps, shape (groups,)."""
        return float(self._each(widths).sum() + self.others @ np.concatenate([[1.0], widths]))

    def by_layer(self, widths: Widths) -> dict[str, float]:
        """The milliseconds of each layer by its place."""
        found: dict[str, float] = {}
        for layer, ms in zip(self.layers, self._each(widths).tolist(), strict=True):
            found[layer.name] = found.get(layer.name, 0.0) + ms
        return found

    def _each(self, widths: Widths) -> Values:
        """The milliseconds of each layer, shape (layers,)."""
        if not self.layers:
            return np.zeros(0)
        w, together = np.concatenate([[1.0], widths]), self._together
        return together.ms(self.device, self.precision, together.cin @ w, together.cout @ w)

    @cached_property
    def _together(self) -> Layer:
        """All layers at once, which takes numpy as long as one."""
        cin, cout = (np.stack([getattr(layer, side) for layer in self.layers]) for side in ("cin", "cout"))
        names = ("each", "positions", "reads", "writes", "weights")
        parts = {name: np.array([getattr(layer, name) for layer in self.layers]) for name in names}
        full = np.array([layer.full for layer in self.layers]).T
        sums = np.array([layer.sums for layer in self.layers])
        return Layer("all", **parts, cin=cin, cout=cout, full=(full[0], full[1]), sums=sums)

    def on(self, groups: Groups) -> RooflineCost:
        """The same of another coupling of the network, some of whose groups have been pinned since."""
        return roofline(groups, self.device, self.precision)

    def without(self, modules: Sequence[str]) -> RooflineCost:  # noqa: ARG002
        """The same for the network without the layers of these modules: `on` reads its coupling, which has none."""
        return self

    def pairwise(self, steps: Sequence[Widths]) -> Pairwise:
        """The same as sums over groups and pairs, see `Parts.pairwise`."""
        return self.parted().pairwise(steps)

    def parted(self) -> Parts:
        """Its layers, and the others as a linear function of widths."""
        return Parts(self.others, tuple(self._part(layer) for layer in self.layers))

    def _part(self, layer: Layer) -> Part:
        ms = partial(layer.ms, self.device, self.precision)
        # Through steps that are rounded up a line would lie half a tile too high.
        return Part(layer.name, layer.cin, layer.cout, ms, partial(ms, smooth=True))


def roofline(groups: Groups, device: str | Device, precision: str = "fp16") -> RooflineCost:
    """The roofline cost of a network.

    Args:
        groups: its coupling, with the work of the deployed form (`cost.deployed_costs`).
        device: one of `cost.devices.DEVICES`, or a description of another.
        precision: `fp32`, `fp16` or `int8`.

    Raises:
        UserError: the device or the precision is not known, or `groups` is something else.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)).eval()
        >>> groups = cc.analyze(model, torch.rand(1, 3, 32, 32))
        >>> cost = roofline(groups, "orin-nano", "fp16")
        >>> cost(np.array([33])) == cost(np.array([40])) < cost(np.array([64]))
        True
    """
    check_kind(groups, Groups, "groups", "channelcut.analyze")
    described = device if isinstance(device, Device) else device_named(device)
    described.check(precision)
    width, nodes = BYTES[precision], groups.graph.nodes
    work = {w.node: w for w in groups.work}
    layers, others = [], np.zeros(1 + len(groups.groups))
    for index in sorted(deployed_nodes(groups)):
        node = nodes[index]
        if index in work:
            layers.append(_layer(groups, work[index], node, width))
        elif moved := list(_moved(groups, node)):
            others += sum(width * _elements(nodes[i]) * _form(groups, _channels(groups, i)) for i in moved)
    return RooflineCost(described, precision, tuple(layers), others * 1e3 / described.bandwidth)


def _layer(groups: Groups, work: Work, node: Node, width: int) -> Layer:
    """What a call with multiply-accumulates takes."""
    nodes = groups.graph.nodes
    read = [ref.index for ref in node.inputs if nodes[ref.index].kind != "state"]
    state = [specs(nodes[ref.index].value)[0].shape for ref in node.inputs if nodes[ref.index].kind == "state"]
    taps = prod(max(state, key=len)[2:]) if state else 1
    sums = len(work.columns) > 0
    columns = work.columns if sums else _channels(groups, read[0])
    rows = work.rows if len(work.rows) else _channels(groups, node.index)
    # Channels of which none could go, such as an image's, are one extent that is fixed.
    depth = float(len(columns)) if len(columns) > 1 or not sums else max(1.0, work.macs / _elements(node) / taps)
    full = depth, float(len(rows))
    return Layer(
        name=f"{node.site.module or node.name}",
        each=work.macs / full[1] / (full[0] if sums else 1.0),
        positions=_elements(node) / full[1],
        reads=width * sum(map(_elements, (nodes[i] for i in read))),
        writes=width * _elements(node),
        weights=width * sum(map(prod, state)),
        cin=full[0] * _form(groups, columns),
        cout=full[1] * _form(groups, rows),
        full=full,
        sums=sums,
    )


def _moved(groups: Groups, node: Node) -> Iterator[int]:
    """The values that a call without multiply-accumulates reads from memory or writes to it."""
    nodes = groups.graph.nodes
    known, target = op(node.name), node.target
    read = sorted({ref.index for ref in node.inputs if nodes[ref.index].kind in ("input", "call")}, key=lambda i: -i)
    if not read or node.name == "getitem" or known.layout or known.stored_statistics or known.checked:
        return
    if getattr(target, "is_view", False):
        return
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        yield from read[1:]  # in the kernel of what came last before it
    else:
        yield from (*read, node.index)


def _elements(node: Node) -> int:
    return prod(specs(node.value)[0].shape)  # of several outputs the first: others are statistics and positions


def _channels(groups: Groups, index: int) -> Ids:
    """The channels along the axes of a value that has any; one that is fixed where it has none."""
    found = [compact(ids).reshape(-1).numpy() for ids in leaves(groups.channels_of(index)) if torch.is_tensor(ids)]
    return np.concatenate([np.zeros(0, np.int64), *found]) if found else np.zeros(1, np.int64)


def _form(groups: Groups, channels: Ids) -> Values:
    """The kept share of an extent as a linear function of widths."""
    share = shares_of([channels], groups)
    return np.concatenate([share.constant, share.matrix.toarray()[0]])


def _up(channels: Values, tile: int) -> Values:
    rounded: Values = np.ceil(channels / tile - 1e-9) * tile
    return rounded


def _used(positions: float | Values, channels: Values, processors: int) -> Values:
    """The part of the multiprocessors' time in which they compute what is asked for, with the blocks that suit best."""
    parts = []
    for high, wide in BLOCKS:
        blocks = np.ceil(positions / high) * np.ceil(channels / wide - 1e-9)
        parts.append(positions * channels / (np.ceil(blocks / processors) * processors * high * wide))
    used: Values = np.max(parts, axis=0)
    return used
