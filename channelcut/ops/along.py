"""Ops along some axes: channels that lie along none of them are worked on one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import specs
from channelcut.core.reasons import DECIDE_ABOUT_OTHERS, HARD_CODED_POSITION, Reason
from channelcut.ops.call import Call
from channelcut.ops.registry import know, rule


def touches(call: Call, ids: Tensor, axes: Iterable[int], name: str = "") -> bool:
    """Whether channels lie along any of these axes; of several values each has a name."""
    chosen = sorted({axis % ids.dim() for axis in axes}) if ids.dim() else []
    return call.decide(f"{name} along {chosen}", bool(set(chosen) & set(I.varying_axes(ids))))


def resized(ids: Tensor, axes: Iterable[int], shape: Sequence[int]) -> Tensor:
    """Ids that do not vary along `axes`, with the extents of `shape` there."""
    for axis in {axis % ids.dim() for axis in axes}:
        ids = ids.narrow(axis, 0, 1) if ids.shape[axis] else ids.new_zeros(()).expand([1] * ids.dim())
    return ids.expand(tuple(shape))


def axes_of(dims: Any, count: int) -> list[int]:
    """The axes that an argument names; all of them where it names none."""
    if dims is None or dims == []:
        return list(range(count))
    return [axis % count for axis in ([dims] if isinstance(dims, int) else dims)]


def ends(call: Call, ids: Tensor, axes: Sequence[int]) -> bool:
    """Whether channels lie along these axes and along no other, so that nothing of them is left."""
    varying = set(I.varying_axes(ids))
    return call.decide("channels end", bool(varying) and varying <= {axis % ids.dim() for axis in axes})


def joined_along(call: Call, ids: Tensor, axes: Sequence[int]) -> Tensor:
    """What is worked on together along these axes lives and dies together, as the copies of a split attention."""
    for axis in axes:
        ids = call.bind_along(ids, axis % ids.dim())
    return ids


def beside(call: Call, ids: Tensor, axes: Sequence[int], reason: Reason) -> Any:
    """Every output has the ids of the input, which end where an axis is gone; channels along `axes` are pinned."""
    if ends(call, ids, axes):
        call.pin(ids, reason)
        return call.fixed()
    ids = joined_along(call, ids, axes)
    found = []
    for spec in specs(call.node.value):
        small = ids
        if len(spec.shape) < ids.dim():
            for axis in sorted({axis % ids.dim() for axis in axes}, reverse=True):
                small = small.select(axis, 0)
        found.append(call.spread(resized(small, axes if small is ids else (), _shape(small, axes, spec.shape, ids))))
    return tuple(found) if call.several else found[0]


def _shape(small: Tensor, axes: Sequence[int], shape: tuple[int, ...], ids: Tensor) -> tuple[int, ...]:
    """The extents of an output along the axes that are worked on, those of the ids along the others."""
    if small.dim() != ids.dim():
        return tuple(small.shape)
    worked = {axis % ids.dim() for axis in axes}
    return tuple(shape[axis] if axis in worked else extent for axis, extent in enumerate(ids.shape))


@rule(
    "aten.topk", "aten.sort", "aten.argsort", "aten.kthvalue", "aten.median", "aten.nanmedian", "aten.mode",
    "aten.argmax", "aten.argmin", "aten.cumsum", "aten.cumprod", "aten.cummax", "aten.cummin", "aten.logcumsumexp",
    "aten.diff", "aten.cumulative_trapezoid", "aten.trapezoid", "aten.trapz", "aten.fft_fft", "aten.fft_ifft",
    "aten.fft_rfft", "aten.fft_irfft", "aten.fft_hfft", "aten.fft_ihfft", "aten.fft_fft2", "aten.fft_ifft2",
    "aten.fft_rfft2", "aten.fft_irfft2", "aten.fft_fftn", "aten.fft_ifftn", "aten.fft_rfftn", "aten.fft_irfftn",
    "aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c", "aten.fft_fftshift", "aten.fft_ifftshift",
    "aten.fft_hfft2", "aten.fft_hfftn", "aten.fft_ihfft2", "aten.fft_ihfftn",
)  # fmt: skip
def along(call: Call) -> Any:
    """Searches, running results and Fourier transforms along axes: over the channels every one decides about all."""
    ids = call.activation(next(iter(call.arguments.values())))
    return beside(call, ids, axes_of(call.get("dim"), ids.dim()), DECIDE_ABOUT_OTHERS)


know("aten.topk", "aten.sort", ties=True)


@rule("aten.msort")
def sorted_rows(call: Call) -> Any:
    """A sort along the first axis."""
    return beside(call, call.ids("self"), [0], DECIDE_ABOUT_OTHERS)


@rule("aten.rot90")
def quarter_turn(call: Call) -> Any:
    """Positions change places along two axes."""
    return beside(call, call.ids("self"), call["dims"], HARD_CODED_POSITION)


@rule("aten.diagonal", "aten.linalg_diagonal")
def diagonal(call: Call) -> Any:
    """Of two axes the positions that are equal along both, as the last axis."""
    ids = call.ids("self" if "self" in call.arguments else "A")
    axes = [call["dim1"] % ids.dim(), call["dim2"] % ids.dim()]
    if touches(call, ids, axes):
        call.pin(ids, HARD_CODED_POSITION)
        return call.fixed()
    for axis in sorted(axes, reverse=True):
        ids = ids.select(axis, 0)
    return call.spread(ids.unsqueeze(-1))


@rule("aten.diag_embed")
def on_a_diagonal(call: Call) -> Any:
    """The last axis becomes the diagonal of two."""
    ids = call.ids("self")
    if touches(call, ids, [-1]):
        call.pin(ids, HARD_CODED_POSITION)
        return call.fixed()
    ids = ids.select(-1, 0)
    for axis in sorted(axis % len(call.shape) for axis in (call["dim1"], call["dim2"])):
        ids = ids.unsqueeze(axis)
    return call.spread(ids)


@rule("aten.linalg_cross", "aten.cross")
def cross_product(call: Call) -> Any:
    """Three coordinates along an axis; along the others element by element."""
    ids = call.bind(call.ids("self"), call.ids("other"))
    dim = call.get("dim")
    axes = axes_of(next(a for a, e in enumerate(ids.shape) if e == 3) if dim is None else dim, ids.dim())
    return beside(call, ids, axes, DECIDE_ABOUT_OTHERS)


@rule("aten.view_as_real")
def as_pairs(call: Call) -> Any:
    """A new last axis for the real and the imaginary part."""
    return call.spread(call.ids("self").unsqueeze(-1))


@rule("aten.view_as_complex")
def from_pairs(call: Call) -> Any:
    """The last axis holds the real and the imaginary part."""
    ids = call.ids("self")
    if touches(call, ids, [-1]):
        call.pin(ids, HARD_CODED_POSITION)
        return call.fixed()
    return ids.select(-1, 0)
