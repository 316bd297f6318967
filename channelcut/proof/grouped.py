"""Convolutions of several groups in float64, as sums over the positions of their kernels.

torch has a kernel for them in float32 alone. In float64 it convolves group by group, and waits for all of its threads
in every one: a depthwise layer of 1,152 channels takes half a minute where other work keeps the cores.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from channelcut.core.schema import bound_arguments
from channelcut.ops.registry import op

_ALONE = 32_767  # elements that torch computes in the thread that asks


def grouped_convolution(name: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What the op gives, where it is a convolution of several groups in float64 on the CPU; None elsewhere."""
    kind = op(name).convolves
    if kind is None:
        return None
    given = bound_arguments(target, args, kwargs)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if given["groups"] == 1 or x.dtype != torch.float64 or x.device.type != "cpu" or not x.numel():
        return None
    transposed = given["transposed"] if kind == "either" else kind == "transposed"
    window = _window(given, tuple(weight.shape[2:]))
    batched = x if x.dim() == weight.dim() else x.unsqueeze(0)
    convolve = _transposed if transposed else _forward
    value = convolve(batched, weight, given["groups"], window)
    if bias is not None:
        value += bias.view(-1, *[1] * (weight.dim() - 2))
    # Views that follow were recorded on torch's layout.
    last = weight.dim() == 4 and (_channels_last(batched) or _channels_last(weight))
    value = value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return value if x.dim() == weight.dim() else value.squeeze(0)


def _channels_last(value: Tensor) -> bool:
    return value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()


@dataclass(frozen=True)
class _Window:
    """How a kernel moves, a number for each axis of space; `before` and `after` are the padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]

    def positions(self) -> list[tuple[int, ...]]:
        """Every position in the kernel."""
        return list(itertools.product(*map(range, self.kernel)))

    def seen(self, value: Tensor, position: Sequence[int], steps: Sequence[int]) -> Tensor:
        """The elements of the padded side that a position of the kernel meets in so many steps along each axis."""
        for axis, (p, d, s, n) in enumerate(zip(position, self.dilation, self.stride, steps, strict=True), -len(steps)):
            value = torch.ops.aten.slice(value, axis, p * d, p * d + (n - 1) * s + 1, s)
        return value


def _window(given: Mapping[str, Any], kernel: tuple[int, ...]) -> _Window:
    def each(name: str, default: int) -> tuple[int, ...]:
        value = given.get(name, default)
        numbers = [value] if isinstance(value, int) else list(value)
        return tuple(numbers * len(kernel) if len(numbers) == 1 else numbers)

    dilation = each("dilation", 1)
    if isinstance(given["padding"], str):
        total = [d * (k - 1) if given["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    else:
        before = after = each("padding", 0)
    return _Window(kernel, each("stride", 1), before, after, dilation, each("output_padding", 0))


def _forward(x: Tensor, weight: Tensor, groups: int, window: _Window) -> Tensor:
    """Weight (O, I/groups, k...): every position of the kernel adds its share to all outputs."""
    sides = [side for pair in zip(reversed(window.before), reversed(window.after), strict=True) for side in pair]
    x = torch.nn.functional.pad(x, sides)
    steps = [
        (extent - d * (k - 1) - 1) // s + 1
        for extent, d, k, s in zip(x.shape[2:], window.dilation, window.kernel, window.stride, strict=True)
    ]
    inputs = _split(x, 1, groups)
    filters = _split(weight, 0, groups)  # (groups, O/groups, I/groups, k...)
    value = x.new_zeros((len(x), groups, filters.shape[1], *steps))
    for part in _parts(value):
        for position in window.positions():
            seen = window.seen(inputs[:, part], position, steps)
            _add(value[:, part], seen, _at(filters[part], position))
    return value.flatten(1, 2)


def _transposed(x: Tensor, weight: Tensor, groups: int, window: _Window) -> Tensor:
    """Weight (I, O/groups, k...): every position of the kernel adds all inputs to its share of the outputs."""
    steps = x.shape[2:]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + max(0, extra - b)
        for n, s, d, k, extra, b in zip(
            steps, window.stride, window.dilation, window.kernel, window.extra, window.before, strict=True
        )
    ]
    inputs = _split(x, 1, groups)
    filters = _split(weight, 0, groups).transpose(1, 2)  # (groups, O/groups, I/groups, k...)
    value = x.new_zeros((len(x), groups, filters.shape[1], *full))
    for part in _parts(value):
        for position in window.positions():
            _add(window.seen(value[:, part], position, steps), inputs[:, part], _at(filters[part], position))
    ends = [
        (n - 1) * s - 2 * b + d * (k - 1) + extra + 1
        for n, s, d, k, extra, b in zip(
            steps, window.stride, window.dilation, window.kernel, window.extra, window.before, strict=True
        )
    ]
    for axis, (b, n) in enumerate(zip(window.before, ends, strict=True), -len(ends)):
        value = value.narrow(axis, b, n)
    return value.flatten(1, 2)


def _split(value: Tensor, axis: int, groups: int) -> Tensor:
    """The axis as groups and what is in each."""
    return value.reshape([*value.shape[:axis], groups, -1, *value.shape[axis + 1 :]])


def _at(filters: Tensor, position: Sequence[int]) -> Tensor:
    """The matrices of one position of the kernel."""
    for step in reversed(position):
        filters = filters.select(-1, step)
    return filters


def _parts(value: Tensor) -> list[slice]:
    """The groups in parts that are small enough to be computed without other threads; all where one is too large."""
    groups, each = value.shape[1], value.numel() // value.shape[1]
    size = groups if each > _ALONE else max(1, _ALONE // max(1, each))
    return [slice(start, start + size) for start in range(0, groups, size)]


def _add(value: Tensor, inputs: Tensor, filters: Tensor) -> None:
    """Add filters (G, o, i) times inputs (N, G, i, space...) to value (N, G, o, space...), in place."""
    space = [1] * (inputs.dim() - 3)
    if filters.shape[2] == 1:
        value.addcmul_(inputs, filters.reshape(*filters.shape[:2], *space))
    else:
        value += torch.matmul(filters, inputs.flatten(3)).reshape(value.shape)
