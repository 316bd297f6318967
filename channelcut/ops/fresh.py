"""Tensors that the forward makes: of one number, of positions, or drawn at random."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from channelcut.core import ids as I
from channelcut.core.graph import Attribute, Extent
from channelcut.core.reasons import RANDOM, TRIANGLE
from channelcut.core.trees import leaves
from channelcut.ops.call import Call
from channelcut.ops.host import State
from channelcut.ops.registry import know, rule

CONSTANT = "zeros ones full empty new_zeros new_ones new_full new_empty new_empty_strided empty_permuted".split()
LIKE = "zeros_like ones_like full_like empty_like _efficientzerotensor".split()
POSITIONS = """
arange range linspace logspace scalar_tensor eye meshgrid tril_indices triu_indices bartlett_window blackman_window
hamming_window hann_window kaiser_window fft_fftfreq fft_rfftfreq one_hot empty_strided vander
""".split()
RANDOM_FACTORIES = "rand randn randint randperm normal".split()
DRAWN = """
rand_like randn_like randint_like bernoulli binomial cauchy exponential geometric log_normal normal poisson random
uniform multinomial _standard_gamma _sample_dirichlet normal_functional
""".split()


@rule(*(f"aten.{name}" for name in CONSTANT), sizes="fresh")
def constant(call: Call) -> Any:
    """One number everywhere: where the extent was taken from channels, the same count of elements goes with them."""
    axis = _following(call)
    return call.fixed() if axis is None else call.along(call.mint(call.shape[axis]), axis)


know("aten.empty_strided", sizes="fresh")


@rule("channelcut.emptied")
def emptied(call: Call) -> Any:
    """A tensor whose memory is given back (`set_()`): nothing of it is left."""
    return call.fixed()


def _following(call: Call) -> int | None:
    """The axis whose extent is a width; a number that a module keeps may be one, where no other axis is."""
    taken: list[int] = []
    kept: list[int] = []
    for axis in range(len(call.shape)):
        sources = [source for origin in call.origins(axis) for source in origin.sources()]
        extents = [source for source in sources if isinstance(source, Extent)]
        if call.decide(f"a width along {axis}", any(call.host.varies(source.node, source.axis) for source in extents)):
            taken.append(axis)
        elif any(isinstance(source, Attribute) for source in sources):
            kept.append(axis)
    if taken or not kept:
        return next(iter(taken), None)
    return 1 if 1 in kept else kept[-1]  # (N, C, ...), or channels last


@rule(*(f"aten.{name}" for name in LIKE))
def like(call: Call) -> Any:
    """One number everywhere, in the shape of another value, which it follows."""
    return call.activation(next(iter(call.arguments.values())))


@rule(*(f"aten.{name}" for name in (*POSITIONS, *RANDOM_FACTORIES)))
def factory(call: Call) -> Any:
    """A tensor made in the forward, whose elements differ; if its shape follows a width, the probe finds out."""
    return call.fixed()


@rule("aten.triu", "aten.tril")
def triangle(call: Call) -> Any:
    """A part of a matrix: a mask of positions, where no channels lie along its rows or columns."""
    ids = call.ids("self")
    if set(I.varying_axes(ids)) & {ids.dim() - 1, ids.dim() - 2}:
        call.pin(ids, TRIANGLE)
        return call.fixed()
    return ids


@rule(*(f"aten.{name}" for name in DRAWN if name not in RANDOM_FACTORIES))
def drawn(call: Call) -> Any:
    """Random numbers, one for each element: fewer elements would draw others."""
    for leaf in leaves(dict(call.arguments)):
        if isinstance(leaf, (Tensor, State)):
            call.pin_value(leaf, RANDOM)
    return call.fixed()
